"""Keeps finished measurements on disk, so that a stopped job goes on."""

import hashlib
import json
import os
import pathlib
import urllib.parse
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from robust_info.runtime import files, processes


class MeasurementCache:
  """Values by name, one file per measurement, for one fingerprint.

  A file is written whole or not at all, with a checksum, by the first of
  several processes, which all make the same calls. A fingerprint stands for
  everything the values depend on; files of another one are never read.
  """

  def __init__(self, directory: str | os.PathLike[str], fingerprint: str):
    """Opens or makes the directory.

    Args:
      directory: where files are kept.
      fingerprint: from `fingerprint`.

    Raises:
      OSError: the directory cannot be made.
    """
    self._directory = pathlib.Path(directory) / fingerprint
    processes.on_first(
      lambda: self._directory.mkdir(parents=True, exist_ok=True),
      errors=(OSError,),
    )

  def get(self, name: str, measure: Callable[[], Any]) -> Any:
    """The stored value, or that of `measure()`, then stored.

    Args:
      name: names the measurement; different texts never share a file.
      measure: returns what JSON can hold.

    Returns:
      The value as JSON gives it back, stored before or not. A file that is not
      what was written, by one bit or all, is measured again.

    Raises:
      OSError: a file is there and cannot be read, or cannot be written.
    """
    path = self._directory / f"{urllib.parse.quote(name, safe='')}.json"
    found = processes.on_first(lambda: _read(path), errors=(OSError,))
    if not found:
      found = [json.loads(json.dumps(measure()))]
      processes.on_first(
        lambda: files.write_sealed(path, {"value": found[0]}),
        errors=(OSError,),
      )
    return found[0]

  def folder(self, name: str) -> pathlib.Path:
    """Where a measurement may keep its state while it is being made.

    Args:
      name: that of the measurement.

    Returns:
      A path that nothing else uses; made by whoever writes there.
    """
    return self._directory / f"{urllib.parse.quote(name, safe='')}.state"


def _read(path: pathlib.Path) -> list[Any]:
  """The value of a file, or nothing."""
  try:
    content, checked = files.read_sealed(path)
  except (FileNotFoundError, files.DamageError):
    return []
  return [content["value"]] if checked else []


def fingerprint(*parts: Any) -> str:
  """A short hash of texts, numbers and arrays (pytrees of them).

  Args:
    *parts: pytrees; arrays count with dtype, shape and bytes, anything else
      as its `repr`, which must say all that matters.
  """
  digest = hashlib.sha256()

  def add(content: bytes | np.ndarray) -> None:
    # With its length: no two sequences of contents read the same.
    digest.update(len(content).to_bytes(8, "little"))
    digest.update(content)

  leaves, structure = jax.tree.flatten(parts)
  add(str(structure).encode())
  for leaf in leaves:
    if isinstance(leaf, np.ndarray | jax.Array):
      array = np.asarray(leaf)
      add(f"{array.dtype}{array.shape}".encode())
      # The bytes where they lie, without a copy of a data set.
      add(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
    else:
      add(repr(leaf).encode())
  return digest.hexdigest()[:16]
