"""Projections onto ball and box, against the definition of a nearest point."""

import functools

import hypothesis
import jax
import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import optimize

from robust_info.attacks import _fab, initial, projections

NORMS = ("linf", "l2", "l1")
SHAPE = (3, 6)


def floats(low, high):
  # XLA flushes subnormal numbers to zero.
  elements = st.floats(low, high, width=32, allow_subnormal=False)
  return hnp.arrays(np.float32, SHAPE, elements=elements)


unit, moves = floats(0, 1), floats(-3, 3)
radii = st.sampled_from([0.0, 0.03125, 0.25, 1.0, 4.0])
COMPILED = {
  name: jax.jit(getattr(projections, name), static_argnames=("low", "high"))
  for name in ("project_linf", "project_l2", "project_l1", "rescale_l2")
}
# The first example of a run compiles, so there is no deadline.
relaxed = hypothesis.settings(
  max_examples=30,
  deadline=None,
  suppress_health_check=[hypothesis.HealthCheck.too_slow],
)


def project(name, x, delta, epsilon):
  point = COMPILED[name](x + delta, x, epsilon, low=0.0, high=1.0)
  return np.asarray(point)


def sizes(name, moves):
  order = {"linf": np.inf, "l2": 2, "l1": 1}[name.split("_")[1]]
  return np.linalg.norm(moves.astype(np.float64), order, axis=1)


@pytest.mark.parametrize("name", COMPILED)
@relaxed
@hypothesis.given(x=unit, delta=moves, epsilon=radii)
def test_lands_in_ball_and_box_and_keeps_what_is_inside(
  name, x, delta, epsilon
):
  point = project(name, x, delta, epsilon)
  assert sizes(name, point - x).max() <= epsilon + 1e-6
  assert point.min() >= -1e-6
  assert point.max() <= 1 + 1e-6
  again = project(name, x, point - x, epsilon)
  np.testing.assert_allclose(again, point, atol=1e-6)
  if epsilon == 0:
    np.testing.assert_array_equal(point, x)


@pytest.mark.parametrize("name", COMPILED)
def test_stays_in_a_box_whose_faces_rounding_may_cross(name):
  rng = np.random.default_rng(0)
  low, high = -3.0, 250.0
  x = rng.uniform(low, high, (200, 6)).astype(np.float32)
  target = x + rng.normal(0, 1e3, x.shape).astype(np.float32)
  point = np.asarray(COMPILED[name](target, x, 1e4, low=low, high=high))
  assert point.min() == low
  assert point.max() == high


@pytest.mark.parametrize("norm", NORMS)
@relaxed
@hypothesis.given(
  x=unit,
  delta=moves,
  other=moves,
  epsilon=st.sampled_from([0.03125, 0.25, 1.0]),
)
def test_is_the_nearest_point(norm, x, delta, other, epsilon):
  # Obtuse angle criterion: (target - p) . (q - p) <= 0 for all q in the set.
  point = project("project_" + norm, x, delta, epsilon)
  inside = project("project_" + norm, x, other, epsilon)
  target = x.astype(np.float64) + delta
  product = np.sum((target - point) * (inside - point), axis=1)
  assert product.max() <= 1e-5


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_hyperplane_moves_are_feasible_and_shortest(norm):
  rng = np.random.default_rng(1)
  points = rng.uniform(size=(20, 6))
  normal = rng.normal(size=(20, 6))
  normal[:, 0] = 0
  offset = rng.normal(size=20)
  project = jax.jit(
    functools.partial(_fab.project_to_hyperplane, norm=norm, low=0.0, high=1.0)
  )

  def scaled(scale):
    arrays = points, scale * normal, scale * offset
    return np.asarray(project(*(a.astype(np.float32) for a in arrays)))

  moves = scaled(1)
  for scale in (1e-30, 1e30):
    np.testing.assert_allclose(scaled(scale), moves, rtol=1e-4, atol=1e-6)
  assert (points + moves).min() >= -1e-6
  assert (points + moves).max() <= 1 + 1e-6
  room = np.where(-offset[:, None] * normal > 0, 1 - points, points)
  reach = np.sum(np.abs(normal) * room, axis=1)
  gained = -np.sign(offset) * np.sum(normal * moves, axis=1)
  reachable = reach > np.abs(offset)
  assert reachable.any()
  assert not reachable.all()
  np.testing.assert_allclose(
    gained, np.minimum(np.abs(offset), reach), rtol=1e-4, atol=1e-5
  )
  for row in np.flatnonzero(reachable)[:5]:
    size = len(points[row])
    if norm == "linf":
      # Variables: the moves and the bound on them.
      bound = np.block(
        [
          [np.eye(size), -np.ones((size, 1))],
          [-np.eye(size), -np.ones((size, 1))],
        ]
      )
      best = optimize.linprog(
        np.r_[np.zeros(size), 1],
        A_ub=bound,
        b_ub=np.zeros(2 * size),
        A_eq=np.r_[normal[row], 0][None],
        b_eq=[-offset[row]],
        bounds=[*zip(-points[row], 1 - points[row], strict=True), (0, None)],
      ).fun
      found = np.abs(moves[row]).max()
    else:
      best = np.sqrt(
        optimize.minimize(
          lambda d: np.sum(d**2),
          moves[row],
          bounds=list(zip(-points[row], 1 - points[row], strict=True)),
          constraints={
            "type": "eq",
            "fun": lambda d, row=row: normal[row] @ d + offset[row],
          },
        ).fun
      )
      found = np.linalg.norm(moves[row])
    assert found == pytest.approx(best, abs=1e-4)


def test_norms_do_not_underflow_or_overflow():
  norm = jax.jit(projections.norm, static_argnums=1)
  tiny = np.full((1, 4), 1e-30, np.float32)
  huge = np.full((1, 4), 1e30, np.float32)
  for value in (tiny, huge):
    expected = 2 * value[0, 0]
    np.testing.assert_allclose(norm(value, "l2")[0], expected, 1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_random_starts_fill_the_ball_uniformly(norm):
  keys = jax.random.split(jax.random.key(0), 4000)
  x = np.zeros((4000, 3), np.float32)
  start = jax.jit(initial.BY_NORM[norm])
  lengths = sizes("_" + norm, np.asarray(start(keys, x, 2.0)))
  assert lengths.max() <= 2 + 1e-6
  # In three dimensions, 1/8 of the ball lies within half the radius.
  assert np.mean(lengths < 1) == pytest.approx(1 / 8, abs=0.02)
