"""Decoding of masked diffusion language models: orthogonal policies, and diversity."""
