"""Workarounds for the compiler; delete each one when its fault is fixed."""
