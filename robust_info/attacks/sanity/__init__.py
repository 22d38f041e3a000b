"""Sanity checks of whether a robust accuracy can be trusted."""
