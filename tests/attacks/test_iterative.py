"""Properties of Auto-PGD, FAB, Square and the Fisher attack."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robust_info import attacks, fisher
from robust_info.attacks import _apgd, _pgd, _square, projections

KEY = jax.random.key(0)
apgd_targeted = jax.jit(
  functools.partial(attacks.apgd_targeted, num_steps=6, num_targets=2)
)
fab_targeted = jax.jit(
  functools.partial(attacks.fab_targeted, num_steps=4, num_targets=2)
)
fab = jax.jit(
  functools.partial(attacks.fab, num_steps=6), static_argnames="norm"
)


def tries(x, y=None):
  zeros = np.zeros(len(x), np.int32)
  return attacks.methods.Try(
    x,
    zeros if y is None else y,
    zeros,
    zeros,
    jax.random.split(KEY, len(x)),
  )


def test_checkpoints_of_a_hundred_iterations():
  np.testing.assert_array_equal(
    _apgd.checkpoints(100), [22, 41, 57, 70, 80, 87, 93, 99]
  )


@pytest.mark.parametrize("steps", [1, 2, 5, 10, 33, 50])
def test_checkpoints_follow_the_recurrence(steps):
  expected, at, interval = [], 0, max(int(0.22 * steps), 1)
  for step in range(1, steps + 1):
    if step - at == interval:
      expected.append(step)
      at = step
      interval = max(
        interval - max(int(0.03 * steps), 1), max(int(0.06 * steps), 1)
      )
  np.testing.assert_array_equal(_apgd.checkpoints(steps), expected)


def test_apgd_halves_a_step_that_does_not_help():
  # A constant gradient drives one step to the corner; the loss never rises
  # again, so every review halves the step size, including the first.
  def logits(x):
    return jnp.concatenate([-jnp.sum(x, 1, keepdims=True), 0 * x[:, :1]], 1)

  method = _apgd.label_method(
    "margin", norm="linf", num_steps=10, low=0.0, high=1.0
  )
  step = jax.jit(
    lambda state: method.step(lambda v, _: logits(v)[None], state, 0.1, None)
  )
  state = jax.jit(method.start)(tries(np.full((2, 3), 0.5, np.float32)), 0.1)
  sizes = []
  for _ in range(method.num_steps):
    state = step(state)
    sizes.append(float(state.step_size[0]))
  np.testing.assert_allclose(state.x_found, 0.6, atol=1e-6)
  # Reviews after 2, 3, 4, ... steps; index 0 is the pass at the start.
  expected = 0.2 / 2.0 ** np.maximum(np.arange(11) - 1, 0)
  np.testing.assert_allclose(sizes, expected, rtol=1e-6)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_pgd_that_may_end_early_takes_the_steps_of_pgd(
  mlp, batch, norm, rounding
):
  x, y = batch
  epsilon = {"linf": 0.05, "l2": 0.2, "l1": 0.5}[norm]
  method = _pgd.method(norm=norm, num_steps=5, low=0.0, high=1.0)

  @jax.jit
  def begin(x, y):
    state = method.start(tries(x, y), epsilon)._replace(x_adv=x)
    return state, attacks.pgd(
      mlp, x, y, epsilon=epsilon, norm=norm, num_steps=5, random_start=False
    )

  step = jax.jit(
    lambda fn, state: method.step(
      lambda v, _: fn(v)[None], state, epsilon, None
    )
  )
  state, result = begin(x, y)
  for _ in range(method.num_steps):
    state = step(mlp, state)
  state, result = jax.device_get((state, result))
  ends_there = ~state.found
  assert 0 < ends_there.sum() < len(x)
  np.testing.assert_allclose(
    state.x_found[ends_there], result.x_adv[ends_there], atol=1e-6
  )
  # Single steps and one program of all steps round differently.
  barely = np.asarray(attacks.losses.margin(result.logits, y)) < rounding
  assert (state.found | ~result.success | barely).all()


def test_fab_finds_the_nearest_point_of_a_linear_boundary():
  # The third class has the smaller gap, and the second the smaller distance.
  weights = np.float32([[1, -1, 0.95], [2, 0, 1.95], [-1, 0.5, -1]])
  x = np.float32([[0.6, 0.6, 0.3]])
  y = np.array([0], np.int32)

  def scaled(weights, scale, v):
    return scale * (v @ weights)

  differences = weights[:, :1] - weights[:, 1:]
  gaps = (x @ differences)[0]
  for norm, dual in (("linf", 1), ("l2", 2)):
    distance = (gaps / np.linalg.norm(differences, dual, axis=0)).min()
    for (factor, broken), scale in itertools.product(
      ((0.99, False), (1.06, True)), np.float32([1, 1e-25, 1e25])
    ):
      network = jax.tree_util.Partial(scaled, weights, scale)
      result = fab(network, x, y, KEY, epsilon=factor * distance, norm=norm)
      assert bool(result.success[0]) is broken


@pytest.mark.parametrize(
  ("norm", "options"),
  [("l2", {"num_targets": 5}), ("linf", {"restarts": 3})],
  ids=["targets", "restarts"],
)
def test_fab_keeps_the_nearest_of_its_tries(norm, options):
  rng = np.random.default_rng(0)
  weights = rng.normal(size=(16, 6)).astype(np.float32)
  x = rng.uniform(0.3, 0.7, size=(8, 16)).astype(np.float32)
  network = jax.tree_util.Partial(lambda w, v: v @ w, weights)
  logits = x @ weights
  y = np.argmax(logits, -1).astype(np.int32)
  attack = attacks.fab if "restarts" in options else attacks.fab_targeted
  found = attack(
    *(network, x, y, KEY),
    **{"epsilon": 10.0, "num_steps": 10, "norm": norm},
    **{"bounds": (-20.0, 20.0), **options},
  )
  gaps = np.take_along_axis(logits, y[:, None], 1) - logits
  normals = weights[:, y].T[:, None] - weights.T
  sizes = np.linalg.norm(normals, {"l2": 2, "linf": 1}[norm], axis=-1)
  sizes[np.arange(8), y] = np.nan
  distance = np.nanmin(gaps / sizes, axis=1)
  lengths = projections.norm(found.x_adv - x, norm)
  assert found.success.all()
  np.testing.assert_allclose(lengths, distance, rtol=0.05)


@pytest.mark.parametrize(
  "attack", [apgd_targeted, fab_targeted], ids=["apgd", "fab"]
)
def test_two_classes_have_one_target(attack, batch):
  x = batch[0][:8].reshape(8, -1)
  weights = np.random.default_rng(0).normal(size=(16, 2))
  weights = weights.astype(np.float32)
  network = jax.tree_util.Partial(lambda w, v: v @ w, weights)
  y = np.argmax(x @ weights, -1).astype(np.int32)
  result = attack(network, x, y, KEY, epsilon=0.5)
  assert bool(result.success.all())


def test_square_breaks_what_has_no_gradient(mlp, batch):
  x, _ = batch

  def rounded(v):
    return mlp(jnp.round(8 * v) / 8)

  @jax.jit
  def attack(x, y):
    options = {"epsilon": 0.3}
    blind = attacks.pgd(
      rounded, x, y, num_steps=2, random_start=False, **options
    )
    return blind, attacks.square(rounded, x, y, KEY, num_queries=130, **options)

  y = np.argmax(rounded(x), -1).astype(np.int32)
  blind, seen = jax.device_get(attack(x, y))
  assert blind.zero_gradients.all()
  assert not blind.success.any()
  assert seen.success.mean() > 0.3


def test_square_windows_reach_the_edges_only_if_asked():
  tried = tries(np.full((64, 4, 4, 1), 0.5, np.float32))

  def corner(v, _):
    # Only the last pixel counts, and nothing is ever misclassified.
    return jnp.stack([10 - v[:, 3, 3, 0], 0 * v[:, 0, 0, 0]], axis=1)[None]

  for reach in (True, False):
    method = _square.method(
      norm="linf",
      num_queries=60,
      share=0.1,
      low=0.0,
      high=1.0,
      reach_edges=reach,
    )
    step = jax.jit(lambda s, m=method: m.step(corner, s, 0.1, None))
    first = state = jax.jit(method.start)(tried, 0.1)
    for _ in range(60):
      state = step(state)
    before, after = (np.asarray(s.x_found)[:, 3, 3] for s in (first, state))
    assert bool(np.any(before != after)) is reach


def test_fisher_attack_starts_along_the_top_eigenvector(mlp, batch):
  @jax.jit
  def cosine_and_length(fn, x, y):
    _, vectors = fisher.fisher_eigenvectors(fn, x, k=1)
    result = attacks.fisher_pgd(
      fn, x, y, epsilon=0.02, step_size=0.0, num_steps=1, norm="l2",
      bounds=None,
    )  # fmt: skip
    moved = (result.x_adv - x) / 0.02
    along = jnp.abs(jnp.sum(moved * vectors[:, 0], axis=(1, 2, 3)))
    return along, projections.norm(moved, "l2")

  cosine, length = cosine_and_length(mlp, *batch)
  np.testing.assert_allclose(cosine, 1, atol=1e-3)
  # Every attack guarantees 1e-6 in input units.
  assert np.max(length) <= 1 + 1e-6 / 0.02


def test_bad_arguments_give_one_clear_line(mlp, batch):
  x, y = batch
  for attack, change, message in (
    (attacks.apgd, {"norm": "l1"}, "norm to be one of"),
    (attacks.apgd, {"restarts": 0}, "restarts >= 1"),
    (attacks.apgd_targeted, {"num_targets": 0}, "num_targets >= 1"),
    (attacks.fab, {"num_steps": 0}, "num_steps >= 1"),
    (attacks.square, {"share": 2.0}, "share in"),
    (attacks.square, {"num_queries": 0}, "num_queries >= 1"),
    (attacks.square, {"epsilon": -1.0}, "epsilon >= 0"),
  ):
    with pytest.raises(ValueError, match=message):
      attack(mlp, x, y, KEY, **{"epsilon": 0.1, **change})
  with pytest.raises(ValueError, match="3 x 3 pixels"):
    attacks.square(
      lambda v: v.reshape(len(v), -1)[:, :4],
      x[:, :2, :2],
      np.zeros(64, np.int32),
      KEY,
      epsilon=0.1,
      norm="l2",
    )
