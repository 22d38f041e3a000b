"""Shared set-up: hostile numerics, little to compile, no accelerator."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Most of the time of the tests is LLVM's: it may do less. What XLA makes of a
# program before that stays as users have it.
os.environ["XLA_FLAGS"] = " ".join(
  [os.environ.get("XLA_FLAGS", ""), "--xla_backend_optimization_level=1"]
).strip()

import hypothesis
import jax
import pytest

from robust_info import _loops

jax.config.update("jax_numpy_rank_promotion", "raise")
# Rolled as on GPU and TPU; test_loops.py compares with the unrolled form.
_loops.MAX_UNROLL_ON_CPU = 1

# A change is judged by the same examples every time; people get new ones.
hypothesis.settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
  hypothesis.settings.load_profile("ci")


@pytest.fixture
def x64():
  """Runs a test with 64-bit types enabled."""
  with jax.enable_x64(True):
    yield
