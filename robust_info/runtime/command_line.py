"""Common code of the entry points: flags and one-line errors.

An error that a user can act on is one line on stderr, without a traceback: exit
code 2 for a wrong command line or configuration, 1 for any later error, and 128
plus its number when a signal ended the work in good order. Set
ROBUST_INFO_TRACEBACK=1 to see the traceback.
"""

import dataclasses
import functools
import math
import os
import pathlib
import signal
import sys
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from robust_info import config as config_lib
from robust_info.config import file as file_lib
from robust_info.config import schema
from robust_info.runtime import (
  environment,
  files,
  help_text,
  interruption,
  memory,
  processes,
  self_check,
  streams,
)

# The flags are those of the program that imports this module.
flags.disclaim_key_flags()

USAGE_ERROR, RUN_ERROR = 2, 1

_DISTRIBUTED = flags.DEFINE_bool(
  "distributed",
  False,
  "Whether this is one of several processes that Slurm, Open MPI, Kubernetes "
  "or Cloud TPU started.",
)
_SELF_CHECK = flags.DEFINE_bool(
  "self_check",
  True,
  "Whether to compare the device's arithmetic with NumPy's first, once per "
  "device and versions.",
)
# For processes started by hand: all three flags on each process.
_BY_HAND = (
  flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0."),
  flags.DEFINE_integer("num_processes", None, "How many processes.", 1),
  flags.DEFINE_integer("process_id", None, "Which one this is, from 0.", 0),
)


class _ConfigFile(flags.ArgumentParser):
  """The configuration returned by `get_config()` of a Python file.

  Replaces the parser of ml_collections, which loads the file through
  `load_module()`, removed in Python 3.15, and which reports neither the kind
  nor the place of an error in a file.
  """

  def parse(self, argument: str) -> Any:
    path, *settings = argument.split(":", 1)
    if not pathlib.Path(path).is_file():
      raise file_lib.FileError(
        f"No configuration file {path}; try --config=configs/digits.py."
      )
    config = file_lib.get_config(path, *settings)
    if not config_lib.is_config(config):
      raise file_lib.FileError(
        f"In {path}: expected get_config() to return a ConfigDict, for example "
        f"config.defaults(), got {type(config).__name__}."
      )
    # The file may have registered parts, whose settings are fields.
    config_lib.check_overrides(_with_files(sys.argv[1:]))
    if hasattr(config, "lock"):
      config.lock()
    return config

  def flag_type(self) -> str:
    return "configuration file"


def run(
  main: Callable[[], None],
  *,
  groups: Mapping[str, Sequence[str]],
  with_fields: bool = False,
  errors: tuple[type[Exception], ...] = (),
) -> NoReturn:
  """Parses the flags, calls `main()` and exits.

  Args:
    main: function without arguments; reads its flags.
    groups: title -> names of the flags of the program, as --help shows them.
    with_fields: whether --help lists the fields of a configuration.
    errors: exceptions of `main` whose message is for users, in addition to
      ValueError, TypeError, OSError and errors for lack of memory.
  """
  streams.prepare()
  if help_text.ASKED & {*sys.argv[1:]}:
    text = sys.modules["__main__"].__doc__
    streams.say(help_text.render(text, groups, with_fields=with_fields))
    sys.exit(0)
  expected = (ValueError, TypeError, OSError, MemoryError, OverflowError)
  expected += (environment.DeviceError, self_check.SelfCheckError, *errors)

  def guarded(arguments: Sequence[str]) -> None:
    if len(arguments) > 1:
      _fail(
        ValueError(
          f"Unexpected argument {arguments[1]!r}; flags start with --"
        ),
        USAGE_ERROR,
      )
    try:
      _join()
      environment.require_device()
      if _SELF_CHECK.value:
        self_check.self_check()
      main()
    except expected as error:
      _fail(error, RUN_ERROR)
    except interruption.Interrupted as error:
      _fail(error, error.exit_code)
    except jax.errors.JaxRuntimeError as error:
      if not memory.is_lack(error):
        raise
      _fail(error, RUN_ERROR)

  interruption.raise_stopped()
  with streams.prompt_exit():
    try:
      app.run(guarded, flags_parser=_parse)
    except interruption.Stopped as error:
      _fail(error, error.exit_code)
    except KeyboardInterrupt as error:
      _fail(error, 128 + signal.SIGINT)
    finally:
      streams.settle()


def define_config(
  flag_values: flags.FlagValues = flags.FLAGS,
  *,
  help_text: str = "Configuration file.",
) -> flags.FlagHolder[Any]:
  """The flag --config=FILE, with --config.SECTION.FIELD for its fields.

  A --flagfile that cannot be read ends the process with one line and exit code
  2: such files are read here already.
  """
  try:
    _with_files(sys.argv[1:])
  except flags.Error as error:
    _fail(error, USAGE_ERROR)
  holder = config_flags.DEFINE_config_file(
    "config", None, help_text, flag_values
  )
  flag_values["config"].parser = _ConfigFile()
  return holder


def config_file(
  holder: flags.FlagHolder[Any], flag_values: flags.FlagValues = flags.FLAGS
) -> str | None:
  """The file of a `define_config` flag; None if the flag is not given."""
  if flag_values[holder.name].value is None:
    return None
  given = config_flags.get_config_filename(flag_values[holder.name])
  return given.partition(":")[0]


def define_fields(
  cls: type,
  *,
  leave_out: Sequence[str] = (),
  open_choices: Sequence[str] = (),
  flag_values: flags.FlagValues = flags.FLAGS,
) -> tuple[flags.FlagHolder[Any], ...]:
  """Flags that replace fields of a schema: --num_steps for `num_steps`.

  Args:
    cls: the schema; types, choices, conditions and texts are those of its
      fields.
    leave_out: names of fields without a flag.
    open_choices: names of fields that may choose a registered part, which is
      not known yet when the flags are read.
    flag_values: the flag values of the program.

  Returns:
    The flags, None where they are not given. A flag of a tuple holds a list of
    texts, to be read by `field_values`.
  """
  types, texts = typing.get_type_hints(cls), schema.descriptions(cls)
  found = []
  for field in dataclasses.fields(cls):
    if field.name in leave_out:
      continue
    name, text, kind = field.name, texts[field.name], types[field.name]
    if name in open_choices:
      found.append(flags.DEFINE_string(name, None, text, flag_values))
      continue
    if field.metadata["choices"]:
      flag = flags.DEFINE_enum(
        name, None, field.metadata["choices"], text, flag_values
      )
    elif kind is int:
      flag = flags.DEFINE_integer(name, None, text, flag_values=flag_values)
    elif kind is float:
      flag = flags.DEFINE_float(name, None, text, flag_values=flag_values)
    elif kind == tuple[float, ...]:
      flag = flags.DEFINE_list(name, None, text, flag_values)
    else:
      raise TypeError(f"Expected {name} to be a field with a flag, got {kind}.")
    flags.register_validator(
      name,
      functools.partial(_meets, field, kind),
      _condition(field, kind),
      flag_values,
    )
    found.append(flag)
  return tuple(found)


def field_values(given: Sequence[flags.FlagHolder[Any]]) -> dict[str, Any]:
  """The values of flags of `define_fields`, of those that are given."""
  values = {flag.name: flag.value for flag in given}
  return {
    name: tuple(map(float, value)) if isinstance(value, list) else value
    for name, value in values.items()
    if value is not None
  }


def _condition(field: dataclasses.Field, kind: Any) -> str:
  expected = field.metadata["expected"]
  if kind is int:
    return f"Expected an integer {expected}."
  if kind is float:
    return f"Expected a finite number {expected}."
  return f"Expected finite numbers {expected}, as 0.1,0.2."


def _meets(field: dataclasses.Field, kind: Any, value: Any) -> bool:
  if value is None or field.metadata["choices"]:
    return True
  numbers = value if isinstance(value, list) else [value]
  try:
    numbers = tuple(map(kind if kind is int else float, numbers))
  except ValueError:
    return False
  if not all(map(math.isfinite, numbers)):
    return False
  return field.metadata["holds"](numbers if isinstance(value, list) else value)


def define_directory(
  name: str, help_text: str, flag_values: flags.FlagValues = flags.FLAGS
) -> flags.FlagHolder[str | None]:
  """A flag that holds a path; an empty one would mean the current directory."""
  holder = flags.DEFINE_string(name, None, help_text, flag_values)
  require_path(name, flag_values)
  return holder


def require_path(
  name: str, flag_values: flags.FlagValues = flags.FLAGS
) -> None:
  """Refuses a flag with an empty value, or with an empty one among several."""
  flags.register_validator(
    name,
    lambda value: (
      value is None or all([value] if isinstance(value, str) else value)
    ),
    "Expected a path, got an empty one.",
    flag_values,
  )


def overrides(
  holder: flags.FlagHolder[Any], flag_values: flags.FlagValues = flags.FLAGS
) -> dict[str, Any]:
  """Values of the given --config.SECTION.FIELD, by "SECTION.FIELD"."""
  flag = flag_values[holder.name]
  if flag.value is None:
    return {}
  return dict(config_flags.get_override_values(flag))


def checked_config(
  holder: flags.FlagHolder[Any], flag_values: flags.FlagValues = flags.FLAGS
) -> config_lib.Config:
  """The configuration of a `define_config` flag.

  A wrong configuration ends the process with one line and exit code 2.

  Args:
    holder: the flag, from `define_config`.
    flag_values: the flag values passed to `define_config`.
  """
  given = overrides(holder, flag_values)
  try:
    return config_lib.from_config_dict(holder.value, given=given)
  except (ValueError, TypeError) as error:
    _fail(error, USAGE_ERROR)


def _join() -> None:
  given = {flag.name: flag.value for flag in _BY_HAND}
  if _DISTRIBUTED.value or any(v is not None for v in given.values()):
    processes.join(**given)


def _with_files(arguments: Sequence[str]) -> list[str]:
  """Arguments, with those in the files that --flagfile names."""
  try:
    return flags.FLAGS.read_flags_from_files(arguments, force_gnu=False)
  except flags.CantOpenFlagFileError as error:
    found = error.__context__
    raise flags.CantOpenFlagFileError(
      f"Cannot read --flagfile={found.filename}: {found.strerror}."
    ) from error
  except UnicodeError as error:
    raise flags.CantOpenFlagFileError(
      "Cannot read the file of --flagfile: it is not text in UTF-8."
    ) from error


def _parse(arguments: Sequence[str]) -> list[str]:
  try:
    rest = flags.FLAGS(arguments)
  except flags.UnrecognizedFlagError as error:
    if error.flagname.startswith("config."):
      error = ValueError(
        f"Expected --config=FILE with --{error.flagname}, got none; for "
        "example --config=configs/digits.py."
      )
    _fail(error, USAGE_ERROR)
  # Overrides are values of the caller and may raise anything.
  except Exception as error:
    _fail(error, USAGE_ERROR)
  # Libraries log every file they touch and the traceback of every error they
  # raise; --verbosity=0 shows all of it.
  if flags.FLAGS["verbosity"].using_default_value:
    logging.set_verbosity(logging.FATAL)
    sys.unraisablehook = functools.partial(_named_only, sys.unraisablehook)
  return rest


def _named_only(hook: Callable[[Any], None], unraisable: Any) -> None:
  """Hides exceptions that callbacks of native threads raise without a caller.

  For example, a full disk causes dozens of such tracebacks. The error itself is
  raised where the main thread waits for the work. Requests to stop are not
  exceptions of that kind.
  """
  if (
    unraisable.object is not None
    or unraisable.err_msg is not None
    or isinstance(unraisable.exc_value, KeyboardInterrupt)
  ):
    hook(unraisable)


def _fail(error: BaseException, code: int) -> NoReturn:
  if os.environ.get("ROBUST_INFO_TRACEBACK"):
    raise error
  streams.note(f"Error: {files.one_line(error)}")
  # At a regular exit JAX waits for the other processes, which may in turn wait
  # for this one; and beside threads of JAX that are still at work, as after a
  # stop, a regular exit may crash.
  if processes.is_joined() or isinstance(error, KeyboardInterrupt):
    streams.leave(code)
  sys.exit(code)
