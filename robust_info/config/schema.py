"""Typed, frozen dataclasses checked from nested mappings.

A schema is a dataclass whose fields are strings, numbers, booleans, tuples of
these, optional ones (`| None`), or further such dataclasses. The functions
below declare a field with the condition it must meet; `build` reads a schema
from a nested mapping. Every error is one line that names the field by its
dotted path, the value and the expectation.

Every number has an upper bound. A larger setting could not run and would fail
deep inside another library: an integer of a shape or a loop with an overflow or
out of memory, a float outside the range of float32 as infinity or 0.
"""

import dataclasses
import difflib
import inspect
import math
import re
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

NORMS = ("linf", "l2")
# Bound of integers without one of their own: counters are int32.
_MAX_INT = 2**31 - 1
# Bound of the length of a tuple of layers, channels or radii.
_MAX_LENGTH = 1000
_FLOAT32 = np.finfo(np.float32)


def checked(
  default: Any,
  expected: str,
  holds: Callable[[Any], bool],
  *,
  at_most: float | None = None,
  choices: tuple[str, ...] = (),
) -> Any:
  """A field that requires `holds(value)`; otherwise 'Expected NAME {expected}'.

  Args:
    default: default value of the field.
    expected: condition in words.
    holds: condition on a value.
    at_most: upper bound of the number, or of each number of a tuple; the
      default is the bound of its type.
    choices: the values of a field that holds one of a few names.
  """
  return dataclasses.field(
    default=default,
    metadata={
      "expected": expected,
      "holds": holds,
      "at_most": at_most,
      "choices": choices,
    },
  )


def one_of(default: str, choices: tuple[str, ...]) -> Any:
  """A field that holds one of a few names."""
  names = ", ".join(repr(c) for c in choices)
  return checked(
    default,
    f"to be one of {names}",
    lambda v: v in choices,
    choices=tuple(choices),
  )


def positive(default: Any, *, at_most: float | None = None) -> Any:
  """A number > 0."""
  return checked(default, "> 0", lambda v: v > 0, at_most=at_most)


def non_negative(default: Any, *, at_most: float | None = None) -> Any:
  """A number >= 0."""
  return checked(default, ">= 0", lambda v: v >= 0, at_most=at_most)


def fraction(default: float) -> Any:
  """A number in [0, 1]."""
  return checked(default, "in [0, 1]", lambda v: 0 <= v <= 1)


def below_one(default: float) -> Any:
  """A number in [0, 1), also after rounding to float32."""
  return checked(default, "in [0, 1)", lambda v: 0 <= np.float32(v) < 1)


def optional_text() -> Any:
  """A string that is not empty, or None."""
  return checked(None, "to name something", lambda v: v is None or bool(v))


def each(
  default: tuple,
  expected: str,
  holds: Callable[[Any], bool],
  *,
  at_most: float | None = None,
) -> Any:
  """A tuple that requires `holds(entry)` of each entry."""
  return checked(
    default,
    f"{expected} in each place",
    lambda v: all(map(holds, v)),
    at_most=at_most,
  )


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
  """Maps dotted names to values, in the order of the classes."""
  flat = {}
  for field in dataclasses.fields(value):
    item = getattr(value, field.name)
    name = f"{prefix}{field.name}"
    if dataclasses.is_dataclass(item):
      flat |= flatten(item, f"{name}.")
    else:
      flat[name] = item
  return flat


def descriptions(cls: type) -> dict[str, str]:
  """Maps the names of the fields of a schema to their text in its docstring."""
  text = inspect.getdoc(cls).partition("Attributes:\n")[2]
  found = re.findall(r"^  (\w+): (.*(?:\n    .*)*)", text, re.MULTILINE)
  return {name: " ".join(words.split()) for name, words in found}


def names(cls: type) -> list[str]:
  """The names of the fields of a schema; empty for anything else."""
  if not dataclasses.is_dataclass(cls):
    return []
  return [field.name for field in dataclasses.fields(cls)]


def build(cls: type, given: Any, path: str) -> Any:
  """Reads a schema from a mapping; missing fields take their defaults.

  Args:
    cls: the schema.
    given: a mapping, or an object that iterates and indexes like one.
    path: name of the schema in errors.

  Raises:
    ValueError: a misspelt field (with the nearest names) or a bad value.
    TypeError: a value of the wrong type.
  """
  if not is_mapping(given):
    raise TypeError(
      f"Expected {path} to hold fields, got {path}={given!r} of type "
      f"{type(given).__name__}."
    )
  hints = typing.get_type_hints(cls)
  known = names(cls)
  for name in given:
    if name not in known:
      raise ValueError(unknown_field(f"{path}.{name}", known))
  values = {}
  for field in dataclasses.fields(cls):
    if field.name not in given:
      continue
    name, value = f"{path}.{field.name}", given[field.name]
    if dataclasses.is_dataclass(hints[field.name]):
      values[field.name] = build(hints[field.name], value, name)
      continue
    value = _typed(hints[field.name], value, name)
    values[field.name] = value
    check = field.metadata
    if check and not check["holds"](value):
      raise ValueError(f"Expected {name} {check['expected']}, got {value!r}.")
    _require_bounded(name, value, check.get("at_most"))
  return cls(**values)


def require_field(cls: type, path: str, root: str) -> type:
  """The type of the field at a dotted path below `cls`.

  Args:
    cls: the schema.
    path: dotted path, for example `train.learning_rate`.
    root: name of `cls` in errors.

  Raises:
    ValueError: no such field exists.
  """
  name = root
  for part in path.split("."):
    known = names(cls)
    name = f"{name}.{part}"
    if part not in known:
      raise ValueError(unknown_field(name, known))
    cls = typing.get_type_hints(cls)[part]
  return cls


def is_mapping(value: Any) -> bool:
  """Whether `build` can read it (ConfigDict is not a registered Mapping)."""
  return isinstance(value, Mapping) or all(
    hasattr(value, name) for name in ("keys", "__getitem__", "__contains__")
  )


def unknown_field(name: str, known: list[str]) -> str:
  """The error for a field that does not exist, with the nearest names."""
  stem, _, leaf = name.rpartition(".")
  near = difflib.get_close_matches(leaf, known, n=3)
  if near:
    matches = " or ".join(f"{stem}.{match}" for match in near)
    return f"Unknown field {name}; did you mean {matches}?"
  fields = ", ".join(known) or "no fields"
  return f"Unknown field {name}; {stem} has {fields}."


def without_none(hint: Any) -> Any:
  """`X` from `X | None`."""
  if isinstance(hint, types.UnionType):
    return next(a for a in typing.get_args(hint) if a is not types.NoneType)
  return hint


def _typed(hint: Any, value: Any, name: str) -> Any:
  if isinstance(hint, types.UnionType) and value is None:
    return None
  hint = without_none(hint)
  if typing.get_origin(hint) is tuple:
    if isinstance(value, str) or not hasattr(value, "__iter__"):
      raise TypeError(
        f"Expected {name} to be a tuple, got {value!r} of type "
        f"{type(value).__name__}."
      )
    item_hint = typing.get_args(hint)[0]
    if len(value) > _MAX_LENGTH:
      raise ValueError(
        f"Expected {name} with at most {_MAX_LENGTH} entries, got {len(value)}."
      )
    return tuple(
      _typed(item_hint, item, f"{name}[{i}]") for i, item in enumerate(value)
    )
  is_number = isinstance(value, int | float) and not isinstance(value, bool)
  if hint is float and is_number:
    return _float32(value, name)
  if type(value) is not hint:
    raise TypeError(
      f"Expected {name} to be of type {hint.__name__}, got {value!r} of type "
      f"{type(value).__name__}."
    )
  return value


def _float32(value: float, name: str) -> float:
  """The number, unless single precision turns it into infinity or 0."""
  if isinstance(value, float) and not math.isfinite(value):
    raise ValueError(f"Expected {name} to be finite, got {value!r}.")
  # Integers may be too large for any float.
  if abs(value) > float(_FLOAT32.max):
    raise ValueError(
      f"Expected {name} within the range of float32, at most "
      f"{_FLOAT32.max:.4g}, got {_short(value)}."
    )
  if value and abs(value) < float(_FLOAT32.tiny):
    raise ValueError(
      f"Expected {name} within the range of float32, 0 or at least "
      f"{_FLOAT32.tiny:.4g}, got {value!r}."
    )
  return float(value)


def _require_bounded(name: str, value: Any, at_most: float | None) -> None:
  numbers = value if isinstance(value, tuple) else (value,)
  for number in numbers:
    if isinstance(number, bool) or not isinstance(number, int | float):
      continue
    bound = at_most
    if bound is None:
      bound = _MAX_INT if isinstance(number, int) else math.inf
    if number > bound:
      place = " in each place" if isinstance(value, tuple) else ""
      raise ValueError(
        f"Expected {name} <= {bound}{place}, got {_short(number)}."
      )


def _short(number: float) -> str:
  """A number as short text; an integer may have thousands of digits."""
  if isinstance(number, int) and number.bit_length() > 128:
    return f"an integer of {number.bit_length()} bits"
  return repr(number)
