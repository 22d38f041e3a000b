"""Shared set-up: hostile numerics, several CPU devices, no accelerator."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def x64():
  """Runs a test with 64-bit types enabled."""
  with jax.enable_x64(True):
    yield
