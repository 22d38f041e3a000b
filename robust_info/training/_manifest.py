"""Shape, dtype and checksum of every array of a checkpoint, and of its files.

A manifest is a sealed JSON object (see `runtime.files`) with the members
`progress`, `metrics`, `interim` and `leaves`; manifests of older versions have
no seal. Next to the arrays is a list of their files with checksums, which
distinguishes a damaged file from a file that cannot be read now.
"""

import os
import pathlib
import re
import zlib
from collections.abc import Mapping
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np

from robust_info.runtime import files

_FIELDS = {"progress", "metrics", "interim", "leaves"}
_LIST = "checksums.json"
_MISSING = (FileNotFoundError, IsADirectoryError, NotADirectoryError)
# Matches errors of the system in ValueErrors of TensorStore; 2 is a missing
# file.
_FROM_SYSTEM = re.compile(
  r"os_error_code='(?!2')|RESOURCE_EXHAUSTED|PERMISSION_DENIED|UNAVAILABLE|"
  r"DEADLINE_EXCEEDED|CANCELLED|ABORTED"
)


def key_data(leaf: Any) -> Any:
  """The data of PRNG keys; other arrays are returned unchanged."""
  if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
    return jax.random.key_data(leaf)
  return leaf


def abstract(leaf: Any) -> jax.ShapeDtypeStruct:
  """Shape and dtype of `key_data`."""
  data = jax.eval_shape(key_data, leaf)
  return jax.ShapeDtypeStruct(data.shape, data.dtype)


def describe(host: Any) -> dict[str, Any]:
  """Shape, dtype and CRC-32 of every leaf, by path."""
  described = {}
  for path, leaf in jax.tree_util.tree_leaves_with_path(host):
    array = np.ascontiguousarray(leaf)
    described[jax.tree_util.keystr(path)] = {
      "shape": list(leaf.shape),
      "dtype": str(array.dtype),
      "crc32": zlib.crc32(array.reshape(-1).view(np.uint8)),
    }
  return described


def difference(saved: Mapping[str, Any], wanted: Any) -> str | None:
  """Describes the first leaf that differs; None if no leaf differs.

  Args:
    saved: leaves from `describe`.
    wanted: a pytree of results of `abstract`.
  """
  here = {
    jax.tree_util.keystr(path): f"{leaf.dtype}{list(leaf.shape)}"
    for path, leaf in jax.tree_util.tree_leaves_with_path(wanted)
  }
  there = {k: f"{leaf['dtype']}{leaf['shape']}" for k, leaf in saved.items()}
  for name in [*here, *there]:
    if name not in there:
      return f"it has no {name}"
    if name not in here:
      return f"it holds {name}, which this model has not"
    if here[name] != there[name]:
      return f"its {name} is {there[name]}, this model's is {here[name]}"
  return None


def read(path: pathlib.Path) -> dict[str, Any]:
  """Reads a manifest and verifies it.

  Args:
    path: the file; the directory of its checkpoint must exist.

  Raises:
    files.DamageError: the file is missing, or its content differs from the
      content saved.
    OSError: the file cannot be read.
  """
  try:
    content, _ = files.read_sealed(path)
  except _MISSING as error:
    raise files.DamageError("it has no manifest") from error
  except files.DamageError as error:
    raise files.DamageError(f"of its manifest: {error}") from error
  # Otherwise a flipped bit in the name of the seal would turn a manifest into
  # one of an older version.
  if content.keys() != _FIELDS or not _is_manifest(**content):
    raise files.DamageError("its manifest has not the fields of one")
  return content


def _is_manifest(
  progress: Any, metrics: Any, interim: Any, leaves: Any
) -> bool:
  del progress
  return (
    isinstance(interim, bool)
    and (metrics is None or _are_metrics(metrics))
    and isinstance(leaves, dict)
    and all(
      isinstance(leaf, dict) and leaf.keys() == {"shape", "dtype", "crc32"}
      for leaf in leaves.values()
    )
  )


def _are_metrics(metrics: Any) -> bool:
  return isinstance(metrics, dict) and all(
    isinstance(metrics.get(name), int | float)
    for name in ("robust_accuracy", "accuracy")
  )


def require_saved(host: Any, leaves: Mapping[str, Any]) -> None:
  """Requires arrays to match their description in a manifest.

  Args:
    host: a pytree of arrays.
    leaves: leaves from `describe`, of the same structure, shapes and dtypes.

  Raises:
    files.DamageError: a checksum is wrong.
  """
  found = describe(host)
  for name, leaf in leaves.items():
    if found[name] != leaf:
      raise files.DamageError(f"the checksum of {name} is wrong")


def list_files(directory: pathlib.Path) -> None:
  """Writes the list of a directory's files and their checksums.

  Raises:
    OSError: the list cannot be written, or a file cannot be read.
  """
  files.write_sealed(directory / _LIST, {"files": _checksums(directory)})


def require_damage(directory: pathlib.Path, error: Exception) -> None:
  """Returns if an error is due to damaged files, and raises it otherwise.

  Every file is read, so that a file that cannot be read now is never called
  damaged.

  Args:
    directory: directory for which `list_files` was called when the files were
      written; older versions did not call it.
    error: exception raised while reading the content.

  Raises:
    OSError: a file cannot be read.
    Exception: `error`, if no file has changed since it was written; without a
      list, if damaged files are not known to cause this error.
  """
  try:
    found = _checksums(directory)
  except FileNotFoundError:
    return
  try:
    listed, _ = files.read_sealed(directory / _LIST)
  except (FileNotFoundError, IsADirectoryError):
    if not _may_be_damage(error):
      raise error from None
    return
  except files.DamageError:
    return
  if all(found.get(k) == v for k, v in listed["files"].items()):
    raise error


def _checksums(directory: pathlib.Path) -> dict[str, int]:
  """CRC-32 of all files below a directory except the list, by relative path."""

  def fail(error: OSError) -> NoReturn:
    raise error

  paths = [
    pathlib.Path(folder, name)
    for folder, _, names in os.walk(directory, onerror=fail)
    for name in names
    if name != _LIST
  ]
  return {
    path.relative_to(directory).as_posix(): files.checksum_of(path)
    for path in sorted(paths)
  }


def _may_be_damage(error: Exception) -> bool:
  if not isinstance(error, (ValueError, KeyError, *_MISSING)):
    return False
  link: BaseException | None = error
  while link is not None:
    if _FROM_SYSTEM.search(str(link)) or isinstance(link, MemoryError):
      return False
    if isinstance(link, OSError) and not isinstance(link, _MISSING):
      return False
    link = link.__cause__ or link.__context__
  return True
