"""Keeping the samples of one prompt apart while a masked-diffusion language model decodes them."""
