"""Merged classes: bounds on both sides, and exact if all classes are kept."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

import robust_info as ri
from robust_info._xla import loops

EXAMPLES, SIZE, CLASSES = 4, 5, 30


@functools.cache
def weights():
  rng = np.random.default_rng(0)
  first = rng.normal(size=(SIZE, 12)).astype("f")
  return first, rng.normal(size=(12, CLASSES)).astype("f")


def logits_fn(x):
  first, second = weights()
  return jnp.tanh(x @ first) @ second


@functools.cache
def inputs():
  return np.random.default_rng(1).normal(size=(EXAMPLES, SIZE)).astype("f")


@jax.jit
def exact(scale):
  """Norms of the network with its logits scaled, and its probabilities."""

  def scaled(x):
    return scale * logits_fn(x)

  return ri.fisher_norms(scaled, inputs()), jax.nn.softmax(scaled(inputs()))


def coarse(logits_fn, x, max_classes, **kwargs):
  return jax.jit(
    lambda x: ri.coarse_fisher_norms(
      logits_fn, x, max_classes=max_classes, **kwargs
    )
  )(x)


@pytest.fixture(scope="module")
def merged():
  return coarse(logits_fn, inputs(), 3, num_probes=2000)


def test_what_is_left_out_is_the_variance_within_the_merged_classes(merged):
  # F and the part that merging leaves out, in float64, by their definitions.
  first, second = (w.astype("d") for w in weights())
  hidden = np.tanh(inputs()[0] @ first)
  jacobian = (second.T * (1 - hidden**2)) @ first.T
  p = oracles.softmax(hidden @ second).astype("d")
  g = jacobian - p @ jacobian
  kept_out = np.argsort(p)[:-3]
  mean = p[kept_out] @ g[kept_out] / p[kept_out].sum()
  left_out = (p[kept_out] * ((g[kept_out] - mean) ** 2).sum(-1)).sum()
  whole = (p * (g**2).sum(-1)).sum()
  np.testing.assert_allclose(merged.trace[0], whole - left_out, rtol=1e-4)
  # 2000 probes estimate their mean to a few percent.
  np.testing.assert_allclose(merged.trace_error[0], left_out, rtol=0.15)
  assert left_out <= (p[kept_out] * (g[kept_out] ** 2).sum(-1)).sum()
  assert left_out > 0.01 * whole


def test_bounds_hold_on_both_sides(merged):
  whole, _ = exact(1.0)
  for name in ("trace", "frobenius", "spectral_norm"):
    low, true = getattr(merged, name), getattr(whole, name)
    assert (low <= true * (1 + 1e-4)).all()
    # The estimate of R is accurate to some 7 % at 2000 probes.
    assert (true <= low + 1.3 * merged.trace_error + 1e-4 * true).all()
    assert (low > 0.3 * true).all()


def test_nothing_is_left_out_when_all_classes_are_kept():
  found, (whole, _) = coarse(logits_fn, inputs(), CLASSES - 1), exact(1.0)
  np.testing.assert_allclose(found.frobenius, whole.frobenius, rtol=1e-5)
  np.testing.assert_allclose(found.trace_error, whole.trace_error, rtol=1e-5)
  tight = coarse(logits_fn, inputs(), CLASSES - 2)
  np.testing.assert_allclose(tight.trace, whole.trace, rtol=1e-2)


@pytest.mark.parametrize(("by", "kept"), [("choice", 3), ("addition", 4)])
def test_impossible_classes_leave_nothing_out(by, kept):
  possible = np.arange(CLASSES) < 3

  def masked(x):
    if by == "choice":
      return jnp.where(possible, logits_fn(x), -jnp.inf)
    return logits_fn(x) + jnp.where(possible, 0.0, -jnp.inf)[None]

  found = coarse(masked, inputs(), kept)
  whole = jax.jit(lambda x: ri.fisher_norms(masked, x))(inputs())
  np.testing.assert_allclose(found.trace, whole.trace, rtol=1e-5)
  np.testing.assert_allclose(found.trace_error, whole.trace_error, rtol=1e-4)


def test_sharp_predictions_need_few_classes():
  sharp = lambda x: 8 * logits_fn(x)  # noqa: E731
  found = coarse(sharp, inputs(), 3, num_eigenvectors=1, batch_size=3)
  true, p = exact(8.0)
  confident = np.sort(p)[:, :-3].sum(-1) < 1e-4
  assert confident.any()
  np.testing.assert_allclose(
    found.trace[confident], true.trace[confident], rtol=1e-2
  )
  assert found.vectors.shape == (EXAMPLES, 1, SIZE)


def test_a_batch_taken_apart_gives_the_same(monkeypatch):
  rng = np.random.default_rng(3)
  kernel = jnp.asarray(np.float32(rng.normal(size=(3, 3, 1, 2))))
  weights = jnp.asarray(np.float32(rng.normal(size=(32, 6))))
  x = jnp.asarray(np.float32(rng.uniform(size=(6, 4, 4, 1))))

  def logits_fn(x):
    hidden = jax.lax.conv_general_dilated(
      x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return jnp.tanh(hidden).reshape(len(x), -1) @ weights

  whole = coarse(logits_fn, x, 2)
  monkeypatch.setattr(loops, "_MIN_VALUES", 1)
  # A new function object, so that `jit` does not reuse the other program.
  parts = coarse(lambda x: logits_fn(x), x, 2)
  for one, other in zip(
    jax.tree.leaves(parts), jax.tree.leaves(whole), strict=True
  ):
    np.testing.assert_allclose(one, other, rtol=1e-4)


@jax.jit
def linear(weights, bias, x):
  return ri.coarse_fisher_norms(
    lambda x: x @ weights + bias[None], x, max_classes=3, num_probes=64
  )


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_gives_float32_norms(dtype):
  rng = np.random.default_rng(2)
  weights, bias = rng.normal(size=(SIZE, CLASSES)), -0.5 * np.arange(CLASSES)
  arrays = [a.astype(dtype) for a in (weights, bias, inputs())]
  found = linear(*arrays)
  # float32 of the same weights and inputs.
  wanted = linear(*(a.astype(np.float32) for a in arrays))
  for name in ("trace", "frobenius", "spectral_norm"):
    low, true = getattr(found, name), getattr(wanted, name)
    assert low.dtype == jnp.float32
    np.testing.assert_allclose(low, true, rtol=0.1)
    assert (getattr(found, f"{name}_error") > jnp.finfo(dtype).eps * low).all()


@pytest.mark.parametrize("name", ["max_classes", "num_probes"])
def test_bad_input_is_named(name):
  with pytest.raises(ValueError, match=f"Expected {name} >= 1, got .*0"):
    ri.coarse_fisher_norms(logits_fn, inputs(), **{"max_classes": 3, name: 0})
