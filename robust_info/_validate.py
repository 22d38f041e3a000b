"""Checks at the door of public functions.

Each check raises one line that names the argument, the value and what was
expected. Shapes and dtypes are checked always; values only where they are
concrete: under `jax.jit` a traced value passes, and each public docstring says
what such a value then does.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# Beyond the range of int32 no index of a class, a group or an example lies.
_LEAST, _LARGEST = np.iinfo(np.int32).min, np.iinfo(np.int32).max


def is_concrete(value: Any) -> bool:
  """Whether the value can be read now: not traced, and all in this process."""
  if isinstance(value, jax.core.Tracer):
    return False
  return not isinstance(value, jax.Array) or value.is_fully_addressable


def promises_nan(fn: Callable[..., Any]) -> Callable[..., Any]:
  """`fn`, whose docstring promises NaN entries, also under `jax_debug_nans`.

  They are results, not accidents: stopping at them would make the function
  useless there. A NaN in its arguments was noticed where it arose.
  """

  @functools.wraps(fn)
  def call(*args: Any, **kwargs: Any) -> Any:
    with jax.debug_nans(False):
      return fn(*args, **kwargs)

  return call


def float_array(name: str, value: Any) -> jax.Array:
  """`value` as a float array, half precision and integers as float32."""
  try:
    array = jnp.asarray(value)
  except TypeError as error:
    raise TypeError(
      f"Expected {name} to be an array, got {type(value).__name__}."
    ) from error
  if jnp.issubdtype(array.dtype, jnp.complexfloating):
    raise TypeError(f"Expected {name} to be real, got dtype={array.dtype}.")
  if array.dtype in (jnp.float32, jnp.float64):
    return array
  return array.astype(jnp.float32)


def rank(name: str, array: Any, expected: int, shape: str) -> None:
  """Requires `array.ndim == expected`; `shape` spells it out for people."""
  if array.ndim != expected:
    raise ValueError(
      f"Expected {name} of shape {shape}, got shape {tuple(array.shape)}."
    )


def min_rank(name: str, array: Any, expected: int, shape: str) -> None:
  """Requires `array.ndim >= expected`."""
  if array.ndim < expected:
    raise ValueError(
      f"Expected {name} of shape {shape}, got shape {tuple(array.shape)}."
    )


def same_shape(name: str, array: Any, other_name: str, other: Any) -> None:
  """Requires two arrays of one shape."""
  if array.shape != other.shape:
    raise ValueError(
      f"Expected {name} of the shape of {other_name}, {tuple(other.shape)}, "
      f"got shape {tuple(array.shape)}."
    )


def labels(
  name: str, value: Any, num_examples: int, where: Any = None
) -> jax.Array:
  """Integer labels [N] as int32, whatever their width.

  Combined in a dtype of their own, indices would wrap around unseen. A counted
  value beyond int32 raises where it is concrete; a traced or masked one becomes
  the nearest int32. `labels_in_range` checks the values.
  """
  # Before JAX sees them: it would cut 64-bit integers to 32 bits.
  array = value if isinstance(value, jax.Array) else np.asarray(value)
  if not jnp.issubdtype(array.dtype, jnp.integer):
    raise TypeError(
      f"Expected integer {name}, got dtype={array.dtype}; for one-hot labels "
      "pass jnp.argmax(one_hot, axis=-1)."
    )
  if array.shape != (num_examples,):
    raise ValueError(
      f"Expected {name} of shape ({num_examples},), one label an example, "
      f"got shape {tuple(array.shape)}."
    )
  info = jnp.iinfo(array.dtype)
  if info.max > _LARGEST:
    least = max(_LEAST, int(info.min))
    fits = (array >= least) & (array <= _LARGEST)
    if is_concrete(array) and (where is None or is_concrete(where)):
      counted = True if where is None else np.asarray(where)
      bad = np.asarray(~fits) & counted
      if bad.any():
        index = int(np.argmax(bad))
        raise ValueError(
          f"Expected {name} that fit 32-bit integers, got "
          f"{name}[{index}]={int(array[index])}; number the values, for "
          f"example with numpy.unique({name}, return_inverse=True)[1]."
        )
    array = array.clip(least, _LARGEST)
  return jnp.asarray(array.astype(np.int32))


def labels_in_range(
  name: str,
  array: Any,
  num_classes: int,
  where: Any = None,
  *,
  meaning: str = "the number of classes of the logits",
) -> None:
  """Concrete labels of unmasked rows must lie in [0, num_classes)."""
  if not (is_concrete(array) and (where is None or is_concrete(where))):
    return
  values = np.asarray(array)
  bad = (values < 0) | (values >= num_classes)
  if where is not None:
    bad &= np.asarray(where)
  if bad.any():
    index = int(np.argmax(bad))
    raise ValueError(
      f"Expected {name} in [0, {num_classes}), {meaning}, got "
      f"{name}[{index}]={int(values[index])}."
    )


def mask(name: str, value: Any, num_examples: int) -> jax.Array:
  """A boolean mask [N]; `None` means every row counts."""
  if value is None:
    return jnp.ones((num_examples,), bool)
  array = jnp.asarray(value)
  if array.dtype != jnp.bool_ or array.shape != (num_examples,):
    raise ValueError(
      f"Expected {name} to be a boolean mask of shape ({num_examples},), got "
      f"dtype={array.dtype}, shape={tuple(array.shape)}."
    )
  return array


def at_least(name: str, value: Any, minimum: float) -> None:
  """Requires a concrete scalar to be finite and `>= minimum`."""
  if is_concrete(value) and not (
    np.ndim(value) == 0 and np.isfinite(value) and value >= minimum
  ):
    raise ValueError(f"Expected {name} >= {minimum}, got {name}={value}.")


def positive_int(name: str, value: Any) -> None:
  """Requires a static integer `>= 1`."""
  if isinstance(value, bool) or not isinstance(value, int | np.integer):
    raise TypeError(
      f"Expected {name} to be a Python int (it fixes a shape or a loop), got "
      f"{name}={value!r} of type {type(value).__name__}."
    )
  if value < 1:
    raise ValueError(f"Expected {name} >= 1, got {name}={value}.")


def nonnegative_int(name: str, value: Any) -> None:
  """Requires a static integer in [0, 2^64)."""
  if isinstance(value, bool) or not isinstance(value, int | np.integer):
    raise TypeError(
      f"Expected {name} to be an int, got {name}={value!r} of type "
      f"{type(value).__name__}."
    )
  if not 0 <= value < 2**64:
    raise ValueError(f"Expected {name} in [0, 2^64), got {name}={value}.")


def one_of(name: str, value: Any, choices: tuple[str, ...]) -> None:
  """Requires one of a few names."""
  if value not in choices:
    known = ", ".join(repr(c) for c in choices)
    raise ValueError(f"Expected {name} to be one of {known}, got {value!r}.")


def logits_fn(name: str, fn: Any) -> Callable[..., Any]:
  """Requires a callable."""
  if not callable(fn):
    raise TypeError(
      f"Expected {name} to be a function from inputs [N, ...] to logits "
      f"[N, C], got {type(fn).__name__}; for a Flax module pass "
      "lambda x: module.apply(variables, x)."
    )
  return fn


def logits_shape(shape: tuple[int, ...], num_examples: int) -> None:
  """Requires what a `logits_fn` returned to be [N, C]."""
  if len(shape) != 2 or shape[0] != num_examples:
    raise ValueError(
      f"Expected logits_fn to return logits of shape [N, C] = "
      f"[{num_examples}, C], got shape {tuple(shape)}."
    )


def inputs(name: str, value: Any, shape: str) -> jax.Array:
  """Network inputs: floating point, with at least one axis after the first."""
  array = jnp.asarray(value)
  if not jnp.issubdtype(array.dtype, jnp.floating):
    raise TypeError(
      f"Expected {name} to be floating point, got dtype={array.dtype}; "
      f"convert images with {name} / 255."
    )
  min_rank(name, array, 2, shape)
  return array
