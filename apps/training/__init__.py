"""Recipes of zoo models that are learned from searches and so need more than the zoo itself."""
