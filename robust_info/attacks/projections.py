"""Projections onto a norm ball around `x` intersected with a box.

Each function takes [N, ...] arrays, treats rows independently and returns a
point of `{x': |x' - x|_norm <= epsilon, low <= x' <= high}`, in the ball up to
the rounding of `x + delta` in each coordinate. `x` must lie in the box.
`epsilon` is one radius, or [N], one per example, and may be traced; with
`epsilon = 0` the result is `x`, bit for bit. Shape letters: N examples, D
inputs flattened.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from robust_info._xla import contractions
from robust_info.attacks import radii

NORMS = ("linf", "l2", "l1")
# All attacks but PGD are defined in these only.
COMMON_NORMS = ("linf", "l2")

Projection = Callable[..., jax.Array]

# Number of halvings of a bracket of length one: beyond float32 resolution.
_BISECTIONS = 40


def norm(delta: jax.Array, kind: str) -> jax.Array:
  """[N] norms of perturbations [N, ...]; squares cannot under- or overflow."""
  flat = jnp.abs(contractions.flat(delta))
  largest = jnp.max(flat, axis=-1)
  if kind == "linf":
    return largest
  if kind == "l1":
    return jnp.sum(flat, axis=-1)
  scale = jnp.where(largest > 0, largest, 1)
  return scale * jnp.sqrt(jnp.sum((flat / scale[:, None]) ** 2, axis=-1))


def project_linf(
  x_adv: jax.Array,
  x: jax.Array,
  epsilon: ArrayLike,
  *,
  low: float,
  high: float,
) -> jax.Array:
  """Nearest point: clips to `[x - epsilon, x + epsilon]` and to the box."""
  epsilon = radii.along(epsilon, x)
  return jnp.clip(jnp.clip(x_adv, x - epsilon, x + epsilon), low, high)


def rescale_l2(
  x_adv: jax.Array,
  x: jax.Array,
  epsilon: ArrayLike,
  *,
  low: float,
  high: float,
) -> jax.Array:
  """Scales the perturbation into the l2 ball, then clips to the box.

  The result is always inside both sets, but it is not the nearest such point
  when both constrain. PGD and AutoAttack project like this in l2. It takes one
  pass instead of the forty of `project_l2`.
  """
  delta = x_adv - x
  length = norm(delta, "l2")
  epsilon = radii.of(epsilon, x)
  factor = jnp.minimum(1, epsilon / jnp.where(length > 0, length, 1))
  shape = (x.shape[0],) + (1,) * (x.ndim - 1)
  return jnp.clip(x + factor.reshape(shape) * delta, low, high)


def _nearest(
  x_adv: jax.Array,
  x: jax.Array,
  epsilon: ArrayLike,
  low: float,
  high: float,
  size: Callable[[jax.Array], jax.Array],
  shrink: Callable[[jax.Array, jax.Array], jax.Array],
) -> jax.Array:
  """Finds the largest shrunk perturbation, cut at the box, that fits the ball.

  Args:
    x_adv: [N, ...] points to project.
    x: [N, ...] centres of the balls.
    epsilon: radius of the ball, [] or [N].
    low: lower bound of the box.
    high: upper bound of the box.
    size: norm of magnitudes, [N, D] -> [N].
    shrink: (magnitudes [N, D], s [N, 1] in [0, 1]) -> [N, D], growing with s,
      the identity at s = 1 and zero at s = 0.

  Returns:
    [N, ...] projected points.
  """
  epsilon = radii.of(epsilon, x)
  delta = contractions.flat(x_adv - x)
  origin = x.reshape(delta.shape)
  room = jnp.maximum(jnp.where(delta > 0, high - origin, origin - low), 0)
  magnitudes = jnp.abs(delta)

  def cut(s):
    return jnp.minimum(shrink(magnitudes, s[:, None]), room)

  def halve(bracket, _):
    fitting, above = bracket
    middle = (fitting + above) / 2
    fits = size(cut(middle)) <= epsilon
    return (
      jnp.where(fits, middle, fitting),
      jnp.where(fits, above, middle),
    ), None

  one = jnp.ones((x.shape[0],), x.dtype)
  bracket = (jnp.zeros_like(one), one)
  # A plain scan: the body has no network, so a rolled loop is not slower.
  (s, _), _ = jax.lax.scan(halve, bracket, None, length=_BISECTIONS)
  # A perturbation that fits already stays exactly as it is.
  s = jnp.where(size(cut(one)) <= epsilon, one, s)
  moved = jnp.where(jnp.broadcast_to(epsilon > 0, s.shape)[:, None], cut(s), 0)
  # The sum may be rounded to a number beyond the face of the box.
  nearest = x + (jnp.sign(delta) * moved).reshape(x.shape)
  return jnp.clip(nearest, low, high)


def project_l2(
  x_adv: jax.Array,
  x: jax.Array,
  epsilon: ArrayLike,
  *,
  low: float,
  high: float,
) -> jax.Array:
  """Nearest point of the l2 ball and the box, to 1e-6.

  By the optimality conditions it is `clip(x + s * delta)` with one factor `s`
  per row. Bisection finds the factor in 40 passes over [N, D].
  """
  return _nearest(
    x_adv,
    x,
    epsilon,
    low,
    high,
    size=lambda m: jnp.sqrt(jnp.sum(m**2, axis=-1)),
    shrink=lambda m, s: s * m,
  )


def project_l1(
  x_adv: jax.Array,
  x: jax.Array,
  epsilon: ArrayLike,
  *,
  low: float,
  high: float,
) -> jax.Array:
  """Nearest point of the l1 ball and the box, to 1e-6 in each coordinate.

  By the optimality conditions the magnitudes are soft-thresholded by one
  multiplier per row and cut at the box (Croce & Hein 2021). Bisection finds the
  multiplier in 40 passes over [N, D], without a sort.
  """

  def shrink(magnitudes, s):
    largest = jnp.max(magnitudes, axis=-1, keepdims=True)
    return jnp.maximum(magnitudes - (1 - s) * largest, 0)

  return _nearest(
    x_adv,
    x,
    epsilon,
    low,
    high,
    size=lambda m: jnp.sum(m, axis=-1),
    shrink=shrink,
  )


BY_NORM: dict[str, Projection] = {
  "linf": project_linf,
  "l2": rescale_l2,
  "l1": project_l1,
}
