"""The version, in a file of its own so that packaging need not import jax."""

__version__ = "0.1.0"
