"""Recipes of the profiles that the zoo ships."""
