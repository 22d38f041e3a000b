"""Configuration files, which are programs: reading and running them."""

import os
import sys
import types
from collections.abc import Iterable
from typing import Any

from robust_info.config import registry

# Text of a file -> the parts that it registered, so that runs with one file
# share their classes, and with them the compiled programs.
_parts: dict[str, tuple[registry.Part, ...]] = {}
# Parts that modules imported by such a file registered.
_imported: dict[tuple[str, str], registry.Part] = {}


class FileError(Exception):
  """A configuration file that cannot be used; one line."""


def read(path: str | os.PathLike[str]) -> registry.Origin:
  """Reads a Python file without running it.

  Raises:
    FileError: it cannot be read.
  """
  try:
    with open(path, encoding="utf-8") as file:
      return registry.Origin(os.path.abspath(path), file.read())
  except (OSError, UnicodeError) as error:
    reason = getattr(error, "strerror", None) or "it is not text in UTF-8"
    raise FileError(f"Cannot read {path}: {reason}.") from error


def run(file: registry.Origin, name: str) -> types.ModuleType:
  """Runs a Python file as a module.

  Args:
    file: the file.
    name: name of the module, under which its classes find it.

  Raises:
    FileError: it cannot be run; one line with the place.
  """
  module = types.ModuleType(name)
  module.__file__ = file.path
  sys.modules[name] = module
  try:
    exec(compile(file.text, file.path, "exec"), module.__dict__)
  # The file is a program; it may raise anything.
  except (Exception, SystemExit) as error:
    raise FileError(place_of(error, file.path)) from error
  return module


def get_config(path: str, *settings: str) -> Any:
  """Runs a configuration file; its parts stay registered.

  Args:
    path: a Python file with a function `get_config`.
    *settings: arguments of that function.

  Returns:
    The value of the function.

  Raises:
    FileError: the file cannot be read or run; one line with the place.
  """
  file, before = read(path), {*registry.active()}
  with registry.running(file):
    module = run(file, _module_name(file))
    if not callable(getattr(module, "get_config", None)):
      raise FileError(
        f"In {path}: expected a function get_config(), got none; see "
        "configs/digits.py."
      )
    try:
      config = module.get_config(*settings)
    except (Exception, SystemExit) as error:
      raise FileError(place_of(error, path)) from error
  _keep(file, [part for part in registry.active() if part not in before])
  return config


def parts_of(file: registry.Origin) -> tuple[registry.Part, ...]:
  """The parts that a configuration file registers at its top level.

  The file is run once for all runs that have it.

  Raises:
    FileError: it cannot be run; one line with the place.
  """
  if file.text not in _parts:
    with registry.using(()), registry.running(file):
      run(file, _module_name(file))
      _keep(file, registry.active())
  return _parts[file.text]


def place_of(error: BaseException, path: str) -> str:
  """Kind and place of an error in a Python file, in one line."""
  where = registry.place_in(path, error)
  return f"In {path}{where}: {type(error).__name__}: {error}"


def _keep(file: registry.Origin, found: Iterable[registry.Part]) -> None:
  found = {(part.kind, part.name): part for part in found}
  for key, part in found.items():
    # Python runs an imported module once, for the first file that imports it.
    if getattr(part.build, "__module__", None) != _module_name(file):
      _imported[key] = part
  _parts[file.text] = tuple((_imported | found).values())


def _module_name(file: registry.Origin) -> str:
  return f"configuration_{file.digest[:16]}"
