"""Keeps finished measurements on disk, so that a stopped job can resume."""

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

  A file is written whole or not at all, with a checksum. With several
  processes, all make the same calls and the first writes. A fingerprint
  identifies everything that the values depend on; files of another fingerprint
  are never read.
  """

  def __init__(self, directory: str | os.PathLike[str], fingerprint: str):
    """Opens or creates the directory.

    Args:
      directory: directory of the files.
      fingerprint: hash from `fingerprint`.

    Raises:
      OSError: the directory cannot be created.
    """
    self._directory = pathlib.Path(directory) / fingerprint
    processes.on_first(
      lambda: self._directory.mkdir(parents=True, exist_ok=True),
      errors=(OSError,),
    )

  def get(self, name: str, measure: Callable[[], Any]) -> Any:
    """Returns the stored value, or calls `measure()` and stores its value.

    Args:
      name: name of the measurement; different names never share a file.
      measure: function that returns a JSON value.

    Returns:
      The value after a round trip through JSON, stored before or not. If the
      content of the file differs from the content written, even by one bit,
      `measure()` is called again.

    Raises:
      OSError: a file exists and cannot be read, or cannot be written.
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
    """The folder in which an unfinished measurement may keep its progress.

    Args:
      name: name of the measurement.

    Returns:
      A path that nothing else uses; the caller creates it.
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
  """A short hash of strings, numbers and arrays (or pytrees of them).

  Args:
    *parts: pytrees; arrays are hashed by dtype, shape and bytes, any other leaf
      and the structure by their `repr`, which must contain everything that
      matters and no address in memory.
  """
  digest = hashlib.sha256()

  def add(content: bytes | np.ndarray) -> None:
    # Hash the length too, so that different sequences give different bytes.
    digest.update(len(content).to_bytes(8, "little"))
    digest.update(content)

  leaves, structure = jax.tree.flatten(parts)
  add(str(structure).encode())
  for leaf in leaves:
    if isinstance(leaf, np.ndarray | jax.Array):
      if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        add(str(jax.random.key_impl(leaf)).encode())
        leaf = jax.random.key_data(leaf)
      array = np.asarray(leaf)
      add(f"{array.dtype}{array.shape}".encode())
      # View the bytes in place, without a copy of the data set.
      add(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
    else:
      add(repr(leaf).encode())
  return digest.hexdigest()[:16]
