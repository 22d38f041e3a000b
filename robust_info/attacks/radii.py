"""Radii and step sizes: one number for all examples, or one per example.

Shape letters: N examples, D inputs flattened.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Real

from robust_info import _validate
from robust_info.attacks import results

Radius = Real[ArrayLike, ""] | Real[ArrayLike, " N"]


def check(name: str, value: Any, num_examples: int) -> None:
  """Requires one finite number >= 0, or [N] of them.

  The shape is always validated, values only where they are concrete; bad traced
  values make their rows invalid, see `results.AttackResult`.
  """
  shape = np.shape(value)
  _require_shape(name, shape, num_examples)
  if not _validate.is_concrete(value):
    return
  values = np.asarray(value)
  bad = ~usable(values)
  if bad.any():
    place = f"{name}[{np.argmax(bad)}]" if shape else name
    raise ValueError(
      f"Expected {name} >= 0 and finite, got {place}={values[bad].flat[0]:g}."
    )


def usable(value: Any) -> Any:
  """Whether values are finite and not negative; NumPy or JAX arrays."""
  return (value >= 0) & (value < np.inf)


def _require_shape(name: str, shape: tuple[int, ...], num_examples: int):
  # Another shape may broadcast against the inputs by accident: for example, [D]
  # would be one radius per feature.
  if shape not in ((), (num_examples,)):
    raise ValueError(
      f"Expected {name} to be a number or of shape ({num_examples},), one per "
      f"example, got shape {tuple(shape)}."
    )


def of(epsilon: ArrayLike, x: jax.Array) -> jax.Array:
  """Casts [] or [N] to the type of inputs [N, ...]; refuses other shapes."""
  epsilon = jnp.asarray(epsilon, x.dtype)
  _require_shape("epsilon", epsilon.shape, x.shape[0])
  return epsilon


def argument(value: ArrayLike, x: jax.Array) -> jax.Array | np.ndarray:
  """A valid radius as the argument of a compiled function.

  A number of the host stays there: JAX takes longer to move one than to call.
  """
  return (
    of(value, x) if isinstance(value, jax.Array) else np.asarray(value, x.dtype)
  )


def along(epsilon: ArrayLike, x: jax.Array) -> jax.Array:
  """`of` with trailing axes of length one, to broadcast over `x` [N, ...]."""
  return results.rows(of(epsilon, x), x)


def tile(value: jax.Array, times: int) -> jax.Array:
  """Repeats [N] for `times` copies of the batch: [] or [times * N]."""
  return jnp.tile(value, times) if value.ndim else value
