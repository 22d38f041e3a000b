"""Parts that all adapters share: conversions, and the comparison of logits.

Shape letters: N examples, C classes.
"""

import copy
import dataclasses
import importlib
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float

from robust_info import _validate

# Largest difference of two computations of the same logits, relative to one
# plus the largest logit: two libraries and a deep network, in float32 and in
# units of the precision of smaller types.
_TOLERANCE, _UNITS = 1e-3, 16
# Roots of modules whose objects do not change.
_LIBRARIES = {"builtins", "functools", "types"} | {
  "equinox",
  "flax",
  "haiku",
  "jax",
  "jaxlib",
  "keras",
  "numpy",
  "optax",
}


@dataclasses.dataclass(frozen=True)
class Conversion:
  """Conversions around a network; see the package for the fields."""

  mean: tuple[float, ...] = ()
  std: tuple[float, ...] = ()
  channels_first: bool = False
  output: int | str | None = None

  def __post_init__(self):
    for name in ("mean", "std"):
      values = tuple(np.asarray(getattr(self, name), float).ravel().tolist())
      object.__setattr__(self, name, values)
    if len(self.mean) != len(self.std):
      raise ValueError(
        f"Expected mean and std of one length, got mean={self.mean}, "
        f"std={self.std}."
      )
    if not np.isfinite(self.mean).all():
      raise ValueError(f"Expected finite mean, got mean={self.mean}.")
    if any(not 0 < value < np.inf for value in self.std):
      raise ValueError(f"Expected std > 0, got std={self.std}.")


@dataclasses.dataclass(frozen=True, eq=False)
class Identity:
  """A holder of an unhashable object, equal to holders of the same object."""

  value: Any

  def __eq__(self, other: object) -> bool:
    return isinstance(other, Identity) and other.value is self.value

  def __hash__(self) -> int:
    return id(self.value)


@dataclasses.dataclass(frozen=True)
class Network:
  """A network as a function (variables, x [N, ...]) -> logits [N, C].

  Two networks of one architecture are equal and have one hash, so that programs
  compiled for one serve the other.

  Attributes:
    run: the library's call, `(variables, x) -> outputs`; hashable.
    conversion: conversions around it.
  """

  run: Callable[[Any, jax.Array], Any]
  conversion: Conversion

  def __call__(self, variables: Any, x: jax.Array) -> jax.Array:
    """Computes the logits."""
    converted = self.converted(float_inputs("x", x))
    # Other libraries rely on the promotions of NumPy, which callers may forbid
    # in their own code.
    with (
      jax.numpy_rank_promotion("allow"),
      jax.numpy_dtype_promotion("standard"),
    ):
      outputs = self.run(variables, converted)
    return _logits(outputs, self.conversion.output, x.shape[0])

  def converted(self, x: jax.Array) -> jax.Array:
    """The inputs of the network, normalised and in its layout."""
    mean, std = self.conversion.mean, self.conversion.std
    if mean:
      if x.shape[-1] != len(mean):
        raise ValueError(
          f"Expected x with {len(mean)} channels on the last axis, as mean and "
          f"std have, got shape {x.shape}."
        )
      shape = (1,) * (x.ndim - 1) + (len(mean),)
      mean, std = (jnp.asarray(v, x.dtype).reshape(shape) for v in (mean, std))
      x = (x - mean) / std
    if self.conversion.channels_first and x.ndim == 4:
      x = jnp.moveaxis(x, -1, 1)
    return x


def adapted(
  run: Callable[[Any, jax.Array], Any],
  variables: Any,
  conversion: Conversion,
  *,
  images: ArrayLike | None,
  original: Callable[[np.ndarray], Any],
) -> jax.tree_util.Partial:
  """The result of an adapter.

  Args:
    run: see `Network`.
    variables: arrays of the network, the leaves of the result.
    conversion: see `Network`.
    images: batch to compare on, or `None`.
    original: the network as its library runs it, from converted inputs to
      outputs.
  """
  network = jax.tree_util.Partial(Network(run, conversion), variables)
  if images is not None:
    images = float_inputs("images", images)
    # Images of another layout or size end here in one line.
    _validate.network("the network", network, images)
    found, logits = difference(network, original, images), network(images)
    units = max(_TOLERANCE, _UNITS * float(jnp.finfo(logits.dtype).eps))
    if not found <= units * (1 + float(jnp.max(jnp.abs(logits)))):
      raise ValueError(
        "Expected the logits of the adapter to be those of the network, got a "
        f"largest difference of {found:.3g}; compare the modes (training or "
        "evaluation) and the layouts (channels_first) of both."
      )
  return network


def difference(
  logits_fn: jax.tree_util.Partial,
  original: Callable[[np.ndarray], Any],
  images: Float[ArrayLike, "N ..."],
) -> float:
  """Largest difference between an adapter and the network that it adapts.

  Args:
    logits_fn: result of an adapter.
    original: the network as its own library runs it, in evaluation mode; it
      takes the inputs as the network does (normalised, its own layout).
    images: [N, ...] inputs of `logits_fn`.

  Returns:
    The largest absolute difference of two logits; NaN if there are any.
  """
  network = logits_fn.func
  x = float_inputs("images", images)
  inputs = np.asarray(network.converted(x))
  outputs = jax.tree.map(np.asarray, original(inputs))
  theirs = _logits(outputs, network.conversion.output, len(x))
  return float(np.max(np.abs(np.asarray(logits_fn(x)) - np.asarray(theirs))))


def num_classes(
  logits_fn: Callable[[jax.Array], jax.Array], image_shape: Sequence[int]
) -> int:
  """C of a network for images of a shape (height, width, channels).

  Traces the network and computes nothing.

  Raises:
    TypeError: the network does not take such images.
    ValueError: the result is not logits [N, C] of two or more classes.
  """
  fn = _validate.logits_fn("logits_fn", logits_fn)
  return _validate.network(
    "logits_fn", fn, jax.ShapeDtypeStruct((2, *image_shape), jnp.float32)
  )


def library(name: str, extra: str) -> ModuleType:
  """Imports a library when it is needed, or says how to install it."""
  try:
    return importlib.import_module(name)
  except ImportError as error:
    raise ImportError(
      f"Expected {name} to be installed, got {error}; run pip install "
      f"'robust_info[{extra}]'."
    ) from error


def require(value: Any, kind: type, argument: str, what: str) -> None:
  """Requires an instance of a class of the library."""
  if not isinstance(value, kind):
    raise TypeError(
      f"Expected {argument} to be {what}, got {type(value).__name__}."
    )


def static(value: Any) -> Any:
  """A value for a hashable dataclass: a `snapshot`, or equal to itself only."""
  value = snapshot(value)
  try:
    hash(value)
  except TypeError:
    return Identity(_copied(value))
  return value


def snapshot(
  value: Any,
  module: type | tuple[type, ...] = (),
  replaced: Callable[[Any, dict[str, Any]], Any] | None = None,
) -> Any:
  """The value, out of reach of later changes of objects of the user's own.

  An object that is equal to itself only, such as a configuration, would stay
  equal when it changes, and so would a network that holds it: here it becomes
  a copy. Functions, and objects of libraries, stay as they are.

  Args:
    value: anything.
    module: classes of parts of a network, which are not copied.
    replaced: (object of `module`, new values by field) -> such an object, if
      they are dataclasses whose fields are to be looked into.
  """

  def again(value):
    return snapshot(value, module, replaced)

  if isinstance(value, module):
    if replaced is None:
      return value
    fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    new = {name: again(held) for name, held in fields.items()}
    changed = {k: v for k, v in new.items() if v is not fields[k]}
    return replaced(value, changed) if changed else value
  if type(value) in (tuple, list):
    new = [again(item) for item in value]
    is_same = all(a is b for a, b in zip(new, value, strict=True))
    return value if is_same else type(value)(new)
  if type(value) is dict:
    new = {key: again(item) for key, item in value.items()}
    return value if all(new[key] is value[key] for key in value) else new
  root = type(value).__module__.partition(".")[0]
  is_own = root not in _LIBRARIES and not isinstance(value, type)
  if is_own and type(value).__hash__ in (object.__hash__, None):
    return _copied(value)
  return value


def _copied(value: Any) -> Any:
  try:
    return copy.deepcopy(value)
  # Whatever forbids to copy an object of the user's own.
  except Exception:
    return value


def value_of(held: Any) -> Any:
  """The value that `static` was given."""
  return held.value if isinstance(held, Identity) else held


def static_arguments(arguments: Mapping[str, Any]) -> tuple[Any, ...]:
  """Arguments of a call for a hashable dataclass; `call_arguments` inverts."""
  return tuple((k, static(v)) for k, v in sorted(arguments.items()))


def call_arguments(held: tuple[Any, ...]) -> dict[str, Any]:
  """The arguments that `static_arguments` was given."""
  return {name: value_of(value) for name, value in held}


def refuse_randomness() -> None:
  """Raises for a network that draws numbers although it is evaluated."""
  raise ValueError(
    "Expected a network without randomness in evaluation mode, got one that "
    "draws random numbers; leave that layer out, or attack the randomised "
    "network as a function of (x, key) with eot_samples."
  )


def float_inputs(name: str, x: Any) -> jax.Array:
  """Floating-point inputs; bytes would silently be images in [0, 255]."""
  return _validate.float_array(name, _validate.inputs(name, x, "[N, ...]"))


def _logits(outputs: Any, output: int | str | None, num_examples: int) -> Any:
  """The logits [N, C] among the outputs of a network."""
  if output is not None:
    try:
      outputs = outputs[output]
    except (TypeError, KeyError, IndexError) as error:
      raise ValueError(
        f"Expected output={output!r} to be among the outputs of the network, "
        f"got {_described(outputs)}."
      ) from error
  if isinstance(outputs, tuple | list | Mapping):
    raise ValueError(
      "Expected the network to return logits, got "
      f"{_described(outputs)}; name those of the logits by output=..."
    )
  if outputs.shape in ((num_examples,), (num_examples, 1)):
    second = outputs.reshape(num_examples, 1)
    return jnp.concatenate([jnp.zeros_like(second), second], axis=1)
  return outputs


def _described(outputs: Any) -> str:
  if isinstance(outputs, Mapping):
    return f"a mapping with the keys {list(outputs)}"
  if isinstance(outputs, tuple | list):
    return f"a {type(outputs).__name__} of {len(outputs)}"
  return f"a {type(outputs).__name__}"
