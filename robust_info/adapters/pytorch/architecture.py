"""Keys of PyTorch modules: equal where one program serves two modules.

A pickle names classes and functions. A name can be defined again, as by a cell
of a notebook that runs twice, so the key holds the objects too, with the code
of their functions.
"""

import io
import pickle
import sys
import types
from collections.abc import Iterator
from typing import Any

from robust_info.adapters import base

# Packages whose functions do not change while a program runs.
_FIXED = sys.stdlib_module_names | {"jax", "jaxlib", "numpy", "torch"}


def of_module(module: Any) -> Any:
  """The key of a module.

  Args:
    module: the module, its tensors without values.

  Returns:
    A hashable value. It equals that of another module of the same structure
    that calls the same functions; it equals no other if the module cannot be
    pickled.
  """
  stream = io.BytesIO()
  pickler = _Pickler(stream)
  try:
    pickler.dump(module)
  # The module's own __getstate__ and __reduce__ may raise anything.
  except Exception:
    return base.Identity(module)
  return stream.getvalue(), tuple(_definitions(pickler.found))


class _Pickler(pickle.Pickler):
  """A pickler that keeps the classes and functions that it names."""

  def __init__(self, stream: io.BytesIO):
    super().__init__(stream)
    self.found = []

  def reducer_override(self, obj: Any) -> Any:
    if isinstance(obj, type | types.FunctionType):
      self.found.append(obj)
    return NotImplemented


def _definitions(found: list[Any]) -> Iterator[Any]:
  """Classes and functions, and those that they refer to by global names."""
  seen, waiting = set(), list(reversed(found))
  while waiting:
    obj = waiting.pop()
    if id(obj) in seen or not _may_change(obj):
      continue
    seen.add(id(obj))
    yield obj
    if isinstance(obj, type):
      waiting += [*obj.__bases__, *map(_function, vars(obj).values())]
      continue
    # An editor's reload replaces the code of a function and keeps the object.
    yield obj.__code__
    waiting += [_function(obj.__globals__.get(n)) for n in _names(obj.__code__)]
    waiting += [_function(_content(cell)) for cell in obj.__closure__ or ()]


def _may_change(obj: Any) -> bool:
  if not isinstance(obj, type | types.FunctionType):
    return False
  return str(obj.__module__).partition(".")[0] not in _FIXED


def _function(value: Any) -> Any:
  """The function of a method or property; other values as they are."""
  if isinstance(value, staticmethod | classmethod | types.MethodType):
    return value.__func__
  if isinstance(value, property):
    return value.fget
  return value


def _names(code: types.CodeType) -> Iterator[str]:
  """Names that a function reads, with those of functions inside it."""
  yield from code.co_names
  for constant in code.co_consts:
    if isinstance(constant, types.CodeType):
      yield from _names(constant)


def _content(cell: Any) -> Any:
  try:
    return cell.cell_contents
  except ValueError:  # A name that is not bound yet.
    return None
