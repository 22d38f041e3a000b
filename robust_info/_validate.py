"""Validation of the arguments of public functions.

Each function raises a one-line error with the name of the argument, its value
and the expected value. Shapes and dtypes are always validated. Values are
validated only where they are concrete: under `jax.jit` a traced value passes,
and each public docstring states the result for such a value.
"""

import functools
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# A network: x [N, ...] -> logits [N, C].
LogitsFn = Callable[[jax.Array], jax.Array]

# No index of a class, a group or an example lies outside the range of int32.
_LEAST, _LARGEST = np.iinfo(np.int32).min, np.iinfo(np.int32).max

# Frameworks whose networks are not functions of JAX arrays -> the way out.
_FOREIGN = {
  "torch": "pass robust_info.adapters.from_torch(module)",
  "keras": "pass robust_info.adapters.from_keras(model)",
  "tensorflow": "write the network in JAX, with the same weights",
  "sklearn": "information_stats takes its predict_log_proba(x) as logits",
}

# Number of rows to search for probabilities, and the tolerance for their sum: a
# softmax in bfloat16 keeps 8 bits. Bytes that a host copies in no time.
SAMPLE, _SUM_TOLERANCE, _SMALL = 64, 0.01, 2**20


def is_concrete(value: Any) -> bool:
  """Whether the value can be read now: not traced, and all in this process."""
  if isinstance(value, jax.core.Tracer):
    return False
  return not isinstance(value, jax.Array) or value.is_fully_addressable


def promises_nan(fn: Callable[..., Any]) -> Callable[..., Any]:
  """`fn` with NaN results also under `jax_debug_nans`, as documented.

  NaN entries are valid results of `fn`: an error would make it useless there. A
  NaN in its arguments has raised an error where it arose.
  """

  @functools.wraps(fn)
  def call(*args: Any, **kwargs: Any) -> Any:
    with jax.debug_nans(False):
      return fn(*args, **kwargs)

  return call


def as_array(name: str, value: Any) -> jax.Array:
  """`value` as an array of numbers."""
  if isinstance(value, jax.Array):
    return value
  try:
    return jnp.asarray(value)
  # NumPy and JAX have several errors for what is no array.
  except (TypeError, ValueError) as error:
    raise TypeError(
      f"Expected {name} to be an array of numbers, got {type(value).__name__}."
    ) from error


def float_array(name: str, value: Any) -> jax.Array:
  """`value` as a float array, half precision and integers as float32."""
  array = as_array(name, value)
  if jnp.issubdtype(array.dtype, jnp.complexfloating):
    raise TypeError(f"Expected {name} to be real, got dtype={array.dtype}.")
  if array.dtype in (jnp.float32, jnp.float64):
    return array
  return array.astype(jnp.float32)


def rank(name: str, array: Any, expected: int, shape: str) -> None:
  """Requires `array.ndim == expected`; errors print `shape` for people."""
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
  """Requires two arrays of the same shape."""
  if array.shape != other.shape:
    raise ValueError(
      f"Expected {name} of the shape of {other_name}, {tuple(other.shape)}, "
      f"got shape {tuple(array.shape)}."
    )


def labels(
  name: str, value: Any, num_examples: int, where: Any = None
) -> jax.Array:
  """Integer labels [N] as int32, from integers of any width.

  Indices combined in a narrower dtype would wrap around silently. A counted
  value beyond int32 raises where it is concrete; a traced or masked one becomes
  the nearest int32. `labels_in_range` validates the values.
  """
  # Before JAX converts them: it would cut 64-bit integers to 32 bits.
  array = value if isinstance(value, jax.Array) else np.asarray(value)
  if isinstance(value, list | tuple) and not value:
    array = array.astype(np.int32)  # NumPy takes an empty list for floats.
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
  if array.dtype == np.int32:
    return jnp.asarray(array)
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
  """Requires concrete labels of unmasked rows to lie in [0, num_classes)."""
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


def mask(name: str, value: Any, num_examples: int) -> jax.Array | None:
  """A boolean mask [N], or `None`: every row counts."""
  if value is None:
    return None
  array = jnp.asarray(value)
  if array.dtype != jnp.bool_ or array.shape != (num_examples,):
    raise ValueError(
      f"Expected {name} to be a boolean mask of shape ({num_examples},), got "
      f"dtype={array.dtype}, shape={tuple(array.shape)}."
    )
  return array


def filled_mask(where: Any, num_examples: int) -> Any:
  """The mask, or that of all rows for `None`.

  To be called where the mask is used: a compiler sees that it has no effect.
  """
  return jnp.ones((num_examples,), bool) if where is None else where


def at_least(name: str, value: Any, minimum: float) -> None:
  """Requires a concrete scalar to be finite and `>= minimum`."""
  if is_concrete(value) and not (
    np.ndim(value) == 0 and np.isfinite(value) and value >= minimum
  ):
    raise ValueError(f"Expected {name} >= {minimum}, got {name}={value}.")


def some_examples(name: str, x: Any) -> None:
  """Requires at least one row of [N, ...]."""
  if not x.shape[0]:
    raise ValueError(
      f"Expected at least one example, got {name} of shape {tuple(x.shape)}."
    )


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
  """Requires a function that JAX can trace; `network` validates its output."""
  if not callable(fn):
    raise TypeError(
      f"Expected {name} to be a function from inputs [N, ...] to logits "
      f"[N, C], got {type(fn).__name__}; robust_info.adapters makes one of a "
      "network of Flax, Equinox, Haiku, Keras or PyTorch."
    )
  owner = getattr(fn, "__self__", fn)
  packages = {base.__module__.split(".")[0] for base in type(owner).__mro__}
  for foreign, fix in _FOREIGN.items():
    if foreign in packages:
      raise TypeError(
        f"Expected {name} to compute with JAX arrays, got "
        f"{type(owner).__name__} of {foreign}; {fix}."
      )
  linen = any(b.__module__ == "flax.linen.module" for b in type(fn).__mro__)
  if linen and getattr(fn, "scope", None) is None:
    raise TypeError(
      f"Expected {name} with its parameters, got the Flax module "
      f"{type(fn).__name__}; pass "
      "robust_info.adapters.from_linen(module, variables)."
    )
  return fn


def network(name: str, fn: Callable[..., Any], x: jax.Array) -> int:
  """C of a network at inputs [N, ...]; traces it and computes nothing.

  Raises a one-line error if the network cannot be traced, or if it does not
  return logits [N, C] of two or more classes.
  """
  try:
    out = jax.eval_shape(fn, x)
  except Exception as error:
    if str(error).startswith("Expected "):
      raise
    fix = (
      " robust_info.adapters makes one of a network of Flax, Equinox, Haiku, "
      "Keras or PyTorch, in evaluation mode."
    )
    kind = type(getattr(fn, "func", fn))
    adapted = kind.__module__.startswith("robust_info.adapters.")
    raise TypeError(
      f"Expected {name} to be a pure function of JAX arrays, of "
      f"{x.dtype}{list(x.shape)} here, got {reason(error).rstrip('.')}."
      f"{'' if adapted else fix}"
    ) from error
  shape = logits(name, out).shape
  logits_shape(shape, x.shape[0])
  classes(f"the output of {name}", shape)
  return shape[-1]


def reason(error: BaseException) -> str:
  """Kind and first line of an error, and the notes of one line that it has."""
  first = str(error).strip().partition("\n")[0]
  notes = [n for n in getattr(error, "__notes__", ()) if "\n" not in n]
  where = f" ({', '.join(notes)})" if notes else ""
  return f"{type(error).__name__}: {first}{where}"


def logits(name: str, out: Any) -> Any:
  """Requires one floating-point array from `logits_fn`."""
  if hasattr(out, "dtype") and hasattr(out, "shape"):
    if not jnp.issubdtype(out.dtype, jnp.floating):
      raise TypeError(
        f"Expected {name} to return floating-point logits [N, C], got "
        f"dtype={out.dtype}."
      )
    return out
  fix = "return the array of logits"
  if isinstance(out, tuple | list):
    fix = (
      f"pass lambda x: {name}(x)[0]; a Flax network in training mode returns "
      "(logits, updates): apply it in evaluation mode, without mutable"
    )
  elif isinstance(out, Mapping):
    fix = f"pass lambda x: {name}(x)[key], key one of {list(out)}"
  elif hasattr(out, "logits"):
    fix = f"pass lambda x: {name}(x).logits"
  raise TypeError(
    f"Expected {name} to return one array of logits [N, C], got "
    f"{type(out).__name__}; {fix}."
  )


class ProbabilitiesAsLogits(UserWarning):
  """Numbers that look like probabilities were passed as logits."""


def warn_of_probabilities(
  name: str, value: Any, where: Any = None, *, stacklevel: int = 4
) -> None:
  """Warns if the first counted rows [N, C] are all probabilities.

  That is, they are concrete, lie in [0, 1] and sum to 1. Rows of zeros with a
  single 1 do not count as probabilities: they may well be logits. `stacklevel`
  is that of `warnings.warn`: 4 for a call from a decorated public function.
  """
  if not (is_concrete(value) and (where is None or is_concrete(where))):
    return
  # A copy of a small array costs less than a program that takes a few rows.
  first = _first_rows(value) if value.nbytes > _SMALL else value
  rows = np.asarray(first)[:SAMPLE].astype(np.float64)
  if where is not None:
    rows = rows[np.asarray(where)[:SAMPLE]]
  if not rows.size or rows.min() < 0 or (rows.max(axis=-1) == 1).all():
    return
  if (np.abs(rows.sum(axis=-1) - 1) < _SUM_TOLERANCE).all():
    warnings.warn(
      f"Expected {name} to be logits; these are probabilities (every row lies "
      "in [0, 1] and sums to 1). Hand over jnp.log(p), or what comes before "
      "the softmax.",
      ProbabilitiesAsLogits,
      stacklevel=stacklevel,
    )


@jax.jit
def _first_rows(values):
  return values[:SAMPLE]


def classes(name: str, shape: tuple[int, ...]) -> None:
  """Requires two or more classes: softmax of a single output is always 1."""
  if shape[-1] < 2:
    raise ValueError(
      f"Expected {name} with two or more classes on the last axis, got shape "
      f"{tuple(shape)}; for a single (sigmoid) output z pass "
      "jnp.concatenate([jnp.zeros_like(z), z], axis=-1)."
    )


def logits_shape(shape: tuple[int, ...], num_examples: int) -> None:
  """Requires the result of a `logits_fn` to be [N, C]."""
  if len(shape) != 2 or shape[0] != num_examples:
    raise ValueError(
      f"Expected logits_fn to return logits of shape [N, C] = "
      f"[{num_examples}, C], got shape {tuple(shape)}."
    )


def inputs(name: str, value: Any, shape: str) -> jax.Array:
  """Network inputs: floating point, with at least one axis after the first."""
  array = as_array(name, value)
  if not jnp.issubdtype(array.dtype, jnp.floating):
    raise TypeError(
      f"Expected {name} to be floating point, got dtype={array.dtype}; "
      f"convert images with {name} / 255."
    )
  min_rank(name, array, 2, shape)
  return array
