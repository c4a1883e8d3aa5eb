"""Texts: their rewards, report, view, and how they are shown while they form."""
