"""Fisher information against stored matrices of kfac-jax (`golden_kfac.py`)."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import robust_info as ri

SUPPORT = pathlib.Path(__file__).parents[1] / "support"
GOLDEN = SUPPORT / "golden_kfac.npz"


@pytest.fixture(scope="module")
def golden():
  with np.load(GOLDEN) as arrays:
    return dict(arrays)


@pytest.fixture(scope="module")
def logits_fn(golden):
  return lambda x: jnp.tanh(x @ golden["first"]) @ golden["second"]


def test_products_are_those_of_kfac(golden, logits_fn):
  product = jax.jit(functools.partial(ri.fisher_vector_product, logits_fn))
  for row, fisher in zip(golden["x"], golden["fisher"], strict=True):
    size = len(row)
    columns = product(np.tile(row, (size, 1)), np.eye(size, dtype=np.float32))
    scale = np.abs(fisher).max()
    np.testing.assert_allclose(columns / scale, fisher / scale, atol=2e-6)


@pytest.mark.parametrize("method", ["gram", "matrix_free"])
def test_norms_are_those_of_kfac(golden, logits_fn, method):
  norms = jax.jit(functools.partial(ri.fisher_norms, logits_fn, method=method))(
    golden["x"]
  )
  eigenvalues = np.linalg.eigvalsh(golden["fisher"].astype(np.float64))
  expected = {
    "trace": eigenvalues.sum(axis=-1),
    "frobenius": np.sqrt((eigenvalues**2).sum(axis=-1)),
    "spectral_norm": eigenvalues[:, -1],
  }
  for name, values in expected.items():
    np.testing.assert_allclose(
      getattr(norms, name), values, rtol=1e-5, err_msg=name
    )
