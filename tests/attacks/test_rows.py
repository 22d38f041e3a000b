"""Rows that cannot be attacked, gradients that are no numbers, own radii.

One program per attack serves all tests: the rows of its batch differ.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robust_info import attacks
from robust_info.attacks import auto_pgd, initial, projections

KEY = jax.random.key(0)
# As many rows as inputs: a radius per row must not be one per input.
SIZE = 16
ATTACKS = {
  "pgd": functools.partial(
    attacks.pgd, num_steps=3, restarts=2, keep="worst", norm="l2"
  ),
  "kl_pgd": lambda fn, x, y, key, **options: attacks.kl_pgd(
    fn, x, key, num_steps=3, momentum=0.5, norm="l1", **options
  ),
  "apgd": functools.partial(attacks.apgd, num_steps=4),
  "fab": functools.partial(attacks.fab, num_steps=3, norm="l2"),
  "fab_targeted": functools.partial(
    attacks.fab_targeted, num_steps=3, num_targets=2
  ),
  "square": functools.partial(attacks.square, num_queries=8, norm="l2"),
  "fisher_pgd": lambda fn, x, y, key, **options: attacks.fisher_pgd(
    fn, x, y, num_steps=3, **options
  ),
}
NORM = {
  **dict.fromkeys(ATTACKS, "linf"),
  **dict.fromkeys(("pgd", "fab", "square"), "l2"),
  "kl_pgd": "l1",
}
SOUND = slice(0, 6)
# Two pixels of one value; no logits; and one fault of the arguments each.
FLAT, BLIND = slice(6, 8), 8
INVALID = slice(9, 15)
MASKED = 15


def network(fn, x):
  logits = fn(x)
  # Zero, with a gradient of 0 / 0 where the two pixels agree.
  spread = jnp.sqrt((x[:, 0] - x[:, 1]) ** 2)
  return jnp.where(x[:, -1:] > 0.8, jnp.nan, logits + 0 * spread[:, None])


@pytest.fixture(scope="module")
def rows(mlp):
  """x, y, radii and mask."""
  x = np.random.default_rng(5).uniform(0.2, 0.5, (SIZE, SIZE))
  x = x.astype(np.float32)
  x[FLAT, :2] = 0
  x[:, -1] = 0.2
  x[BLIND, -1] = 1
  y = np.asarray(jnp.argmax(mlp(x), -1)).astype(np.int32)
  epsilon = np.tile(np.float32([0.1, 0.4]), SIZE // 2)
  x[9, 3], x[10, 3], y[11], y[12] = 1.5, np.nan, 12, -1
  epsilon[13], epsilon[14] = -0.1, np.nan
  x[MASKED], y[MASKED] = 3, 99
  return x, y, epsilon, np.arange(SIZE) != MASKED


@pytest.fixture(scope="module", params=ATTACKS)
def attacked(request, mlp, rows):
  """An attack's name, the compiled attack, and what it found on the rows."""
  fn = jax.tree_util.Partial(network, mlp)
  attack = jax.jit(functools.partial(ATTACKS[request.param], fn))
  x, y, epsilon, where = rows

  def run(epsilon):
    return jax.device_get(attack(x, y, KEY, epsilon=epsilon, where=where))

  return request.param, run, run(epsilon)


def test_what_makes_no_sense_is_flagged_under_jit(attacked, rows):
  name, _, found = attacked
  x, _, _, _ = rows
  expected = np.ones(SIZE, bool)
  expected[INVALID] = False
  if name == "kl_pgd":
    # It takes no labels, and needs a clean prediction.
    expected[11:13], expected[BLIND] = True, False
  np.testing.assert_array_equal(found.valid, expected)
  np.testing.assert_array_equal(found.x_adv[~expected], x[~expected])
  assert np.isnan(found.loss[~expected]).all()
  assert np.isnan(found.logits[~expected]).all()
  assert not found.success[~expected].any()
  assert np.isnan(found.robust_accuracy())
  # A masked row is clean, and does not count.
  np.testing.assert_array_equal(found.x_adv[MASKED], x[MASKED])
  assert found.loss[MASKED] == 0
  assert not found.success[MASKED]


def test_points_are_finite_and_inside_whatever_the_gradients(attacked, rows):
  name, _, found = attacked
  x, _, epsilon, _ = rows
  points = found.x_adv[:9]
  assert np.isfinite(points).all()
  assert points.min() >= 0
  assert points.max() <= 1
  sizes = projections.norm(jnp.asarray(points - x[:9]), NORM[name])
  assert np.all(np.asarray(sizes) <= epsilon[:9] + 1e-6)
  assert not found.nonfinite_gradients[SOUND].any()
  # Starts off the clean point separate the pixels.
  if name in ("fab", "fab_targeted", "fisher_pgd"):
    assert found.nonfinite_gradients[FLAT].all()
  if name != "kl_pgd":
    assert found.zero_gradients[BLIND] == (name != "square")
    # Wrong, as nothing is predicted, and said so.
    assert found.success[BLIND]
    np.testing.assert_array_equal(
      np.flatnonzero(found.nonfinite_logits), [BLIND]
    )
    assert np.isnan(found.loss[BLIND])


def test_each_row_has_its_own_radius(attacked, rows):
  _, run, found = attacked
  _, _, epsilon, _ = rows
  moved = 0
  for radius in (0.1, 0.4):
    alone = run(np.full(SIZE, radius, np.float32))
    own = np.flatnonzero(epsilon[:9] == np.float32(radius))
    np.testing.assert_array_equal(found.x_adv[own], alone.x_adv[own])
    np.testing.assert_array_equal(found.success[own], alone.success[own])
    moved += np.sum(found.x_adv[:9] != alone.x_adv[:9])
  assert moved > 0


def test_one_radius_is_that_radius_for_every_row(rows):
  x = rows[0][SOUND]

  @jax.jit
  def points(epsilon):
    # Every part that a radius goes through.
    keys = jax.random.split(KEY, len(x))
    found = [
      auto_pgd.surface(keys, x, epsilon, norm) for norm in ("linf", "l2")
    ]
    for start in initial.BY_NORM.values():
      found.append(start(keys, x, epsilon))
    for name in ("project_linf", "rescale_l2", "project_l2", "project_l1"):
      project = getattr(projections, name)
      found.append(project(x + 1, x, epsilon, low=0.0, high=1.0))
    return found

  one, each = points(0.1), points(np.full(6, 0.1, np.float32))
  for number, column in zip(one, each, strict=True):
    np.testing.assert_allclose(number, column, atol=1e-6)


@pytest.mark.parametrize("shape", [(1,), (4,), (SIZE, 1), (2, SIZE)])
def test_other_shapes_are_refused_under_jit(mlp, rows, shape):
  x, y, _, _ = rows
  attack = jax.jit(
    lambda epsilon: attacks.apgd(mlp, x, y, KEY, epsilon=epsilon)
  )
  with pytest.raises(ValueError, match="number or of shape") as caught:
    jax.eval_shape(attack, jax.ShapeDtypeStruct(shape, jnp.float32))
  assert "\n" not in str(caught.value)
  with pytest.raises(ValueError, match="number or of shape"):
    projections.project_linf(x, x, np.ones(shape), low=0.0, high=1.0)
