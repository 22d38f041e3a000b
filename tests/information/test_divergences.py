import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import robust_info as ri
from robust_info.information import divergences

INF = np.inf


def logits_pair(base, step, size=(200, 10), seed=0):
  rng = np.random.default_rng(seed)
  p = (base * rng.normal(size=size)).astype(np.float32)
  return p, (p + step * rng.normal(size=size)).astype(np.float32)


@functools.cache
def values_and_gradients():
  def values(z, w):
    return jnp.stack(
      [
        jnp.sum(divergences.kl_divergence(z, w)),
        jnp.sum(divergences.fisher_rao_distance(z, w)),
        jnp.sum(divergences.entropy(z)),
      ]
    )

  return jax.jit(
    lambda z, w: (values(z, w), jax.jacrev(values, argnums=(0, 1))(z, w))
  )


@jax.jit
def derivatives(z):
  """Derivatives of seven numbers of z [2, 4].

  Returns:
    Values [7] of KL, entropy, log_softmax and the squared distance, gradients
    in both modes, and second derivatives, forward and in reverse over reverse.
  """

  def numbers(z):
    return jnp.concatenate(
      [
        divergences.kl_divergence(z[0], z[1])[None],
        divergences.entropy(z[0])[None],
        divergences.log_softmax(z[0]),
        divergences.squared_fisher_rao_distance(z[0], z[1])[None],
      ]
    )

  gradient = jax.jacrev(numbers)
  return (
    numbers(z),
    (jax.jacfwd(numbers)(z), gradient(z)),
    (jax.jacfwd(gradient)(z), jax.jacrev(gradient)(z)),
  )


def assert_derivatives_match_finite_differences(z, which):
  """Compares derivatives of the numbers `which` with central differences."""
  _, gradients, hessians = derivatives(z)
  h = 1e-5
  for index in np.ndindex(z.shape):
    step = np.zeros_like(z)
    step[index] = h
    ahead, behind = derivatives(z + step), derivatives(z - step)
    for found, one, other in (
      (gradients, ahead[0], behind[0]),
      (hessians, ahead[1][1], behind[1][1]),
    ):
      expected = (np.asarray(one) - np.asarray(other)) / (2 * h)
      for mode in found:
        np.testing.assert_allclose(
          np.asarray(mode)[(which, ..., *index)],
          expected[which],
          rtol=1e-5,
          atol=1e-5,
        )


def finite_logits(max_gap):
  """Arrays of one shape, so that each function compiles once."""
  return hnp.arrays(
    np.float32, (3, 4), elements=st.floats(-max_gap, max_gap, width=32)
  )


@pytest.mark.parametrize("base", [0.1, 1.0, 5.0])
@pytest.mark.parametrize("step", [1e-6, 1e-4, 1e-2, 1.0, 10.0, 100.0])
def test_kl_matches_extended_precision(base, step):
  p, q = logits_pair(base, step)
  expected = oracles.kl_divergence(p, q).astype(np.float64)
  np.testing.assert_allclose(ri.kl_divergence(p, q), expected, rtol=1e-5)


def test_kl_right_at_one_trillionth_of_a_nat():
  p, q = logits_pair(1.0, 2e-6)
  expected = oracles.kl_divergence(p, q).astype(np.float64)
  assert 1e-13 < np.median(expected) < 1e-11
  np.testing.assert_allclose(ri.kl_divergence(p, q), expected, rtol=0.05)


def test_kl_in_float64(x64):
  p, q = (a.astype(np.float64) for a in logits_pair(3.0, 1.0, size=(50, 4)))
  found = ri.kl_divergence(p, q)
  assert found.dtype == jnp.float64
  np.testing.assert_allclose(
    found,
    oracles.kl_divergence(p, q).astype(np.float64),
    rtol=1e-10,
  )


@pytest.mark.parametrize("gap", [100.0, 1e3, 1e4])
def test_kl_is_not_capped(gap):
  p, q = jnp.array([gap, 0.0]), jnp.array([0.0, gap])
  np.testing.assert_allclose(ri.kl_divergence(p, q), gap, rtol=1e-6)


@settings(max_examples=60, deadline=None)
@given(finite_logits(1e4), st.floats(0, 100), st.floats(-1e3, 1e3))
def test_kl_nonnegative_zero_on_itself_and_shift_invariant(z, step, shift):
  q = z + step * np.cos(np.arange(z.size, dtype=np.float32)).reshape(z.shape)
  kl = np.asarray(ri.kl_divergence(z, q.astype(np.float32)))
  assert (kl >= 0).all()
  assert not np.isnan(kl).any()
  assert (np.asarray(ri.kl_divergence(z, z)) == 0).all()
  shifted = np.float32(np.round(shift))
  z = np.round(z).astype(np.float32)
  np.testing.assert_array_equal(ri.kl_divergence(z, z + shifted), 0.0)


@pytest.mark.parametrize("offset", [1e4, 1e6, -1e6])
@pytest.mark.parametrize("side", [0, 1])
def test_offsets_of_one_side_change_nothing(offset, side):
  # All are exact in float32.
  pair = [np.zeros((1, 2), np.float32), np.float32([[0.0, 0.0625]])]
  moved = [z + np.float32(offset) * (k == side) for k, z in enumerate(pair)]
  for distance in (ri.kl_divergence, ri.fisher_rao_distance):
    np.testing.assert_allclose(distance(*moved), distance(*pair), rtol=1e-6)


@settings(max_examples=60, deadline=None)
@given(finite_logits(1e4), finite_logits(1e4))
def test_no_nan_in_value_or_gradient_of_any_divergence(z, w):
  values, gradients = values_and_gradients()(z, w)
  assert np.isfinite(values).all()
  assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradients))


@pytest.mark.parametrize(
  ("p", "q", "expected"),
  [
    ([0.0, -INF], [0.0, 0.0], np.log(2)),
    ([0.0, 0.0], [0.0, -INF], INF),
    ([0.0, -INF, 1.0], [5.0, -INF, 6.0], 0.0),
    ([0.0, np.nan], [0.0, 0.0], np.nan),
    ([0.0, 0.0], [np.nan, 0.0], np.nan),
  ],
)
def test_kl_edge_cases(p, q, expected):
  np.testing.assert_allclose(
    ri.kl_divergence(jnp.array(p), jnp.array(q)), expected, rtol=1e-6
  )


def test_nan_survives_fusion():
  z = np.zeros((64, 8), np.float32)
  z[:, 3] = np.nan
  fused = jax.jit(
    lambda z: ri.kl_divergence(z * 2 + 1, z - 1) + ri.entropy(3 * z)
  )
  assert jnp.isnan(fused(z)).all()


@pytest.mark.parametrize("index", [0, 6], ids=["kl", "squared distance"])
def test_gradients_match_finite_differences(x64, index):
  p, q = (a.astype(np.float64) for a in logits_pair(1.0, 1.0, size=(3, 4)))
  for z in (*np.stack([p, q], axis=1), *np.stack([p, p + 1e-3 * q], axis=1)):
    assert_derivatives_match_finite_differences(z, slice(index, index + 1))


@pytest.mark.parametrize(
  ("index", "factor"), [(0, 1), (6, 2)], ids=["kl", "squared distance"]
)
def test_hessian_at_the_minimum_is_the_fisher_matrix(x64, index, factor):
  z = np.array([0.3, -1.0, 2.0, 0.5])
  p = oracles.softmax(z).astype(np.float64)
  for hessian in derivatives(np.stack([z, z]))[2]:
    np.testing.assert_allclose(
      hessian[index, 1, :, 1],
      factor * (np.diag(p) - np.outer(p, p)),
      atol=1e-12,
    )


def test_kl_gradient_keeps_relative_accuracy_near_its_minimum():
  p, q = logits_pair(1.0, 1e-5, size=(50, 5))
  gradient = jax.jit(jax.grad(lambda q, p: jnp.sum(ri.kl_divergence(p, q))))(
    q, p
  )
  expected = oracles.softmax(q) - oracles.softmax(p)
  scale = np.abs(expected).max()
  error = np.abs(np.asarray(gradient) - expected).max()
  assert error < 1e-3 * scale


def test_kl_gradient_keeps_relative_accuracy_for_confident_predictions():
  p = np.float32([[20, 0, -40], [17, 0, 1]])
  q = np.float32([[-60, 60, 5], [-30, 30, 5]])
  kl = lambda p, q: jnp.sum(ri.kl_divergence(p, q))  # noqa: E731
  found = jax.jit(jax.grad(kl, argnums=(0, 1)))(p, q)
  exact_p, exact_q = oracles.softmax(p), oracles.softmax(q)
  ratio = np.log(exact_p) - np.log(exact_q)
  mean = np.sum(exact_p * ratio, axis=-1, keepdims=True)
  expected = exact_p * (ratio - mean), exact_q - exact_p
  for one, other in zip(found, expected, strict=True):
    np.testing.assert_allclose(one, other, rtol=1e-4)


@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0])
def test_entropy_matches_extended_precision(scale):
  z, _ = logits_pair(scale, 1.0)
  np.testing.assert_allclose(
    ri.entropy(z), oracles.entropy(z).astype(np.float64), rtol=1e-5, atol=0
  )


def test_entropy_of_a_confident_prediction_is_not_rounded_to_zero():
  z = np.array([50.0, 0.0], np.float32)
  rows = np.full((200, 10), -INF, np.float32)
  rows[:, :2] = z
  np.testing.assert_allclose(
    ri.entropy(rows), np.full(200, float(oracles.entropy(z))), rtol=1e-4
  )


def test_entropy_edge_cases():
  z = np.float32([[0.0, -INF, 0.0], [0.0, 1e4, 0.0], [np.nan, 0.0, 0.0]])
  entropy, gradient = jax.jit(
    lambda z: (ri.entropy(z), jax.grad(lambda z: jnp.sum(ri.entropy(z)))(z))
  )(z)
  np.testing.assert_allclose(entropy, [np.log(2), 0.0, np.nan], rtol=1e-6)
  np.testing.assert_allclose(gradient[:2], np.zeros((2, 3)), atol=1e-7)


def test_entropy_gradient_matches_finite_differences(x64):
  z = np.stack(logits_pair(1.0, 1.0, size=(2, 4)), axis=1)
  for pair in z.astype(np.float64):
    assert_derivatives_match_finite_differences(pair, slice(1, 2))


@pytest.mark.parametrize("scale", [1.0, 10.0, 1e3])
def test_log_softmax_matches_extended_precision(scale):
  z, _ = logits_pair(scale, 1.0)
  expected = oracles.log_softmax(z).astype(np.float64)
  np.testing.assert_allclose(
    divergences.log_softmax(z), expected, rtol=2e-6, atol=1e-37
  )


def test_log_softmax_gradient_keeps_small_probabilities():
  z = np.float32([30.0, 0.0, 1.0])
  jacobian = jax.jit(jax.jacrev(divergences.log_softmax))(z)
  p = oracles.softmax(z).astype(np.float64)
  expected = np.eye(3) - p[None, :]
  expected[0, 0] = p[1] + p[2]
  np.testing.assert_allclose(jacobian, expected, rtol=1e-5)


def test_log_softmax_derivatives_at_ties(x64):
  z = np.array([1.0, 1.0, 0.0, 0.5])
  p = oracles.softmax(z).astype(np.float64)
  z = np.stack([z, z[::-1]])
  for jacobian in derivatives(z)[1]:
    np.testing.assert_allclose(
      jacobian[2:6, 0], np.eye(4) - p[None, :], rtol=1e-12
    )
  assert_derivatives_match_finite_differences(z, slice(2, 6))


def test_log_softmax_of_logits_recomputed_inside_a_fusion():
  # A compiler may compute the producer of the logits once for the maximum and
  # once for the difference, with different roundings.
  rng = np.random.default_rng(0)
  a, b, c = rng.normal(size=(3, 4000, 7)).astype(np.float32)
  log_p = jax.jit(lambda a, b, c: divergences.log_softmax(a * b + c / 3))(
    a, b, c
  )
  expected = oracles.log_softmax(a.astype(np.float64) * b + c / 3.0)
  np.testing.assert_allclose(
    np.asarray(log_p), expected.astype(np.float64), atol=2e-6
  )


def test_fisher_rao_distance_closed_form():
  p = np.array([[0.5, 0.5], [0.9, 0.1], [0.3, 0.7]])
  q = np.array([[0.1, 0.9], [0.9, 0.1], [0.299, 0.701]])
  expected = 2 * np.arccos(np.minimum(np.sqrt(p * q).sum(-1), 1.0))
  distance = ri.fisher_rao_distance(
    np.log(p).astype(np.float32), np.log(q).astype(np.float32)
  )
  np.testing.assert_allclose(distance, expected, rtol=1e-4, atol=1e-6)
  np.testing.assert_allclose(
    divergences.squared_fisher_rao_distance(np.log(p), np.log(q)),
    expected**2,
    rtol=1e-4,
  )
  np.testing.assert_array_equal(distance[1], 0.0)


@pytest.mark.parametrize("base", [0.1, 1.0, 5.0])
@pytest.mark.parametrize("step", [1e-6, 1e-4, 1e-2, 1.0, 10.0])
def test_squared_distance_matches_extended_precision(base, step):
  p, q = logits_pair(base, step)
  found, gradient = squared_distances(p, q)
  expected, slope = (
    part.astype(np.float64)
    for part in oracles.squared_fisher_rao_distance(p, q)
  )
  np.testing.assert_allclose(found, expected, rtol=1e-5)
  scale = np.abs(slope).max(axis=-1, keepdims=True)
  np.testing.assert_allclose(gradient / scale, slope / scale, atol=2e-5)


@jax.jit
def squared_distances(p, q):
  """The squared distances, and their gradient in q."""

  def total(q):
    values = divergences.squared_fisher_rao_distance(p, q)
    return jnp.sum(values), values

  gradient, values = jax.grad(total, has_aux=True)(q)
  return values, gradient


def test_fisher_rao_distance_of_disjoint_predictions_is_pi():
  z = np.tile(np.float32([0.0, 1e4]), (3, 1))
  np.testing.assert_allclose(
    ri.fisher_rao_distance(z, z[:, ::-1]), np.full(3, np.pi), rtol=1e-6
  )


def test_fisher_rao_squared_is_twice_kl_for_neighbours():
  p, q = logits_pair(1.0, 1e-3)
  np.testing.assert_allclose(
    0.5 * ri.fisher_rao_distance(p, q) ** 2, ri.kl_divergence(p, q), rtol=2e-3
  )


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.int32])
def test_low_precision_inputs_are_computed_in_float32(dtype):
  z = jnp.array([[3, 1, -2], [0, 5, 2]], dtype)
  w = jnp.array([[1, 1, 1], [0, 4, 2]], dtype)
  for fn, args in ((ri.kl_divergence, (z, w)), (ri.entropy, (z,))):
    result = fn(*args)
    assert result.dtype == jnp.float32
    np.testing.assert_allclose(
      result, fn(*(a.astype(jnp.float32) for a in args))
    )


def test_jit_and_vmap_agree_with_plain_calls():
  p, q = logits_pair(2.0, 1.0)
  plain = ri.kl_divergence(p, q)
  np.testing.assert_allclose(jax.jit(ri.kl_divergence)(p, q), plain, rtol=1e-6)
  np.testing.assert_allclose(jax.vmap(ri.kl_divergence)(p, q), plain, rtol=1e-6)


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (
      lambda: ri.kl_divergence(jnp.zeros((2, 3)), jnp.zeros((3, 2))),
      r"Expected logits_q of the shape of logits_p, \(2, 3\), got .*\(3, 2\)",
    ),
    (
      lambda: ri.entropy(jnp.zeros((4, 0))),
      r"Expected logits with two or more classes .*\(4, 0\)",
    ),
    (lambda: ri.entropy(jnp.zeros(())), r"Expected logits of shape"),
  ],
)
def test_wrong_shapes_are_named(call, message):
  with pytest.raises(ValueError, match=message):
    call()


def test_complex_logits_are_refused():
  with pytest.raises(TypeError, match="Expected logits to be real"):
    ri.entropy(jnp.zeros((2,), jnp.complex64))
