"""Rewards that judge candidates while they are still noise: recordings, training, weights."""
