"""Step rules: the unit direction of steepest ascent in a norm.

Each rule maps a gradient [N, ...] (and the point at which it was taken) to a
direction of unit length in the rule's norm, row by row. A zero gradient gives a
zero direction. Shape letters: N examples, D inputs flattened.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from robust_info._xla import contractions
from robust_info.attacks import projections

# gradient, x_adv, low, high -> direction.
StepRule = Callable[..., jax.Array]

# Share of the coordinates that an l1 step moves (Tramer & Boneh 2019 take the
# top percentile of the gradient; small inputs need more than one coordinate).
_L1_SHARE = 0.05


def unit(gradient: jax.Array, kind: str) -> jax.Array:
  """Divides gradients [N, ...] by their norms; zero stays zero."""
  # First scale the largest entry to one: the squares of the tiny gradients of
  # a saturated loss underflow in float32.
  shape = (gradient.shape[0],) + (1,) * (gradient.ndim - 1)
  largest = projections.norm(gradient, "linf").reshape(shape)
  scaled = gradient / jnp.where(largest > 0, largest, 1)
  length = projections.norm(scaled, kind).reshape(shape)
  return scaled / jnp.where(length > 0, length, 1)


def sign(
  gradient: jax.Array, x_adv: jax.Array, *, low: float, high: float
) -> jax.Array:
  """Steepest ascent in linf: the sign of the gradient."""
  del x_adv, low, high
  return jnp.sign(gradient)


def normalized(
  gradient: jax.Array, x_adv: jax.Array, *, low: float, high: float
) -> jax.Array:
  """Steepest ascent in l2: the gradient over its l2 norm."""
  del x_adv, low, high
  return unit(gradient, "l2")


def sparse(
  gradient: jax.Array, x_adv: jax.Array, *, low: float, high: float
) -> jax.Array:
  """Sparse ascent in l1: signs of the largest 5 % of the gradient, l1-normed.

  The direction of steepest ascent moves one coordinate at a time; moving a few
  percent of them converges in far fewer steps (Tramer & Boneh 2019).
  Coordinates at a face of the box through which the gradient points outwards
  cannot move and are not chosen.
  """
  stuck = ((x_adv >= high) & (gradient > 0)) | ((x_adv <= low) & (gradient < 0))
  sizes = contractions.flat(jnp.where(stuck, 0, jnp.abs(gradient)))
  count = math.ceil(_L1_SHARE * sizes.shape[-1])
  threshold = jax.lax.top_k(sizes, count)[0][:, -1:]
  chosen = (sizes >= threshold) & (sizes > 0)
  return unit(
    jnp.sign(gradient) * chosen.reshape(gradient.shape).astype(gradient.dtype),
    "l1",
  )


BY_NORM: dict[str, StepRule] = {
  "linf": sign,
  "l2": normalized,
  "l1": sparse,
}
