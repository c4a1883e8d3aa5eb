"""Countdown: three numbers, a target, and the arithmetic that leads from the ones to the other."""
