"""Merged classes: bounds on both sides, and nothing lost when all are kept."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import robust_info as ri
from robust_info import _loops

EXAMPLES, SIZE, CLASSES = 4, 5, 30


@pytest.fixture(scope="module")
def logits_fn():
  rng = np.random.default_rng(0)
  first = jnp.asarray(rng.normal(size=(SIZE, 12)), jnp.float32)
  second = jnp.asarray(rng.normal(size=(12, CLASSES)), jnp.float32)
  return lambda x: jnp.tanh(x @ first) @ second


@pytest.fixture(scope="module")
def x():
  return np.random.default_rng(1).normal(size=(EXAMPLES, SIZE)).astype("f")


@pytest.fixture(scope="module")
def exact(logits_fn, x):
  return jax.jit(lambda x: ri.fisher_norms(logits_fn, x))(x)


@pytest.fixture(scope="module")
def matrices(logits_fn, x):
  """F and what merging leaves out, in float64, by their definitions."""
  jacobian = np.asarray(jax.jacfwd(lambda v: logits_fn(v[None])[0])(x[0]), "d")
  p = np.asarray(jax.nn.softmax(logits_fn(x[:1])[0]), "d")
  g = jacobian - p @ jacobian
  return p, g


def coarse(logits_fn, x, max_classes, **kwargs):
  return jax.jit(
    lambda x: ri.coarse_fisher_norms(
      logits_fn, x, max_classes=max_classes, **kwargs
    )
  )(x)


def test_what_is_left_out_is_the_variance_within_the_merged_classes(
  logits_fn, x, matrices
):
  p, g = matrices
  found = coarse(logits_fn, x[:1], 3, num_probes=2000)
  merged = np.argsort(p)[:-3]
  mean = p[merged] @ g[merged] / p[merged].sum()
  left_out = (p[merged] * ((g[merged] - mean) ** 2).sum(-1)).sum()
  whole = (p * (g**2).sum(-1)).sum()
  np.testing.assert_allclose(found.trace[0], whole - left_out, rtol=1e-4)
  # 2000 probes know their mean to a few percent.
  np.testing.assert_allclose(found.trace_error[0], left_out, rtol=0.15)
  assert left_out <= (p[merged] * (g[merged] ** 2).sum(-1)).sum()
  assert left_out > 0.01 * whole


def test_bounds_hold_on_both_sides(logits_fn, x, exact):
  found = coarse(logits_fn, x, 3, num_probes=200)
  for name in ("trace", "frobenius", "spectral_norm"):
    low, true = getattr(found, name), getattr(exact, name)
    assert (low <= true * (1 + 1e-4)).all()
    # The estimate of R is good to some 20 % at 200 probes.
    assert (true <= low + 1.3 * found.trace_error + 1e-4 * true).all()
    assert (low > 0.3 * true).all()


def test_nothing_is_left_out_when_all_classes_are_kept(logits_fn, x, exact):
  found = coarse(logits_fn, x, CLASSES - 1)
  np.testing.assert_allclose(found.frobenius, exact.frobenius, rtol=1e-5)
  np.testing.assert_allclose(found.trace_error, exact.trace_error, rtol=1e-5)
  tight = coarse(logits_fn, x, CLASSES - 2)
  np.testing.assert_allclose(tight.trace, exact.trace, rtol=1e-2)


def test_sharp_predictions_need_few_classes(logits_fn, x):
  sharp = lambda x: 8 * logits_fn(x)  # noqa: E731
  found = coarse(sharp, x, 3, num_eigenvectors=1, batch_size=3)
  true = jax.jit(lambda x: ri.fisher_norms(sharp, x))(x)
  confident = np.sort(jax.nn.softmax(sharp(x)))[:, :-3].sum(-1) < 1e-4
  assert confident.any()
  np.testing.assert_allclose(
    found.trace[confident], true.trace[confident], rtol=1e-2
  )
  assert found.vectors.shape == (EXAMPLES, 1, SIZE)


def test_a_batch_taken_apart_gives_the_same(monkeypatch):
  rng = np.random.default_rng(3)
  kernel = jnp.asarray(rng.normal(size=(3, 3, 1, 2)), jnp.float32)
  weights = jnp.asarray(rng.normal(size=(32, 6)), jnp.float32)
  x = jnp.asarray(rng.uniform(size=(6, 4, 4, 1)), jnp.float32)

  def logits_fn(x):
    hidden = jax.lax.conv_general_dilated(
      x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return jnp.tanh(hidden).reshape(len(x), -1) @ weights

  whole = coarse(logits_fn, x, 2)
  monkeypatch.setattr(_loops, "_MIN_VALUES", 1)
  # A function object of its own: nothing is taken from the other's cache.
  parts = coarse(lambda x: logits_fn(x), x, 2)
  for one, other in zip(
    jax.tree.leaves(parts), jax.tree.leaves(whole), strict=True
  ):
    np.testing.assert_allclose(one, other, rtol=1e-4)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_gives_float32_norms(dtype, x):
  rng = np.random.default_rng(2)
  weights = jnp.asarray(rng.normal(size=(SIZE, CLASSES)), dtype)
  bias = jnp.asarray(-0.5 * np.arange(CLASSES), dtype)

  def logits_fn(x):
    return x @ weights.astype(x.dtype) + bias.astype(x.dtype)[None]

  x = jnp.asarray(x, dtype)
  found = coarse(logits_fn, x, 3, num_probes=64)
  # float32 of the same weights and inputs.
  wanted = coarse(logits_fn, x.astype(jnp.float32), 3, num_probes=64)
  for name in ("trace", "frobenius", "spectral_norm"):
    low, true = getattr(found, name), getattr(wanted, name)
    assert low.dtype == jnp.float32
    np.testing.assert_allclose(low, true, rtol=0.1)
    assert (getattr(found, f"{name}_error") > jnp.finfo(dtype).eps * low).all()


@pytest.mark.parametrize("name", ["max_classes", "num_probes"])
def test_bad_input_is_named(logits_fn, x, name):
  with pytest.raises(ValueError, match=f"Expected {name} >= 1, got .*0"):
    ri.coarse_fisher_norms(logits_fn, x, **{"max_classes": 3, name: 0})
