"""Named arrays in a directory: written once and atomically, then mapped.

A directory holds one .npy file per array and `index.json`, written last, with
the CRC-32 of every file. The content of a directory is a function of its path,
so two processes that build one at the same time write the same bytes, and
`os.replace` of whole files is the only locking that is needed.
"""

import io
import json
import pathlib
import time
import zlib
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from robust_info.data import source
from robust_info.runtime import files

_INDEX = "index.json"
_ABANDONED_SECONDS = 24 * 3600


class ArrayWriter:
  """Writes the arrays of one directory; see `load_or_build`."""

  def __init__(self, directory: pathlib.Path):
    self._directory = directory
    self.checksums: dict[str, int] = {}

  def write(
    self,
    name: str,
    chunks: Iterable[np.ndarray],
    *,
    shape: tuple[int, ...],
    dtype: Any,
  ) -> None:
    """Writes an array from consecutive chunks of its rows.

    Args:
      name: name of the array, and of its file.
      chunks: arrays [n, *shape[1:]], with n adding up to shape[0].
      shape: shape of the whole array.
      dtype: dtype of the whole array.

    Raises:
      ValueError: the chunks do not add up to such an array.
      OSError: the disk is full, or cannot be written by this user.
    """
    dtype = np.dtype(dtype)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
      header,
      {
        "descr": np.lib.format.dtype_to_descr(dtype),
        "fortran_order": False,
        "shape": shape,
      },
    )
    with files.replacing(self._directory / f"{name}.npy") as file:
      file.write(header.getvalue())
      checksum = zlib.crc32(header.getvalue())
      rows = 0
      for chunk in chunks:
        if chunk.dtype != dtype or chunk.shape[1:] != shape[1:]:
          raise ValueError(
            f"Expected rows {dtype} {shape[1:]} of {name}, got {chunk.dtype} "
            f"{chunk.shape[1:]}."
          )
        content = chunk.tobytes()
        file.write(content)
        checksum = zlib.crc32(content, checksum)
        rows += len(chunk)
      if rows != shape[0]:
        raise ValueError(f"Expected {shape[0]} rows of {name}, got {rows}.")
    self.checksums[name] = checksum


def load_or_build(
  directory: pathlib.Path,
  names: Callable[[dict], Iterable[str]],
  build: Callable[[ArrayWriter], dict],
) -> tuple[dict, dict[str, np.ndarray]]:
  """Arrays of a directory, built if any of them is missing or damaged.

  A checksum (about 1 GB/s) detects a file that is missing, truncated or
  altered, and the whole directory is then built again. Several processes may
  call this function at once. Reading needs no permission to write.

  Args:
    directory: path that identifies its content uniquely.
    names: function from the info that `build` returned to the names of the
      requested arrays.
    build: function that writes every array and returns a JSON-able info.

  Returns:
    The info, and the requested arrays as read-only memory maps.

  Raises:
    source.UnavailableError: the directory cannot be written, or not read back.
  """
  found = _read(directory, names)
  if found is None:
    try:
      _build(directory, build)
    except OSError as error:
      elsewhere = (
        "pass cache_dir= or set ROBUST_INFO_CACHE to a directory with space "
        "that can be written"
      )
      raise source.UnavailableError(
        f"Cannot write the array cache {directory}: "
        f"{error.strerror or error}; {files.remedy(error.errno, elsewhere)}."
      ) from error
    found = _read(directory, names)
  if found is None:
    raise source.UnavailableError(
      f"The array cache {directory} does not read back as it was written; "
      "check that disk, or pass another cache_dir=."
    )
  return found


def _build(
  directory: pathlib.Path, build: Callable[[ArrayWriter], dict]
) -> None:
  directory.mkdir(parents=True, exist_ok=True)
  for path in directory.glob("*.tmp"):  # Left by processes that were killed.
    if time.time() - path.stat().st_mtime > _ABANDONED_SECONDS:
      path.unlink(missing_ok=True)
  writer = ArrayWriter(directory)
  content = {"info": build(writer), "arrays": writer.checksums}
  content["crc32"] = _json_crc(content)
  files.write_whole(directory / _INDEX, json.dumps(content))


def _read(
  directory: pathlib.Path, names: Callable[[dict], Iterable[str]]
) -> tuple[dict, dict[str, np.ndarray]] | None:
  """Info and verified arrays, or None if data are missing or altered."""
  try:
    content = json.loads((directory / _INDEX).read_bytes())
    if content.pop("crc32") != _json_crc(content):
      return None
    arrays = {}
    for name in names(content["info"]):
      path = directory / f"{name}.npy"
      if files.checksum_of(path) != content["arrays"][name]:
        return None
      arrays[name] = np.asarray(np.load(path, mmap_mode="r"))
  except (OSError, ValueError, KeyError, TypeError, AttributeError):
    return None
  return content["info"], arrays


def _json_crc(content: dict) -> int:
  return zlib.crc32(json.dumps(content, sort_keys=True).encode())
