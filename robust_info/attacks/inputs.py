"""Validation of the arguments that all attacks share.

Shape letters: N examples, C classes.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from robust_info import _validate
from robust_info._xla import compiled
from robust_info.attacks import ascent, radii

Bounds = tuple[float, float] | None

# Tolerance for the rounding of inputs that were scaled into the box.
_SLACK = 1e-6


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Inputs:
  """Validated arguments of an attack.

  Attributes:
    x: [N, ...] float inputs.
    y: [N] labels; always 0 in masked rows.
    where: [N] bool, `False` in masked rows.
    low: lower bound of the box, a Python float (possibly -inf).
    high: upper bound of the box.
  """

  x: jax.Array | np.ndarray
  y: jax.Array | np.ndarray
  where: jax.Array | np.ndarray
  low: float = dataclasses.field(metadata={"static": True})
  high: float = dataclasses.field(metadata={"static": True})


def images(name: str, value: Any, bounds: Bounds, where: Any) -> jax.Array:
  """Validates float inputs [N, ...]: unmasked concrete rows lie in the box."""
  array = _validate.as_array(name, value)
  _require_float(name, array.dtype)
  array = _validate.float_array(name, array)
  _validate.min_rank(name, array, 2, "[N, ...]")
  if _validate.is_concrete(array) and _validate.is_concrete(where):
    _require_values(name, np.asarray(array), bounds, where)
  return array


def _require_float(name: str, dtype: Any) -> None:
  if not jnp.issubdtype(dtype, jnp.floating):
    raise TypeError(
      f"Expected float {name}, got dtype={dtype}; scale bytes with "
      f"{name} / 255, and keep any normalisation inside logits_fn."
    )


def _require_values(
  name: str, values: np.ndarray, bounds: Bounds, where: Any
) -> None:
  """Requires unmasked rows to be finite and in the box."""
  if where is not None:
    values = values[np.asarray(where)]
  if not values.size:
    return
  if bounds is None:
    if not np.isfinite(values).all():
      raise ValueError(f"Expected {name} to be finite, got NaN or infinity.")
  elif not (
    values.min() >= bounds[0] - _SLACK and values.max() <= bounds[1] + _SLACK
  ):
    raise ValueError(
      f"Expected {name} in bounds={bounds}, got values from "
      f"{values.min():g} to {values.max():g}; rescale {name} (normalisation "
      "belongs inside logits_fn) or pass the bounds of your inputs."
    )


def box(bounds: Bounds) -> tuple[float, float]:
  """Validates the box and returns (low, high); `None` means all of R."""
  if bounds is None:
    return -np.inf, np.inf
  if (
    not isinstance(bounds, tuple | list)
    or len(bounds) != 2
    or any(np.ndim(bound) for bound in bounds)
    or not bounds[0] < bounds[1]
  ):
    raise ValueError(
      f"Expected bounds to be two numbers (low, high) with low < high, or None "
      f"for unbounded inputs, got bounds={bounds!r}."
    )
  return float(bounds[0]), float(bounds[1])


def check(
  logits_fn: _validate.LogitsFn, x: Any, y: Any, *, bounds: Bounds, where: Any
) -> Inputs:
  """Validates the arguments of an attack; `y=None` if it takes no labels."""
  _validate.logits_fn("logits_fn", logits_fn)
  low, high = box(bounds)
  num_examples = np.shape(x)[0] if np.ndim(x) else 0
  rows = np.ones(num_examples, bool)
  if where is not None:
    rows = _validate.mask("where", where, num_examples)
  x = images("x", x, bounds, where)
  if y is None:
    y = jnp.zeros((num_examples,), jnp.int32)
  y = _validate.labels("y", y, num_examples, where)
  if where is not None:
    y = jnp.where(rows, y, 0)
  return Inputs(x, y, rows, low, high)


def check_on_host(
  logits_fn: _validate.LogitsFn, x: Any, y: Any, *, bounds: Bounds, where: Any
) -> Inputs:
  """`check` for a data set of NumPy arrays that need not fit on the device.

  Only the labels and the mask are copied to the device.
  """
  _validate.logits_fn("logits_fn", logits_fn)
  low, high = box(bounds)
  x = np.asarray(x)
  _require_float("x", x.dtype)
  if x.dtype not in (np.float32, np.float64):
    x = x.astype(np.float32)
  x = x.astype(jax.dtypes.canonicalize_dtype(x.dtype), copy=False)
  _validate.min_rank("x", x, 2, "[N, ...]")
  num_examples = len(x)
  # `device_put` only transfers; `jnp.asarray` of a host array would compile a
  # program. It cuts labels of 64 bits to 32, so they stay here.
  y, where = (
    jax.device_put(value)
    if isinstance(value, np.ndarray) and value.dtype.itemsize < 8
    else value
    for value in (y, where)
  )
  rows = np.ones(num_examples, bool)
  if where is not None:
    rows = np.asarray(_validate.mask("where", where, num_examples))
  _require_values("x", x, bounds, rows if where is not None else None)
  y = np.asarray(_validate.labels("y", y, num_examples, rows))
  return Inputs(x, np.where(rows, y, 0).astype(y.dtype), rows, low, high)


def valid(checked: Inputs, num_classes: int, *sizes: jax.Array) -> jax.Array:
  """[N] bool, whether the arguments of a row make an attack.

  This repeats the validation for traced values, which `check` cannot see.

  Args:
    checked: validated inputs.
    num_classes: number of classes, C.
    *sizes: radius and step size, [] or [N].

  Returns:
    See `results.AttackResult.valid`; masked rows may be either.
  """
  x = checked.x
  inside = (x >= checked.low - _SLACK) & (x <= checked.high + _SLACK)
  inside &= jnp.abs(x) < jnp.inf
  found = jnp.all(inside, axis=tuple(range(1, x.ndim)))
  labels = checked.y.astype(jnp.int32)
  found &= (labels >= 0) & (labels < num_classes)
  for size in sizes:
    found &= radii.usable(jnp.asarray(size))
  return found


def num_classes(
  logits_fn: _validate.LogitsFn,
  x: jax.Array,
  key: Any = None,
  eot_samples: int | None = None,
) -> int:
  """C of a network, see `ascent.evaluator`; computes no logits."""
  return _num_classes(logits_fn, x, key, eot_samples)


@compiled.remembered
def _num_classes(logits_fn, x, key, eot_samples):
  evaluate = ascent.evaluator(logits_fn, eot_samples, backward=False)
  return _validate.network("logits_fn", lambda v: evaluate(v, key)[0], x)


def channels_last(name: str, value: Any) -> None:
  """Refuses images whose shape looks channels-first.

  Only Square needs this: its windows consist of pixels with all their channels.
  An axis 1 of at most 4 entries together with a last axis of more than 4 is
  taken for channels and a width, [N, C, H, W] or [N, C, D, H, W].
  """
  shape = np.shape(value)
  if len(shape) >= 4 and shape[1] <= 4 < shape[-1]:
    raise ValueError(
      f"Expected {name} to be channels-last images [N, H, W, C] for Square, "
      f"got shape={shape}; pass jnp.moveaxis({name}, 1, -1) and a logits_fn "
      "that moves the axis back, lambda v: logits_fn(jnp.moveaxis(v, -1, 1))."
    )


def require_key(key: Any) -> None:
  """Requires a PRNG key for an attack that is random."""
  if key is None:
    raise TypeError(
      "Expected key to be a PRNG key, got None; pass jax.random.key(seed) (or "
      "random_start=False where nothing else is random)."
    )


def ids(example_ids: Any, num_examples: int) -> Any:
  """Validates `example_ids`; `None` stands for 0..N-1."""
  if example_ids is None:
    return None
  return _validate.labels("example_ids", example_ids, num_examples)


def mappable(key: Any) -> jax.Array:
  """A key whose draws can be mapped over rows.

  JAX's kinds `rbg` and `unsafe_rbg` draw for all rows of `jax.vmap` together,
  so that a row would depend on its batch; a draw then seeds the usual kind.
  """
  typed = key
  if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
    typed = jax.random.wrap_key_data(key)
  if str(jax.random.key_impl(typed)) not in ("rbg", "unsafe_rbg"):
    return key
  seed = jax.random.bits(typed, (2,), jnp.uint32)
  return jax.random.wrap_key_data(seed, impl="threefry2x32")


def example_keys(key: Any, example_ids: Any, num_examples: int) -> jax.Array:
  """Derives one key per example, so that randomness follows the example.

  Args:
    key: PRNG key, consumed.
    example_ids: [N] ints, or `None` for 0..N-1.
    num_examples: number of examples, N.

  Returns:
    [N] keys.
  """
  require_key(key)
  if example_ids is None:
    example_ids = np.arange(num_examples)
  example_ids = _validate.labels("example_ids", example_ids, num_examples)
  return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, example_ids)
