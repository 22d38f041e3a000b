"""Benchmarks: speed and parity. Run as `python -m benchmarks.NAME`."""
