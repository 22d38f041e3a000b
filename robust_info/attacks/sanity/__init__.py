"""Checks of whether a robust accuracy can be trusted."""
