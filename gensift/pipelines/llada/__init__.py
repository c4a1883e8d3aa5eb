"""LLaDA: masked diffusion language models."""
