"""Data of one's own, by the kind of place in which they lie.

A kind has a file of its own with a function `read`, which returns the content
of a path. Everything else is the same for all kinds: the content is written
into the array cache once and memory-mapped afterwards, as TFDS data are.
"""

import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Mapping

import numpy as np

from robust_info import _validate
from robust_info.data import (
  array_cache,
  arrays,
  image_folder,
  parquet,
  parts,
  prepared,
  source,
)

_READERS = {
  "arrays": arrays.read,
  "image_folder": image_folder.read,
  "parquet": parquet.read,
}
KINDS = tuple(_READERS)
# Option -> the kinds of data that have it, and what to do with the others.
_OPTIONS = {
  "image_size": (("image_folder", "parquet"), "resize the arrays"),
  "label_column": (("parquet",), "leave it out"),
}


@dataclasses.dataclass(frozen=True)
class Place:
  """A place with data of one's own.

  Attributes:
    kind: one of `KINDS`.
    path: file or folder, which exists.
    options: the options that are set, by their names in `load`.
  """

  kind: str
  path: pathlib.Path
  options: Mapping[str, int | str]

  @property
  def form(self) -> str:
    """The options as text; empty if there are none."""
    return "".join(f"|{name}={v!r}" for name, v in self.options.items())

  def fingerprint(self) -> str:
    """A value that changes whenever a file is written, added or removed.

    Made of names, sizes, and both times of every file, and of the options.
    Costs one `stat` per file.
    """
    digest = hashlib.sha256(self.form.encode())
    try:
      is_folder = self.path.is_dir()
      files = parts.files_below(self.path) if is_folder else [self.path]
      for file in files:
        stat = file.stat()
        text = f"{file}|{stat.st_size}|{stat.st_mtime_ns}|{stat.st_ctime_ns}"
        digest.update(os.fsencode(f"{text}\n"))
    except (OSError, ValueError) as error:
      raise self._unusable(error) from error
    return digest.hexdigest()

  def write(
    self, writer: array_cache.ArrayWriter, *, show_progress: bool
  ) -> dict:
    """Writes `<role>-images` and `<role>-labels`, as `decoding.decode` does.

    Args:
      writer: writer of the arrays.
      show_progress: whether to report to stderr.

    Returns:
      version, image_shape, num_classes, label_names, sizes, and notes: lines
      for the user.

    Raises:
      source.UnavailableError: the data cannot be used; one line that names
        `path`.
    """
    try:
      found = _READERS[self.kind](
        self.path, show_progress=show_progress, **self.options
      )
      digest = parts.Digest()
      for role in parts.ROLES:
        if role in found.parts:
          _write_part(writer, role, found, digest)
      found.finish()
    except (ValueError, TypeError, OSError, MemoryError) as error:
      if isinstance(error, OSError) and not self._holds(error.filename):
        raise  # Of the cache.
      raise self._unusable(error) from error
    return {
      "version": parts.version_of(found, digest),
      "image_shape": found.image_shape,
      "num_classes": len(found.label_names),
      "label_names": list(found.label_names),
      "sizes": {role: len(p.labels) for role, p in found.parts.items()},
      "notes": list(found.notes),
    }

  def _holds(self, filename: str | bytes | None) -> bool:
    return filename is not None and pathlib.Path(
      os.fsdecode(filename)
    ).is_relative_to(self.path)

  def _unusable(self, error: BaseException) -> source.UnavailableError:
    return source.UnavailableError(
      f"Cannot use path={self.path}: {prepared.one_line(error)}"
    )


def place(
  kind: str,
  path: str | os.PathLike | None,
  *,
  image_size: int | None,
  label_column: str | None,
) -> Place:
  """Requires a place that exists, and options that data of this kind have.

  Raises:
    ValueError: there is no such file or folder, or an option has no effect.
    TypeError: an option has another type.
  """
  if path is None or not os.fspath(path):
    raise ValueError(
      f"Expected path of the file or folder with name={kind!r}, got "
      f"path={path!r}."
    )
  if "://" in os.fspath(path):
    raise ValueError(f"Expected path to be local, got path={path}.")
  found = pathlib.Path(path).expanduser()
  if not found.exists():
    raise ValueError(
      f"Expected path to exist, got path={found}; give the place of the data "
      "(evaluate.py: --data_path)."
    )
  options: dict[str, int | str] = {}
  if image_size is not None:
    _validate.positive_int("image_size", image_size)
    options["image_size"] = image_size
  if label_column is not None:
    if not isinstance(label_column, str):
      raise TypeError(
        f"Expected label_column to be a str, got {label_column!r}; give the "
        "name of a column."
      )
    options["label_column"] = label_column
  for name, value in options.items():
    kinds, remedy = _OPTIONS[name]
    if kind not in kinds:
      raise ValueError(
        f"Expected no {name} with name={kind!r}, got {name}={value!r}; "
        f"{remedy}."
      )
  return Place(kind, found, options)


def _write_part(
  writer: array_cache.ArrayWriter,
  role: str,
  found: parts.Content,
  digest: parts.Digest,
) -> None:
  part = found.parts[role]
  shape = (len(part.labels), *found.image_shape)
  writer.write(
    f"{role}-images", part.read(role, digest), shape=shape, dtype=np.uint8
  )
  writer.write(
    f"{role}-labels", [part.labels], shape=part.labels.shape, dtype=np.int32
  )
