"""Keeps finished measurements on disk, so that a stopped job goes on."""

import hashlib
import json
import os
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np


class MeasurementCache:
  """Values by name, one file a measurement, for one fingerprint.

  A file is written whole or not at all. A fingerprint stands for everything
  the values depend on; files of another one are never read.
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
    self._directory.mkdir(parents=True, exist_ok=True)

  def get(self, name: str, measure: Callable[[], Any]) -> Any:
    """The stored value, or that of `measure()`, then stored.

    Args:
      name: names the measurement; any text.
      measure: returns what JSON can hold.

    Returns:
      The value as JSON gives it back, stored before or not.
    """
    safe = "".join(c if c.isalnum() or c in "-._" else "_" for c in name)
    path = self._directory / f"{safe}.json"
    try:
      return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
      pass
    text = json.dumps(measure())
    scratch = path.with_suffix(f".{os.getpid()}.tmp")
    scratch.write_text(text, encoding="utf-8")
    os.replace(scratch, path)
    return json.loads(text)


def fingerprint(*parts: Any) -> str:
  """A short hash of texts, numbers and arrays (pytrees of them).

  Args:
    *parts: pytrees; arrays count with dtype, shape and bytes, anything else
      as its `repr`.
  """
  digest = hashlib.sha256()
  for part in parts:
    leaves, structure = jax.tree.flatten(part)
    digest.update(str(structure).encode())
    for leaf in leaves:
      if isinstance(leaf, np.ndarray | jax.Array):
        array = np.ascontiguousarray(leaf)
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(array.tobytes())
      else:
        digest.update(repr(leaf).encode())
  return digest.hexdigest()[:16]
