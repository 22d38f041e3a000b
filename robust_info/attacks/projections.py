"""Projections onto a norm ball around `x` intersected with a box.

Each takes [N, ...] arrays, treats rows independently and returns a point of
`{x': |x' - x|_norm <= epsilon, low <= x' <= high}`, up to the rounding of
`x + delta` in each coordinate. `x` must lie in the box. `epsilon` is one radius
or [N], one per example, and may be traced; with `epsilon = 0` the result is
`x`, bit for bit. Shape letters: N examples, D inputs flattened.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from robust_info.attacks import radii

NORMS = ("linf", "l2", "l1")

Projection = Callable[..., jax.Array]

# Halvings of a bracket of length one: beyond float32 resolution.
_BISECTIONS = 40


def norm(delta: jax.Array, kind: str) -> jax.Array:
  """[N] norms of perturbations [N, ...]; squares cannot under- or overflow."""
  flat = jnp.abs(delta.reshape(delta.shape[0], -1))
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
  """Clips to `[x - epsilon, x + epsilon]` and the box: the nearest point."""
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

  Always inside both sets, but not the nearest such point when both constrain.
  What PGD and AutoAttack do in l2; one pass instead of `project_l2`'s forty.
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
  """The largest shrunk perturbation, cut at the box, that fits the ball.

  Args:
    x_adv: [N, ...].
    x: [N, ...].
    epsilon: [] or [N].
    low: the box.
    high: the box.
    size: norm of magnitudes, [N, D] -> [N].
    shrink: (magnitudes [N, D], s [N, 1] in [0, 1]) -> [N, D], growing with s,
      the identity at s = 1 and zero at s = 0.

  Returns:
    [N, ...].
  """
  epsilon = radii.of(epsilon, x)
  delta = (x_adv - x).reshape(x.shape[0], -1)
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
  # No network inside: rolling costs nothing here.
  (s, _), _ = jax.lax.scan(halve, bracket, None, length=_BISECTIONS)
  s = jnp.where(size(cut(one)) <= epsilon, one, s)
  moved = jnp.where(jnp.broadcast_to(epsilon > 0, s.shape)[:, None], cut(s), 0)
  return x + (jnp.sign(delta) * moved).reshape(x.shape)


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
  a row, found by bisection: 40 passes over [N, D].
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
  multiplier a row and cut at the box (Croce & Hein 2021); the multiplier is
  found by bisection: 40 passes over [N, D], no sort.
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
