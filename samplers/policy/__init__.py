"""Robots under a diffusion policy, in simulation."""
