"""A divergence and its two parts, and pairs of inputs."""

import dataclasses

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from robust_info import _validate
from robust_info._xla import tangents


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Components:
  """A divergence and its two parts; `total = non_robust + robust`.

  Attributes:
    total: [P], `KL(p(x) || p(x'))`, nats, at least 0.
    non_robust: [P], the Fisher part, nats, at least 0.
    robust: [P], the robust rest, nats; may be negative.
    error: [P], the estimated absolute error of `non_robust` (and of `robust`)
      from the quadrature, nats; `None` for the local lens, which has no
      quadrature.
    nodes: [P] int32, the number of segments behind `non_robust`; path lens.
    geodesic: [P], half the squared `fisher_rao_distance` of the two
      predictions, at most pi^2/2: no path between them has a smaller Fisher
      part, averaged over its two directions (x, x') and (x', x); path lens.
  """

  total: jax.Array
  non_robust: jax.Array
  robust: jax.Array
  error: jax.Array | None = None
  nodes: jax.Array | None = None
  geodesic: jax.Array | None = None


def point(x: jax.Array, x_other: jax.Array, t: jax.Array) -> jax.Array:
  """`x + t (x_other - x)`, exactly x at t = 0 and x_other at t = 1."""
  wide = jnp.promote_types(x.dtype, jnp.float32)
  t, start, end = t.astype(wide), x.astype(wide), x_other.astype(wide)
  return ((1 - t) * start + t * end).astype(x.dtype)


def logits_at(logits_fn: _validate.LogitsFn, x: jax.Array) -> jax.Array:
  """Logits [P, C]; a wrong shape raises a ValueError."""
  logits = logits_fn(x)
  _validate.logits_shape(logits.shape, x.shape[0])
  return logits


def derivative(
  logits_fn: _validate.LogitsFn, x: jax.Array, direction: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Logits [P, C] and their derivative along `direction`: one JVP."""
  logits, tangent = tangents.jvp(logits_fn, x, direction)
  _validate.logits_shape(logits.shape, x.shape[0])
  return logits, tangent


def check_pair(
  logits_fn: _validate.LogitsFn, x: ArrayLike, x_other: ArrayLike
) -> tuple[jax.Array, jax.Array]:
  """Both inputs as arrays of one floating dtype.

  Raises:
    TypeError: `logits_fn` is not a function, or the inputs are not floats.
    ValueError: the inputs do not fit each other.
  """
  _validate.logits_fn("logits_fn", logits_fn)
  x = _validate.inputs("x", x, "[P, ...]")
  x_other = _validate.inputs("x_other", x_other, "[P, ...]").astype(x.dtype)
  _validate.same_shape("x_other", x_other, "x", x)
  return x, x_other
