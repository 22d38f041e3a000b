"""Sums over as many inputs as a 224 x 224 x 3 image has, against float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import robust_info as ri
from robust_info._xla import contractions
from robust_info.attacks import _fab, initial, projections, steps
from robust_info.fisher import _gram, _lanczos

SIZE = 224 * 224 * 3
# The terms of a sum are equal, so that rounding errors do not average out.
TOLERANCE = 5e-6


def rows(*shape, kind="equal"):
  if kind == "equal":
    return np.full((*shape, SIZE), SIZE**-0.5, np.float32)
  rng = np.random.default_rng(0)
  return rng.uniform(0.5, 1.5, (*shape, SIZE)).astype(np.float32)


def precise(array):
  return np.asarray(array, np.float64)


@pytest.mark.parametrize("kind", ["equal", "uniform"])
@pytest.mark.parametrize("num_examples", [1, 3])
def test_dots(num_examples, kind):
  u = rows(num_examples, kind=kind)
  v = u[:, ::-1]
  found = jax.jit(contractions.dot)(u, v)
  wanted = (precise(u) * precise(v)).sum(-1)
  np.testing.assert_allclose(found, wanted, rtol=TOLERANCE)


@pytest.mark.parametrize("kind", ["equal", "uniform"])
@pytest.mark.parametrize(
  ("num_rows", "num_examples"), [(1, 1), (1, 4), (2, 1), (9, 2)]
)
def test_gram_matrices(num_rows, num_examples, kind):
  found = jax.jit(contractions.gram)(rows(num_rows, num_examples, kind=kind))
  exact = np.moveaxis(precise(rows(num_rows, num_examples, kind=kind)), 0, 1)
  wanted = exact @ np.swapaxes(exact, 1, 2)
  np.testing.assert_allclose(found, wanted, rtol=TOLERANCE)


@pytest.mark.parametrize("shape", [(0, 2, 5), (3, 0, 5), (3, 2, 1), (3, 2, 0)])
def test_gram_matrices_of_little(shape):
  values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
  found = contractions.gram(jnp.asarray(values))
  wanted = np.einsum("jnd,knd->njk", values, values)
  np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [513, 2187, 5000])  # odd, 3^7, not 2^n
def test_gram_matrices_of_sizes_without_even_parts(size):
  values = np.random.default_rng(0).normal(size=(3, 2, size)).astype("f")
  found = jax.jit(contractions.gram)(values)
  exact = np.moveaxis(values.astype(np.float64), 0, 1)
  wanted = exact @ np.swapaxes(exact, 1, 2)
  np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5 * size)


def linear(num_classes, scale=0.1):
  """Weights of one sign: rounding errors do not average out."""
  rng = np.random.default_rng(1)
  weights = rng.uniform(0.5, 1.5, (SIZE, num_classes)) * scale * SIZE**-0.5
  return weights.astype(np.float32)


@pytest.mark.parametrize("method", ["gram", "matrix_free"])
@pytest.mark.parametrize("num_classes", [2, 5])
def test_norms_of_a_linear_network_are_within_their_stated_errors(
  method, num_classes
):
  """Against `F = W (diag p - p p^T) W^T` in float64, and its eigenvalues."""
  weights = linear(num_classes)
  bias = np.arange(num_classes, dtype=np.float32)
  norms = jax.jit(
    lambda w: ri.fisher_norms(
      lambda x: bias[None] + contractions.dot(x[:, None], w.T[None]),
      jnp.zeros((1, SIZE)),
      method=method,
      num_steps=num_classes,
      num_probes=2,
    )
  )(weights)
  p = np.exp(precise(bias)) / np.exp(precise(bias)).sum()
  g = precise(weights) - precise(weights) @ p[:, None]
  gram = np.sqrt(p[:, None] * p[None]) * (g.T @ g)
  for name, wanted in (
    ("trace", np.trace(gram)),
    ("frobenius", np.linalg.norm(gram)),
    ("spectral_norm", np.linalg.eigvalsh(gram)[-1]),
  ):
    gap = abs(float(getattr(norms, name)[0]) - wanted)
    assert gap <= getattr(norms, f"{name}_error")[0], name
    assert gap <= 1e-5 * wanted, name


def test_lanczos_projections_and_eigenvectors():
  basis = rows(3, 1)
  found = jax.jit(_lanczos._project)(basis, rows(1))
  np.testing.assert_allclose(found, 1.0, rtol=TOLERANCE)
  unit, norm = jax.jit(_lanczos._unit)(3 * rows(2))
  np.testing.assert_allclose(norm, 3.0, rtol=TOLERANCE)
  np.testing.assert_allclose(unit, rows(2), rtol=TOLERANCE)
  reduced = _gram.ReducedGram(
    gram=jnp.ones((1, 1, 1)),
    weights=jnp.ones((1, 1, 1)),
    rows=5 * rows(1, 1),
    logits=jnp.zeros((1, 2)),
  )
  _, vectors = jax.jit(lambda r: _gram.eigenvectors(r, 1))(reduced)
  np.testing.assert_allclose(vectors[0], rows(1), rtol=TOLERANCE)


@pytest.mark.parametrize("num_examples", [1, 3])
def test_attacks_measure_as_float64_does(num_examples):
  delta = rows(num_examples)
  x = np.zeros_like(delta)
  box = {"low": -10.0, "high": 10.0}

  @jax.jit
  def measured(delta, x):
    keys = jax.random.split(jax.random.key(0), num_examples)
    plane = _fab.project_to_hyperplane(
      x, delta, jnp.ones(num_examples), norm="l2", **box
    )
    return {
      "l1": projections.norm(delta, "l1") / SIZE**0.5,
      "l2": projections.norm(delta, "l2"),
      "rescaled": jnp.abs(
        projections.rescale_l2(3 * delta, x, 1.0, **box) / delta
      ),
      "nearest l2": projections.project_l2(3 * delta, x, 1.0, **box) / delta,
      "nearest l1": projections.project_l1(3 * delta, x, SIZE**0.5, **box)
      / delta,
      "unit l2": steps.unit(delta, "l2") / delta,
      "unit l1": steps.unit(delta, "l1") * SIZE,
      "plane": -plane / delta,
    }, {
      "l2": initial.uniform_l2(keys, x, 1.0),
      "l1": initial.uniform_l1(keys, x, 1.0),
    }

  exact, starts = measured(delta, x)
  for name, values in exact.items():
    np.testing.assert_allclose(values, 1.0, rtol=TOLERANCE, err_msg=name)
  # In so many dimensions a random start lies within about 1/D of the surface.
  length = np.linalg.norm(precise(starts["l2"]), axis=-1)
  np.testing.assert_allclose(length, 1.0, atol=2e-4)
  assert (length <= 1 + TOLERANCE).all()
  length = np.abs(precise(starts["l1"])).sum(-1)
  np.testing.assert_allclose(length, 1.0, atol=2e-4)
  assert (length <= 1 + TOLERANCE).all()
