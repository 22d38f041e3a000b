"""Data of one's own in Parquet files, as Hugging Face stores images."""

import json
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from robust_info.data import parts, pictures, prepared, source

_IMAGES, _LABELS = ("image", "img"), "label"
_BATCH = 256
_SPLIT = re.compile(rf"({'|'.join(parts.SPLITS)})(?![A-Za-z])")


def read(
  path: pathlib.Path,
  *,
  show_progress: bool,
  image_size: int | None = None,
  label_column: str | None = None,
) -> parts.Content:
  """The content of a Parquet file, or of all such files below a folder.

  Columns: `image` or `img`, a struct with the encoded picture in `bytes`, and
  `label`, integers >= 0. Others are ignored. The name of a file starts with its
  split (`train-00000-of-00002.parquet`; `validation`, `valid`, `val`, `test`),
  or its folder has that name; files without a split are all training data,
  unless their names suggest another one (`mnist_test.parquet`).
  Label names come from the metadata of `datasets`, if the files have them. Rows
  keep their order, files are sorted by path. See `pictures` for grey, colour
  and sizes.

  Args:
    path: the file, or the folder.
    show_progress: whether decoding reports to stderr.
    image_size: side of the pictures after resizing; None resizes nothing.
    label_column: name of the column with the labels, where it is not `label`:
      `fine_label` of CIFAR-100.

  Raises:
    ValueError: no file, an unclear split, other columns, or bad labels; or see
      `pictures.reader` and `parts.content`.
    source.UnavailableError: pyarrow is missing.
    OSError: a folder cannot be read.
  """
  parquet = _import_parquet()
  labels_in = _LABELS if label_column is None else label_column
  by_role: dict[str, list[_File]] = {}
  for file in _files(path):
    role = _role(file, path)
    by_role.setdefault(role or "train", []).append(
      _File(parquet, file, path, labels_in)
    )
  if not by_role.keys() & {"train", "test"}:
    raise ValueError(
      "expected files whose names start with train or test, got only "
      f"{' and '.join(by_role)}."
    )
  every = [file for files in by_role.values() for file in files]
  names = {file.label_names for file in every}
  if len(names) > 1:
    raise ValueError(
      "expected files with the same label names, got different ones; give the "
      "folder of one data set."
    )
  (label_names,) = names
  labels = {
    role: np.concatenate([file.labels() for file in files])
    for role, files in by_role.items()
  }
  reader = pictures.reader(
    _items(every),
    title=f"decoding {path.name}",
    image_size=image_size,
    show_progress=show_progress,
  )

  def blocks(files: list[_File]) -> parts.Blocks:
    return reader.blocks(lambda: _items(files))

  return parts.content(
    {role: (labels[role], blocks(by_role[role])) for role in labels},
    reader.image_shape,
    label_names=label_names,
    remedy="add a file test.parquet",
    finish=reader.finish,
  )


class _File:
  """One Parquet file with checked columns."""

  def __init__(
    self,
    parquet: Any,
    path: pathlib.Path,
    home: pathlib.Path,
    label_column: str,
  ):
    self._parquet, self._path, self._labels = parquet, path, label_column
    self._name = path.name if path == home else str(path.relative_to(home))
    try:
      schema = parquet.read_schema(path)
    except Exception as error:  # Arrow and disks raise any type.
      raise self._unreadable(error) from error
    columns = {field.name: str(field.type) for field in schema}
    found = [name for name in _IMAGES if name in columns]
    if len(found) != 1 or "bytes: binary" not in columns[found[0]].replace(
      "large_", ""
    ):
      raise self._other_columns(columns)
    if not re.fullmatch(r"u?int\d+", columns.get(label_column, "")):
      raise self._other_columns(columns)
    self._image = found[0]
    self.label_names = _label_names(schema.metadata or {}, label_column)

  def labels(self) -> np.ndarray:
    """Labels [N], checked."""
    try:
      table = self._parquet.read_table(self._path, columns=[self._labels])
    except Exception as error:  # Arrow and disks raise any type.
      raise self._unreadable(error) from error
    column = table[self._labels]
    if column.null_count:
      raise ValueError(
        f"expected a label in every row of {self._name}, got none in "
        f"{column.null_count} of {len(column)} rows; leave them out."
      )
    labels = column.to_numpy()
    if not len(labels):
      raise ValueError(f"expected rows in {self._name}, got none; remove it.")
    name = f"the labels of {self._name}"
    return parts.labels_of(name, labels, len(labels), self._name)

  def items(self) -> Iterator[pictures.Encoded]:
    """The encoded pictures in order."""
    row = 0
    try:
      with self._parquet.ParquetFile(self._path) as file:
        for batch in file.iter_batches(
          _BATCH, columns=[f"{self._image}.bytes"]
        ):
          for encoded in batch.column(0).flatten()[0]:
            yield f"row {row} of {self._name}", encoded.as_py()
            row += 1
    except GeneratorExit:
      raise
    except Exception as error:  # Arrow and disks raise any type.
      raise self._unreadable(error) from error

  def _other_columns(self, columns: dict[str, str]) -> ValueError:
    found = ", ".join(f"{name} ({kind})" for name, kind in columns.items())
    return ValueError(
      "expected a column image or img, a struct with the encoded picture in "
      f"bytes, and a column {self._labels} of integers, got {found[:300]} in "
      f"{self._name}; rename or convert them, or name that of the labels: "
      "label_column=NAME."
    )

  def _unreadable(self, error: Exception) -> ValueError:
    return ValueError(
      f"{self._name} is no readable Parquet file "
      f"({prepared.one_line(error)}); write it again."
    )


def _import_parquet() -> Any:
  try:
    from pyarrow import parquet
  except ImportError as error:
    raise source.UnavailableError(
      "Reading Parquet files needs pyarrow, which does not import "
      f'({prepared.one_line(error)}): pip install "robust_info[parquet]".'
    ) from error
  return parquet


def _files(path: pathlib.Path) -> list[pathlib.Path]:
  if not path.is_dir():
    return [path]
  files = [
    file
    for file in parts.files_below(path)
    if file.suffix.lower() == ".parquet"
  ]
  if not files:
    raise ValueError("expected files *.parquet in the folder, got none.")
  split = [_role(file, path) for file in files]
  if None in split and any(split):
    alone = files[split.index(None)].relative_to(path)
    raise ValueError(
      "expected the names of all files, or of none, to start with their split, "
      f"got {alone} among others; rename or move it."
    )
  for file in files if None in split else []:
    place = file.relative_to(path)
    if parts.splits_meant(str(place)) - {"train"}:
      raise ValueError(
        "expected the name of a file, or of its folder, to start with its "
        f"split, train, validation or test, got {place}; rename it."
      )
  return files


def _role(file: pathlib.Path, home: pathlib.Path) -> str | None:
  if file == home:  # A single file holds everything, whatever its name.
    return None
  folders = file.relative_to(home).parts[:-1]
  for name in (file.name, *folders[-1:]):
    if match := _SPLIT.match(name):
      return parts.SPLITS[match[1]]
  return None


def _items(files: Sequence[_File]) -> Iterator[pictures.Encoded]:
  for file in files:
    yield from file.items()


def _label_names(
  metadata: dict[bytes, bytes], label_column: str
) -> tuple[str, ...] | None:
  """The class names that Hugging Face `datasets` stores with a table."""
  try:
    features = json.loads(metadata[b"huggingface"])["info"]["features"]
    names = features[label_column]["names"]
  except (KeyError, TypeError, ValueError):
    return None
  return tuple(map(str, names)) or None
