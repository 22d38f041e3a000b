"""Properties of Auto-PGD, FAB, Square and the Fisher attack."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robust_info import attacks, fisher
from robust_info.attacks import (
  auto_pgd,
  fixed_step,
  projections,
  random_search,
)

KEY = jax.random.key(0)
EPSILON = {"linf": 0.1, "l2": 0.4}
# Few steps: each test compiles all of them.
ATTACKS = {
  "apgd": functools.partial(attacks.apgd, num_steps=6),
  "apgd_targeted": functools.partial(
    attacks.apgd_targeted, num_steps=6, num_targets=2
  ),
  "fab": functools.partial(attacks.fab, num_steps=4),
  "fab_targeted": functools.partial(
    attacks.fab_targeted, num_steps=4, num_targets=2
  ),
  "square": functools.partial(attacks.square, num_queries=100),
  "fisher_pgd": lambda fn, x, y, key, **options: attacks.fisher_pgd(
    fn, x, y, num_steps=4, **options
  ),
}
COMPILED = {
  name: jax.jit(attack, static_argnames="norm")
  for name, attack in ATTACKS.items()
}


def test_checkpoints_of_a_hundred_iterations():
  np.testing.assert_array_equal(
    auto_pgd.checkpoints(100), [22, 41, 57, 70, 80, 87, 93, 99]
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
  np.testing.assert_array_equal(auto_pgd.checkpoints(steps), expected)


def test_apgd_halves_a_step_that_does_not_help():
  # A constant gradient drives one step to the corner; the loss never rises
  # again, so every review halves, the first included.
  def logits(x):
    return jnp.concatenate([-jnp.sum(x, 1, keepdims=True), 0 * x[:, :1]], 1)

  method = auto_pgd.label_method(
    "margin", norm="linf", num_steps=10, low=0.0, high=1.0
  )
  x = jnp.full((2, 3), 0.5)
  tried = attacks.methods.Try(
    x,
    jnp.zeros((2,), jnp.int32),
    jnp.zeros((2,), jnp.int32),
    jnp.zeros((2,), jnp.int32),
    jax.random.split(KEY, 2),
  )
  state = method.start(tried, 0.1)
  sizes = []
  for _ in range(method.num_steps):
    state = method.step(lambda v, _: logits(v)[None], state, 0.1, None)
    sizes.append(float(state.step_size[0]))
  np.testing.assert_allclose(state.x_found, 0.6, atol=1e-6)
  # Reviews after 2, 3, 4, ... steps; index 0 is the start's evaluation.
  expected = 0.2 / 2.0 ** np.maximum(np.arange(11) - 1, 0)
  np.testing.assert_allclose(sizes, expected, rtol=1e-6)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_pgd_that_may_end_early_takes_the_steps_of_pgd(
  mlp, batch, norm, rounding
):
  x, y = batch
  epsilon = {"linf": 0.05, "l2": 0.2, "l1": 0.5}[norm]
  method = fixed_step.method(norm=norm, num_steps=5, low=0.0, high=1.0)
  n = jnp.zeros((len(x),), jnp.int32)
  tried = attacks.methods.Try(x, y, n, n, jax.random.split(KEY, len(x)))
  state = method.start(tried, epsilon)._replace(x_adv=x)
  for _ in range(method.num_steps):
    state = method.step(lambda v, _: mlp(v)[None], state, epsilon, None)
  result = attacks.pgd(
    mlp, x, y, epsilon=epsilon, norm=norm, num_steps=5, random_start=False
  )
  ends_there = ~state.found
  assert 0 < int(ends_there.sum()) < len(x)
  np.testing.assert_allclose(
    state.x_found[ends_there], result.x_adv[ends_there], atol=1e-6
  )
  # Steps one by one and in one program round differently.
  barely = attacks.losses.margin(result.logits, y) < rounding
  assert bool((state.found | ~result.success | barely).all())


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_every_attack_keeps_the_contract(mlp, batch, name, norm):
  x, y = batch
  x, y = x[:24], y[:24]
  where = jnp.arange(24) % 4 != 1
  attack = COMPILED[name]
  epsilon = EPSILON[norm]
  result = attack(mlp, x, y, KEY, epsilon=epsilon, norm=norm, where=where)
  sizes = projections.norm(result.x_adv - x, norm)
  assert float(sizes.max()) <= epsilon + 1e-6
  assert float(result.x_adv.min()) >= 0
  assert float(result.x_adv.max()) <= 1
  np.testing.assert_array_equal(result.x_adv[~where], x[~where])
  assert not bool(result.success[~where].any())
  logits = mlp(result.x_adv)
  np.testing.assert_array_equal(
    result.success, (jnp.argmax(logits, -1) != y) & where
  )
  clean_wrong = (jnp.argmax(mlp(x), -1) != y) & where
  assert int(result.success.sum()) > int(clean_wrong.sum())
  still = attack(mlp, x, y, KEY, epsilon=0.0, norm=norm, where=where)
  np.testing.assert_array_equal(still.x_adv, x)
  np.testing.assert_array_equal(still.success, clean_wrong)


def test_fab_finds_the_nearest_point_of_a_linear_boundary():
  weights = jnp.array([[1.0, -1.0], [2.0, 0.0], [-1.0, 0.5]])
  x = jnp.array([[0.6, 0.6, 0.3]])
  y = jnp.array([0])
  difference = np.asarray(weights[:, 0] - weights[:, 1])
  gap = float((x @ weights)[0, 0] - (x @ weights)[0, 1])
  for norm, dual in (("linf", 1), ("l2", 2)):
    distance = gap / np.linalg.norm(difference, dual)
    for factor, broken in ((0.99, False), (1.06, True)):
      result = attacks.fab(
        lambda v: v @ weights,
        x,
        y,
        KEY,
        epsilon=factor * distance,
        num_steps=6,
        norm=norm,
      )
      assert bool(result.success[0]) is broken


@pytest.mark.parametrize("classes", [2, 3])
def test_few_classes_have_fewer_targets(classes, batch):
  x = batch[0][:8].reshape(8, -1)
  weights = jnp.asarray(
    np.random.default_rng(0).normal(size=(16, classes)), jnp.float32
  )
  y = jnp.argmax(x @ weights, -1)
  for name in ("apgd_targeted", "fab_targeted"):
    result = ATTACKS[name](lambda v: v @ weights, x, y, KEY, epsilon=0.5)
    assert bool(result.success.all())


def test_square_breaks_what_has_no_gradient(mlp, batch):
  x, y = batch

  def rounded(v):
    return mlp(jnp.round(8 * v) / 8)

  y = jnp.argmax(rounded(x), -1)
  options = {"epsilon": 0.3}
  blind = attacks.pgd(
    rounded, x, y, epsilon=0.3, num_steps=2, random_start=False
  )
  seen = attacks.square(rounded, x, y, KEY, num_queries=130, **options)
  assert bool(blind.zero_gradients.all())
  assert float(blind.success.mean()) == 0
  assert float(seen.success.mean()) > 0.3


def test_square_windows_reach_the_edges_only_if_asked():
  tried = attacks.methods.Try(
    jnp.full((64, 4, 4, 1), 0.5),
    jnp.zeros((64,), jnp.int32),
    jnp.zeros((64,), jnp.int32),
    jnp.zeros((64,), jnp.int32),
    jax.random.split(KEY, 64),
  )

  def corner(v, _):
    # Only the last pixel counts, and nothing is ever misclassified.
    return jnp.stack([10 - v[:, 3, 3, 0], 0 * v[:, 0, 0, 0]], axis=1)[None]

  for reach in (True, False):
    method = random_search.method(
      norm="linf",
      num_queries=60,
      share=0.1,
      low=0.0,
      high=1.0,
      reach_edges=reach,
    )
    step = jax.jit(lambda s, m=method: m.step(corner, s, 0.1, None))
    first = state = method.start(tried, 0.1)
    for _ in range(60):
      state = step(state)
    changed = first.x_found[:, 3, 3] != state.x_found[:, 3, 3]
    assert bool(changed.any()) is reach


def test_fisher_attack_starts_along_the_top_eigenvector(mlp, batch):
  x, y = batch
  _, vectors = fisher.fisher_eigenvectors(mlp, x, k=1)
  result = attacks.fisher_pgd(
    mlp, x, y, epsilon=0.02, step_size=0.0, num_steps=1, norm="l2",
    bounds=None,
  )  # fmt: skip
  cosine = jnp.abs(
    jnp.sum((result.x_adv - x) * vectors[:, 0], axis=(1, 2, 3)) / 0.02
  )
  np.testing.assert_allclose(cosine, 1, atol=1e-3)


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
      jnp.zeros((64,), int),
      KEY,
      epsilon=0.1,
      norm="l2",
    )
