"""The checks every attack makes at the door.

Shape letters: N examples, C classes.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from robust_info import _validate

Bounds = tuple[float, float] | None
LogitsFn = Callable[..., jax.Array]


@dataclasses.dataclass(frozen=True)
class Inputs:
  """Checked arguments of an attack.

  Attributes:
    x: [N, ...] float.
    y: [N] labels; 0 in masked rows, whatever was there.
    where: [N] bool.
    low: lower bound of the box, a Python float (possibly -inf).
    high: upper bound of the box.
  """

  x: jax.Array
  y: jax.Array
  where: jax.Array
  low: float
  high: float


def images(name: str, value: Any, bounds: Bounds, where: Any) -> jax.Array:
  """Float inputs [N, ...] whose unmasked concrete rows lie in the box."""
  array = jnp.asarray(value)
  if not jnp.issubdtype(array.dtype, jnp.floating):
    raise TypeError(
      f"Expected float {name}, got dtype={array.dtype}; scale bytes with "
      f"{name} / 255, and keep any normalisation inside logits_fn."
    )
  array = _validate.float_array(name, array)
  _validate.min_rank(name, array, 2, "[N, ...]")
  if bounds is None or not (
    _validate.is_concrete(array) and _validate.is_concrete(where)
  ):
    return array
  values = np.asarray(array)
  if where is not None:
    values = values[np.asarray(where)]
  if values.size and not (
    values.min() >= bounds[0] - 1e-6 and values.max() <= bounds[1] + 1e-6
  ):
    raise ValueError(
      f"Expected {name} in bounds={bounds}, got values from "
      f"{values.min():g} to {values.max():g}; rescale {name} (normalisation "
      "belongs inside logits_fn) or pass the bounds of your inputs."
    )
  return array


def box(bounds: Bounds) -> tuple[float, float]:
  """Checks the box; `None` is all of R."""
  if bounds is None:
    return -np.inf, np.inf
  if (
    not isinstance(bounds, tuple | list)
    or len(bounds) != 2
    or not bounds[0] < bounds[1]
  ):
    raise ValueError(
      f"Expected bounds to be (low, high) with low < high, or None for "
      f"unbounded inputs, got bounds={bounds!r}."
    )
  return float(bounds[0]), float(bounds[1])


def check(
  logits_fn: LogitsFn, x: Any, y: Any, *, bounds: Bounds, where: Any
) -> Inputs:
  """Checks what every attack takes; `y=None` for attacks without labels."""
  _validate.logits_fn("logits_fn", logits_fn)
  low, high = box(bounds)
  num_examples = np.shape(x)[0] if np.ndim(x) else 0
  rows = np.ones(num_examples, bool)
  if where is not None:
    rows = _validate.mask("where", where, num_examples)
  x = images("x", x, bounds, where)
  if y is None:
    y = jnp.zeros((num_examples,), jnp.int32)
  y = _validate.labels("y", y, num_examples)
  if where is not None:
    y = jnp.where(rows, y, 0)
  return Inputs(x, y, rows, low, high)


def num_classes(evaluate: LogitsFn, x: jax.Array) -> int:
  """C, from the shape of the logits; evaluates nothing."""
  shape = jax.eval_shape(evaluate, x).shape
  _validate.logits_shape(shape, x.shape[0])
  return shape[1]


def channels_last(name: str, value: Any) -> None:
  """Refuses images that are channels-first, as far as a shape can tell.

  Only Square cares: its windows are of pixels, with all their channels. At most
  4 entries along axis 1 and more than 4 along the last are taken for channels
  and a width, [N, C, H, W] or [N, C, D, H, W].
  """
  shape = np.shape(value)
  if len(shape) >= 4 and shape[1] <= 4 < shape[-1]:
    raise ValueError(
      f"Expected {name} to be channels-last images [N, H, W, C] for Square, "
      f"got shape={shape}; pass jnp.moveaxis({name}, 1, -1) and a logits_fn "
      "that moves the axis back, lambda v: logits_fn(jnp.moveaxis(v, -1, 1))."
    )


def require_key(key: Any) -> None:
  """Requires a key where randomness is needed."""
  if key is None:
    raise TypeError(
      "Expected key to be a PRNG key, got None; pass jax.random.key(seed) (or "
      "random_start=False where nothing else is random)."
    )


def example_keys(key: Any, example_ids: Any, num_examples: int) -> jax.Array:
  """One key an example, so that randomness follows the example.

  Args:
    key: a key, consumed.
    example_ids: [N] ints, or `None` for 0..N-1.
    num_examples: N.

  Returns:
    [N] keys.
  """
  require_key(key)
  if example_ids is None:
    example_ids = jnp.arange(num_examples)
  example_ids = _validate.labels("example_ids", example_ids, num_examples)
  return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, example_ids)
