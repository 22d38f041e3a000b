"""The arguments of a function as fields of a schema."""

import copy
import dataclasses
import inspect
import typing
from collections.abc import Callable
from typing import Any

from robust_info.config import schema

_SIMPLE = (int, float, str, bool)
_BY_PLACE = (
  inspect.Parameter.POSITIONAL_ONLY,
  inspect.Parameter.POSITIONAL_OR_KEYWORD,
)
_BY_NAME = (
  inspect.Parameter.POSITIONAL_OR_KEYWORD,
  inspect.Parameter.KEYWORD_ONLY,
)


def arguments(
  build: Callable[..., Any], what: str
) -> tuple[list[str], dict[str, Any]]:
  """The arguments that a function takes by place, and those by name.

  Args:
    build: the function, or a class.
    what: its name in errors.

  Returns:
    Names, and name -> default (`inspect.Parameter.empty` for none).

  Raises:
    TypeError: not a function.
  """
  try:
    parameters = inspect.signature(build).parameters.values()
  except (TypeError, ValueError) as error:
    raise TypeError(
      f"Expected the {what} to be a function, got {type(build).__name__}."
    ) from error
  return (
    [p.name for p in parameters if p.kind in _BY_PLACE],
    {p.name: p.default for p in parameters if p.kind in _BY_NAME},
  )


def schema_of(name: str, fields: list[tuple[str, Any, Any]], path: str) -> type:
  """A schema with these fields.

  Args:
    name: name of the function, for that of the schema.
    fields: results of `setting`.
    path: dotted path of the schema in errors.

  Raises:
    ValueError: a default does not meet the condition of its field.
    TypeError: a default is not of the type of its field.
  """
  made = _frozen(name, fields)
  usual = schema.build(made, dataclasses.asdict(made()), path)
  # A default has the type of every other value: 2.0 for a float given as 2.
  for argument, _, field in fields:
    field.default = getattr(usual, argument)
  return _frozen(name, fields)


def _frozen(name: str, fields: list[tuple[str, Any, Any]]) -> type:
  return dataclasses.make_dataclass(
    f"{name}_settings",
    [(field, hint, copy.copy(value)) for field, hint, value in fields],
    frozen=True,
    kw_only=True,
  )


def hints(build: Callable[..., Any]) -> dict[str, Any]:
  """Annotations of the arguments; none where one of them has no meaning."""
  try:
    return typing.get_type_hints(build)
  except (NameError, TypeError, AttributeError):
    return {}


def setting(name: str, hint: Any, default: Any) -> tuple[str, Any, Any] | None:
  """A field for an argument; None for values that no configuration can hold."""
  if typing.get_origin(hint) is typing.Literal:
    choices = typing.get_args(hint)
    if all(isinstance(choice, str) for choice in choices):
      return name, str, schema.one_of(default, choices)
    return None
  if typing.get_origin(hint) is tuple and Ellipsis not in typing.get_args(hint):
    hint = None
  if hint is None or hint in (Any, tuple):
    hint = _type_of(default)
  plain = schema.without_none(hint)
  item = (
    typing.get_args(plain)[0] if typing.get_origin(plain) is tuple else plain
  )
  if item not in _SIMPLE:
    return None
  return name, hint, dataclasses.field(default=default)


def _type_of(default: Any) -> Any:
  if isinstance(default, tuple) and default:
    kinds = {type(item) for item in default}
    return tuple[kinds.pop(), ...] if len(kinds) == 1 else None
  return type(default)
