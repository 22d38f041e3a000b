"""The configuration file of a run that uses parts of one's own.

Such a run needs the code that registered its parts (see `config.registry`), so
it stores its configuration file, `configuration.py`. The file is a program. It
is run again only for the user who trained with it, on a machine that knows so:
the digest of each file stored is also kept in the user's own cache. For any
other run, for example a downloaded one, the user has to name a file.
"""

import os
import pathlib
from typing import Any

from robust_info import config as config_lib
from robust_info.config import file as file_lib
from robust_info.config import registry
from robust_info.runtime import environment, files

NAME = "configuration.py"


class UnknownOriginError(ValueError):
  """A run whose configuration file must be named; one line."""


def keep(workdir: pathlib.Path, config: config_lib.Config) -> None:
  """Stores the file that registered the parts of a run, if there is one.

  A stored file with another text is kept under its digest.

  Args:
    workdir: directory of the run.
    config: its configuration.

  Raises:
    OSError: the file cannot be written.
  """
  # One file registers the parts of a training: that of --config.
  for origin in {part.origin for part in config_lib.parts(config)} - {None}:
    path = workdir / NAME
    stored = file_lib.read(path) if files.exists(path) else None
    if stored is not None and stored.text != origin.text:
      former = path.with_name(f"configuration-{stored.digest[:16]}.py")
      files.write_whole(former, stored.text)
    if stored is None or stored.text != origin.text:
      files.write_whole(path, origin.text)
    _trust(origin)


def find(
  workdir: pathlib.Path,
  content: Any,
  configuration: str | os.PathLike[str] | None,
) -> registry.Origin | None:
  """The file whose parts a stored run uses.

  Args:
    workdir: directory of the run.
    content: its stored configuration, a nested mapping.
    configuration: file that the user names instead of the stored one.

  Returns:
    The file to run; None if the run has no part of its own, or if all of them
    are registered in this session and the stored file is not the user's.

  Raises:
    UnknownOriginError: the user has to name or to register the parts.
    config.file.FileError: the file cannot be read.
  """
  named = registry.named(content)
  if not named:
    return None
  if configuration is not None:
    return file_lib.read(configuration)
  path = workdir / NAME
  stored = file_lib.read(path) if files.exists(path) else None
  if stored is not None and _mark(stored).exists():
    return stored
  if not registry.unknown(content):
    return None
  parts = ", ".join(f"{kind} {name!r}" for kind, name in named.items())
  if stored is None:
    raise UnknownOriginError(
      f"The run in {workdir} uses {parts}, which no file registered; register "
      "it in this session, or name a file that does with --config=FILE."
    )
  raise UnknownOriginError(
    f"The run in {workdir} uses {parts}, registered by {path}, a program that "
    f"you have not trained with here; read it, then name it: --config={path}."
  )


def _mark(origin: registry.Origin) -> pathlib.Path:
  return environment.cache_root() / "configurations" / origin.digest


def _trust(origin: registry.Origin) -> None:
  mark = _mark(origin)
  try:
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.touch()
  except OSError:
    pass  # evaluate.py asks for the file.
