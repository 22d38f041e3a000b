"""The --help of the entry points: all flags in groups, and all fields.

absl lists the flags of one file by the alphabet, and hides those of others.
"""

import dataclasses
import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from robust_info import config as config_lib
from robust_info.config import schema

WIDTH = 80
ASKED = frozenset({"-h", "-help", "--help", "--helpshort"})

# Flags of every entry point.
COMMON: Mapping[str, Sequence[str]] = {
  "Several processes (docs/guide/scaling.md)": (
    "distributed",
    "coordinator",
    "num_processes",
    "process_id",
  ),
  "Checks and messages": ("self_check", "verbosity"),
}


def render(
  text: str,
  groups: Mapping[str, Sequence[str]],
  *,
  with_fields: bool,
  flag_values: flags.FlagValues = flags.FLAGS,
) -> str:
  """The help of a program.

  Args:
    text: docstring of the program.
    groups: title -> names of flags, in the order of the help; those of all
      programs are added.
    with_fields: whether the program takes every field of a configuration.
    flag_values: the flags of the program.
  """
  lines = [text.strip(), ""]
  for title, names in {**groups, **COMMON}.items():
    lines += [f"{title}:"]
    for name in names:
      lines += _entry(_head(flag_values[name]), _text(flag_values[name]))
    lines += [""]
  if with_fields:
    lines += [
      "Fields of the configuration, with their defaults (configs/ has files):",
      *_fields(),
    ]
  return "\n".join(lines).rstrip()


def _head(flag: flags.Flag) -> str:
  """A flag, with its choices or its default."""
  if isinstance(flag, flags.BooleanFlag):
    return f"--[no]{flag.name}"
  values = getattr(flag.parser, "enum_values", None)
  if values:
    return f"--{flag.name}={'|'.join(values)}"
  if flag.default in (None, []):
    return f"--{flag.name}"
  return f"--{flag.name}={flag.default}"


def _text(flag: flags.Flag) -> str:
  """The text of a flag, without the additions of absl."""
  if flag.name == "verbosity":
    return "0 shows the messages of libraries and whole tracebacks."
  text = re.sub(r"^<[^>]*>: ", "", flag.help)
  return re.sub(r";\s*repeat this option.*", "", text, flags=re.DOTALL)


def _fields() -> list[str]:
  lines, defaults = [], config_lib.Config()
  for field in dataclasses.fields(defaults):
    section = getattr(defaults, field.name)
    if not dataclasses.is_dataclass(section):
      lines += _entry(
        f"--config.{field.name}={section!r}", _of(defaults, field)
      )
      continue
    for inner in dataclasses.fields(section):
      value = _shown(getattr(section, inner.name))
      head = f"--config.{field.name}.{inner.name}={value}"
      lines += _entry(head, _of(section, inner))
  return lines


def _of(section: Any, field: dataclasses.Field) -> str:
  return schema.descriptions(type(section))[field.name]


def _shown(value: Any) -> str:
  return value if isinstance(value, str) else repr(value)


def _entry(head: str, text: str) -> list[str]:
  text = " ".join(text.split())
  found = textwrap.wrap(
    text[:1].upper() + text[1:],
    WIDTH,
    initial_indent="      ",
    subsequent_indent="      ",
  )
  return [f"  {head}", *found]
