"""Samplers for language models."""
