"""Diffusion Policy: robot actions from noise, by a transformer that sees the last observations."""
