"""Shared set-up: hostile numerics, several CPU devices, no accelerator."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import hypothesis
import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")

# A change is judged by the same examples every time; people get new ones.
hypothesis.settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
  hypothesis.settings.load_profile("ci")


@pytest.fixture
def x64():
  """Runs a test with 64-bit types enabled."""
  with jax.enable_x64(True):
    yield
