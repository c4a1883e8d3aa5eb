"""Infinity: text-conditional next-scale prediction of bits, arXiv 2412.04431."""
