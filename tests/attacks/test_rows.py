"""The contract of every attack, row by row; rows that cannot be attacked.

One program per attack serves all tests: the rows of its batch differ.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robust_info import attacks
from robust_info.attacks import initial, projections

KEY = jax.random.key(0)
# As many rows as inputs: a radius per row must not be mistaken for one per
# input.
SIZE = 16
EPSILON = {"linf": 0.1, "l2": 0.4, "l1": 1.0}
ATTACKS = {
  "pgd": functools.partial(attacks.pgd, num_steps=3, restarts=2, keep="worst"),
  "kl_pgd": lambda fn, x, y, key, **options: attacks.kl_pgd(
    fn, x, key, num_steps=3, momentum=0.5, **options
  ),
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
# Targeted attacks share the steps of the others; the Fisher attack shares those
# of PGD, and test_iterative.py tests its l2 start.
COMPILED = [
  ("pgd", "l2"),
  ("kl_pgd", "l1"),
  ("apgd", "linf"),
  ("apgd", "l2"),
  ("apgd_targeted", "linf"),
  ("fab", "linf"),
  ("fab", "l2"),
  ("fab_targeted", "linf"),
  ("square", "linf"),
  ("square", "l2"),
  ("fisher_pgd", "linf"),
]
SOUND = slice(0, 6)
# Rows with two equal pixels; a row without logits; and one row per kind of
# invalid argument.
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
  y = np.argmax(np.asarray(mlp(x)), -1).astype(np.int32)
  epsilon = np.tile(np.float32([0.1, 0.4]), SIZE // 2)
  x[9, 3], x[10, 3], y[11], y[12] = 1.5, np.nan, 12, -1
  epsilon[13], epsilon[14] = -0.1, np.nan
  x[MASKED], y[MASKED] = 3, 99
  return x, y, epsilon, np.arange(SIZE) != MASKED


@pytest.fixture(scope="module", params=COMPILED, ids="-".join)
def attacked(request, mlp, rows):
  """Name and norm, the compiled attack, and its result on the rows."""
  name, norm = request.param
  fn = jax.tree_util.Partial(network, mlp)
  attack = jax.jit(functools.partial(ATTACKS[name], norm=norm))
  x, y, epsilon, where = rows

  def run(epsilon, x=x, y=y, where=where):
    return jax.device_get(attack(fn, x, y, KEY, epsilon=epsilon, where=where))

  return request.param, run, run(epsilon)


def test_every_attack_keeps_the_contract(attacked, mlp, batch):
  (name, norm), run, _ = attacked
  x, y = (rows[:SIZE] for rows in batch)
  x = x.reshape(SIZE, SIZE).copy()
  x[:, -1] = np.minimum(x[:, -1], 0.8)
  clean = np.argmax(np.asarray(network(mlp, x)), -1)
  if name == "kl_pgd":
    y = clean.astype(np.int32)
  where = np.arange(SIZE) % 4 != 1
  radii = np.full(SIZE, EPSILON[norm], np.float32)
  result = run(radii, x, y, where)
  sizes = projections.norm(result.x_adv - x, norm)
  assert float(sizes.max()) <= EPSILON[norm] + 1e-6
  assert result.x_adv.min() >= 0
  assert result.x_adv.max() <= 1
  np.testing.assert_array_equal(result.x_adv[~where], x[~where])
  assert not result.success[~where].any()
  logits = np.asarray(network(mlp, result.x_adv))
  np.testing.assert_array_equal(
    result.success, (np.argmax(logits, -1) != y) & where
  )
  clean_wrong = (clean != y) & where
  assert result.success.sum() > clean_wrong.sum()
  still = run(0 * radii, x, y, where)
  np.testing.assert_array_equal(still.x_adv, x)
  np.testing.assert_array_equal(still.success, clean_wrong)


def test_what_makes_no_sense_is_flagged_under_jit(attacked, rows):
  (name, _), _, found = attacked
  x, _, _, _ = rows
  expected = np.ones(SIZE, bool)
  expected[INVALID] = False
  if name == "kl_pgd":
    # KL-PGD takes no labels, and needs a clean prediction.
    expected[11:13], expected[BLIND] = True, False
  np.testing.assert_array_equal(found.valid, expected)
  np.testing.assert_array_equal(found.x_adv[~expected], x[~expected])
  assert np.isnan(found.loss[~expected]).all()
  assert np.isnan(found.logits[~expected]).all()
  assert not found.success[~expected].any()
  assert np.isnan(found.robust_accuracy())
  # A masked row stays clean and does not count.
  np.testing.assert_array_equal(found.x_adv[MASKED], x[MASKED])
  assert found.loss[MASKED] == 0
  assert not found.success[MASKED]


def test_points_are_finite_and_inside_whatever_the_gradients(attacked, rows):
  (name, norm), _, found = attacked
  x, _, epsilon, _ = rows
  points = found.x_adv[:9]
  assert np.isfinite(points).all()
  assert points.min() >= 0
  assert points.max() <= 1
  sizes = projections.norm(points - x[:9], norm)
  assert np.all(np.asarray(sizes) <= epsilon[:9] + 1e-6)
  assert not found.nonfinite_gradients[SOUND].any()
  # Starts off the clean point separate the pixels.
  if name in ("fab", "fab_targeted", "fisher_pgd"):
    assert found.nonfinite_gradients[FLAT].all()
  if name != "kl_pgd":
    assert found.zero_gradients[BLIND] == (name != "square")
    # Without a prediction the row counts as wrong, and is reported.
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
    # All functions that receive a radius.
    keys = jax.random.split(KEY, len(x))
    found = [initial.surface(keys, x, epsilon, norm) for norm in ("linf", "l2")]
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


# Traced only: types and shapes are settled there.
@pytest.mark.parametrize(
  ("name", "norm"), COMPILED, ids=map("-".join, COMPILED)
)
def test_no_rows_and_mixed_precision(name, norm):
  weights = np.ones((SIZE, 3), np.float32)

  def shapes(num_rows, of_x, of_logits):
    def attack(x, y):
      network = lambda v: (v.astype(weights.dtype) @ weights).astype(of_logits)  # noqa: E731
      return ATTACKS[name](network, x, y, KEY, epsilon=0.1, norm=norm)

    x = jax.ShapeDtypeStruct((num_rows, SIZE), of_x)
    y = jax.ShapeDtypeStruct((num_rows,), np.int32)
    return jax.eval_shape(attack, x, y)

  assert shapes(0, np.float32, np.float32).logits.shape == (0, 3)
  with jax.enable_x64(True), jax.numpy_dtype_promotion("strict"):
    for of_x, of_logits in ((np.float64, np.float32), (np.float32, np.float64)):
      found = shapes(2, of_x, of_logits)
      assert found.x_adv.dtype == of_x
      assert found.logits.dtype == of_logits
