"""The arithmetic that everything rests on is right on this machine."""

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
import pytest

from robust_info import _known_faults


@pytest.mark.parametrize(
  ("shape", "broadcast"),
  [
    ((4000, 6, 4), (1, 6, 4)),
    ((2, 10_000, 4), (10_000, 4)),
    ((50, 256, 10), (1, 256, 10)),
    ((10, 500, 10), (1, 500, 10)),
  ],
)
def test_fused_broadcast_product_and_sum_is_right(shape, broadcast):
  # jax-ml/jax#39103: jaxlib 0.10.2 is off by the size of the numbers.
  rng = np.random.default_rng(0)
  z, p = rng.normal(size=shape), rng.normal(size=broadcast)

  def centre(z, p):
    p = jnp.broadcast_to(p, z.shape)
    return z - jnp.sum(p * z, axis=-1, keepdims=True)

  found = jax.jit(centre)(z.astype(np.float32), p.astype(np.float32))
  expected = z - (p * z).sum(axis=-1, keepdims=True)
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_a_wrong_version_is_warned_of(monkeypatch):
  monkeypatch.setattr(jaxlib, "__version__", "0.10.2")
  monkeypatch.setenv("XLA_FLAGS", "")
  with pytest.warns(RuntimeWarning, match="silently wrong numbers"):
    _known_faults.warn()


def test_no_warning_where_the_fault_is_switched_off(monkeypatch):
  monkeypatch.setattr(jaxlib, "__version__", "0.10.2")
  monkeypatch.setenv("XLA_FLAGS", _known_faults._SWITCH)
  _known_faults.warn()  # A warning is an error here.
