"""The directory of a run: one configuration, one training at a time.

Of a training of several processes the first alone touches the directory.

config.json        the resolved configuration
environment.json   one entry a start: versions, commit, device, command
metrics.jsonl      the log, see `writers`
tensorboard/       the same numbers as event files
checkpoints/       see `checkpoints`
lock               held while a process trains here
"""

import fcntl
import importlib.metadata
import json
import os
import pathlib
import platform
import socket
import subprocess
import sys
import time
from typing import Any

import jax

from robust_info import config as config_lib
from robust_info import processes

_PACKAGES = (
  "flax",
  "jax",
  "jaxlib",
  "ml_collections",
  "numpy",
  "optax",
  "orbax-checkpoint",
  "tensorflow-datasets",
)


class WorkdirError(RuntimeError):
  """A directory that cannot hold this run; one line."""


class Workdir:
  """A locked directory that holds exactly one configuration.

  Use as a context manager. The lock belongs to the process: it is gone when
  the process is, however that ended, so that a stale lock never blocks.

  Attributes:
    path: the directory, absolute.
  """

  def __init__(self, path: str | os.PathLike[str], config: config_lib.Config):
    """Makes or reopens the directory of a run.

    Args:
      path: made with its parents when missing.
      config: resolved; stored, or compared with what is stored. Fields that
        may change when a run resumes, see `config.resume`, are stored anew.

    Raises:
      WorkdirError: the directory cannot be written, is in use by another
        process, or holds a run of another configuration.
    """
    self.path = pathlib.Path(path).absolute()
    self._lock = None
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
      self._lock = open(self.path / "lock", "a+", encoding="utf-8")  # noqa: SIM115
    except OSError as error:
      raise WorkdirError(
        f"Cannot write to workdir {self.path}: {error.strerror}; choose "
        "another --workdir."
      ) from error
    try:
      self._acquire()
      self._check_config(config)
      self._note_environment()
    except BaseException:
      self.close()
      raise

  def _acquire(self) -> None:
    try:
      fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
      self._lock.seek(0)
      holder = self._lock.read().strip() or "another process"
      raise WorkdirError(
        f"Workdir {self.path} is in use by {holder}; wait for its end or "
        "choose another --workdir."
      ) from error
    self._lock.truncate(0)
    self._lock.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    self._lock.flush()

  def _check_config(self, config: config_lib.Config) -> None:
    stored = self.path / "config.json"
    if stored.exists():
      found = read_config(self.path)
      changes = config_lib.refused_changes(found, config)
      if changes:
        more = f" and {len(changes) - 3} more" if len(changes) > 3 else ""
        raise WorkdirError(
          f"Workdir {self.path} holds a run of another configuration: "
          f"{'; '.join(changes[:3])}{more}; choose another --workdir, with "
          f"--init_from={self.path} to start from its weights."
        )
      if found != config:
        _write_whole(stored, config_lib.to_json(config))
    elif (self.path / "checkpoints").exists():
      raise WorkdirError(
        f"Workdir {self.path} has checkpoints but no config.json; choose "
        "another --workdir."
      )
    else:
      _write_whole(stored, config_lib.to_json(config))

  def _note_environment(self) -> None:
    starts = [*read_environment(self.path), _environment()]
    text = json.dumps(starts, indent=2) + "\n"
    _write_whole(self.path / "environment.json", text)


def read_config(path: str | os.PathLike[str]) -> config_lib.Config:
  """The configuration of the run in a directory.

  Args:
    path: a workdir.

  Raises:
    WorkdirError: there is none, or it cannot be read.
  """
  file = pathlib.Path(path) / "config.json"
  try:
    return config_lib.from_json(file.read_text(encoding="utf-8"))
  except OSError as error:
    raise WorkdirError(
      f"No run in workdir {path}: cannot read config.json "
      f"({error.strerror}); train there first."
    ) from error
  except (ValueError, TypeError) as error:
    raise WorkdirError(f"Cannot use {file}: {error}") from error


def read_environment(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
  """One entry for every start of the run, oldest first.

  Args:
    path: a workdir; without environment.json the list is empty.
  """
  file = pathlib.Path(path) / "environment.json"
  if not file.exists():
    return []
  return json.loads(file.read_text(encoding="utf-8"))


def _environment() -> dict[str, Any]:
  versions = {"python": platform.python_version()}
  for name in _PACKAGES:
    try:
      versions[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      continue
  device = jax.devices()[0]
  return {
    "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    "command": sys.argv,
    "versions": versions,
    "git": _git(),
    "platform": platform.platform(),
    "cpu_count": os.cpu_count(),
    "backend": device.platform,
    "device": device.device_kind,
    "num_devices": jax.device_count(),
    "num_processes": jax.process_count(),
  }


def _git() -> dict[str, Any] | None:
  """Commit of this package, None when it was not run from a clone."""
  here = pathlib.Path(__file__).parent

  def git(*arguments: str) -> str:
    return subprocess.run(
      ["git", "-C", str(here), *arguments],
      capture_output=True,
      check=True,
      text=True,
      timeout=10,
    ).stdout.strip()

  try:
    # An installed package may lie inside somebody else's clone.
    git("ls-files", "--error-unmatch", pathlib.Path(__file__).name)
    commit = git("rev-parse", "HEAD")
    changed = bool(git("status", "--porcelain", "--untracked-files=no"))
  except (OSError, subprocess.SubprocessError):
    return None
  return {"commit": commit, "uncommitted_changes": changed}


def _write_whole(path: pathlib.Path, text: str) -> None:
  """All of it or nothing, even when the process is killed."""
  scratch = path.with_name(path.name + ".tmp")
  with open(scratch, "w", encoding="utf-8") as file:
    file.write(text)
    file.flush()
    os.fsync(file.fileno())
  os.replace(scratch, path)
