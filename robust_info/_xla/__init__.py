"""How programs are compiled, and workarounds for faults of the compiler.

Delete each workaround when its fault is fixed.
"""
