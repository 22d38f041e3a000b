"""The directory of a run: one configuration, one training at a time.

In a training of several processes, only the first uses the directory.

config.json        the resolved configuration, with a checksum (`crc32`)
configuration.py   the configuration file, if it registered parts of the run,
                   see `own_parts`
environment.json   one entry per start: versions, commit, device, command; a
                   damaged one is renamed environment.json.damaged
metrics.jsonl      the log, see `metrics_log`
tensorboard/       the same numbers as event files
checkpoints/       see `checkpoints`
damaged/           checkpoints that were damaged
lock               held while a process trains here, see `locks`
"""

import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from robust_info import config as config_lib
from robust_info.runtime import environment, files, locks, processes
from robust_info.training import metrics_log, own_parts


class WorkdirError(RuntimeError):
  """The directory cannot hold this run; one line.

  Attributes:
    changes: text on a few of the fields that differ, where the directory holds
      a run of another configuration; empty on other processes than the first.
  """

  def __init__(self, text: str, changes: str = ""):
    super().__init__(text)
    self.changes = changes


class Workdir:
  """A locked directory that holds exactly one configuration.

  Use as a context manager; the lock ends with it, or with the process.

  Attributes:
    path: absolute path of the directory.
  """

  def __init__(self, path: str | os.PathLike[str], config: config_lib.Config):
    """Creates or reopens the directory of a run.

    Args:
      path: directory of the run; created with its parents if missing.
      config: resolved configuration, which is stored, or compared with the
        stored one. Fields that may change when a run resumes, see
        `config.resume`, are stored again.

    Raises:
      WorkdirError: the directory cannot be written, has a path that is not
        UTF-8, is in use by another process, or holds a run of another
        configuration.
    """
    self.path = pathlib.Path(path).absolute()
    self._lock = None
    _require_utf8(path)
    processes.on_first(lambda: self._open(config), errors=(WorkdirError,))

  def close(self) -> None:
    """Releases the lock."""
    if self._lock is not None:
      self._lock.close()

  def __enter__(self) -> "Workdir":
    return self

  def __exit__(self, *exception: Any) -> None:
    self.close()

  def _open(self, config: config_lib.Config) -> None:
    try:
      self.path.mkdir(parents=True, exist_ok=True)
      self._lock = locks.Lock(self.path / "lock", f"Workdir {self.path}")
      self._check_config(config)
      own_parts.keep(self.path, config)
      self._note_environment()
    except locks.BusyError as error:
      raise WorkdirError(
        f"{error}; wait for its end or choose another --workdir."
      ) from error
    except OSError as error:
      self.close()
      raise WorkdirError(
        f"Cannot write to workdir {self.path}: {error.strerror}; "
        f"{files.remedy(error.errno, 'choose another --workdir')}."
      ) from error
    except BaseException:
      self.close()
      raise

  def _check_config(self, config: config_lib.Config) -> None:
    stored = self.path / "config.json"
    if files.exists(stored):
      found = read_config(self.path)
      changes = config_lib.refused_changes(found, config)
      if changes:
        more = f" and {len(changes) - 3} more" if len(changes) > 3 else ""
        shown = f"{'; '.join(changes[:3])}{more}"
        raise WorkdirError(
          f"Workdir {self.path} holds a run of another configuration: {shown}; "
          f"choose another --workdir, with --init_from={self.path} to start "
          "from its weights.",
          shown,
        )
      if found != config:
        _write_config(stored, config)
    elif files.exists(self.path / "checkpoints"):
      raise WorkdirError(
        f"Workdir {self.path} has checkpoints but no config.json; choose "
        "another --workdir."
      )
    else:
      require_fresh(self.path)
      _write_config(stored, config)

  def _note_environment(self) -> None:
    path = self.path / "environment.json"
    try:
      starts = _read_environment(path)
    except (OSError, files.DamageError):
      os.replace(path, path.with_suffix(".json.damaged"))
      starts = []
    text = json.dumps([*starts, environment.of_start()], indent=2) + "\n"
    files.write_whole(path, text)


def _write_config(path: pathlib.Path, config: config_lib.Config) -> None:
  files.write_sealed(path, json.loads(config_lib.to_json(config)))


def require_fresh(path: str | os.PathLike[str]) -> None:
  """Refuses a directory whose run is past its first step.

  Called by a training that finds no checkpoint: it would start again at step 0
  and overwrite the log of the earlier training.

  Args:
    path: a workdir without a checkpoint.

  Raises:
    WorkdirError: checkpoints were set aside there; or the log goes past step 0,
      which happens only after a checkpoint is complete; or the log cannot be
      read.
  """
  path = pathlib.Path(path)
  try:
    shelf = _set_aside(path / "damaged")
    rows = metrics_log.read_rows(path / "metrics.jsonl")
  except (OSError, ValueError) as error:
    raise WorkdirError(
      f"Workdir {path} has no checkpoint, and whether there was one cannot be "
      f"told: {error}"
    ) from error
  last = max((row["step"] for row in rows), default=0)
  found = []
  advice = "bring back a copy of checkpoints/"
  if last > 0:
    found.append(f"a log up to step {last:,}")
  if shelf:
    found.append(f"{len(shelf)} set aside in damaged/")
    step = shelf[-1].partition("-")[0]
    advice = (
      f"move back one that is whole after all, such as damaged/{shelf[-1]} to "
      f"checkpoints/{step}"
    )
  if found:
    raise WorkdirError(
      f"Workdir {path} has no usable checkpoint, but {' and '.join(found)}; "
      f"{advice}, or choose another --workdir to start again at step 0."
    )


def _set_aside(shelf: pathlib.Path) -> list[str]:
  """Names of the checkpoints in `damaged/`, the newest last."""
  try:
    names = os.listdir(shelf)
  except FileNotFoundError:
    return []
  steps = {name: name.partition("-")[0] for name in names}
  return sorted(
    (name for name in names if steps[name].isdecimal()),
    key=lambda name: (int(steps[name]), name),
  )


def read_config(path: str | os.PathLike[str]) -> config_lib.Config:
  """The configuration of the run in a directory.

  Args:
    path: a workdir. A config.json of an older version, without a checksum, can
      be read too. Parts of one's own must be registered.

  Raises:
    WorkdirError: the configuration is missing, cannot be read, is damaged or
      incomplete, or was changed without removing its checksum.
  """
  return parsed(path, read_content(path))


def parsed(
  path: str | os.PathLike[str], content: Mapping[str, Any]
) -> config_lib.Config:
  """The configuration in the content of a config.json.

  Args:
    path: the workdir, for errors.
    content: from `read_content`.

  Raises:
    WorkdirError: a field is wrong, or a part of one's own is not registered.
  """
  try:
    return config_lib.from_json(json.dumps(content))
  except (ValueError, TypeError) as error:
    file = pathlib.Path(path) / "config.json"
    raise WorkdirError(f"Cannot use {file}: {error}") from error


def read_content(path: str | os.PathLike[str]) -> dict[str, Any]:
  """The content of config.json in a workdir, as nested mappings.

  Raises:
    WorkdirError: as `read_config`, but no field is checked.
  """
  _require_utf8(path)
  file = pathlib.Path(path) / "config.json"
  try:
    content, checked = files.read_sealed(file)
    if not checked:
      _require_sections(content)
    return content
  except OSError as error:
    raise WorkdirError(
      f"No run in workdir {path}: cannot read config.json "
      f"({error.strerror}); train there first."
    ) from error
  except files.DamageError as error:
    raise WorkdirError(
      f"Cannot use {file}: {error}; bring back a copy of the file. After a "
      "change that you made yourself, remove its member crc32."
    ) from error


def _require_utf8(path: str | os.PathLike[str]) -> None:
  """Refuses names that the library of the checkpoints cannot take."""
  name = os.path.abspath(path)
  try:
    name.encode()
  except UnicodeEncodeError as error:
    raise WorkdirError(
      f"Cannot use workdir {os.fsencode(name)!r}: its path is not UTF-8; "
      "rename it, or choose another --workdir."
    ) from error


def _require_sections(content: Mapping[str, Any]) -> None:
  """Requires the sections that all versions write; some fields came later."""
  for field in dataclasses.fields(config_lib.Config):
    if content.get(field.name) in (None, {}):
      raise files.DamageError(f"it has no {field.name}")


def read_environment(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
  """One entry per start of the run, oldest first.

  Nothing depends on this list: it is empty if environment.json is missing,
  damaged or cannot be read.

  Args:
    path: a workdir.
  """
  try:
    return _read_environment(pathlib.Path(path) / "environment.json")
  except (OSError, files.DamageError):
    return []


def _read_environment(path: pathlib.Path) -> list[dict[str, Any]]:
  if not files.exists(path):
    return []
  starts = files.read_json(path)
  if isinstance(starts, list) and all(isinstance(s, dict) for s in starts):
    return starts
  raise files.DamageError("it is no list of objects")
