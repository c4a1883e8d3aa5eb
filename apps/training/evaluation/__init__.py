"""Measuring zoo models on held-out prompts."""
