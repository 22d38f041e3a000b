"""Training images that are read and decoded when a batch asks for them.

One pass over the records finds everything that is needed before the first step,
and the cache keeps it: the labels, the held-out rows, and the counts of each
level in each channel. Validation and test images are decoded into arrays as
usual.
"""

import pathlib
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from robust_info.data import array_cache, decoding, holdout, moments

_ROWS = 1024


class RecordImages:
  """Images [N, H, W, channels] of records, decoded at every access.

  Supports the operations of an array that batches need: `len`, `shape`, and
  rows by a slice or by an array of integers, which are fresh uint8 arrays.

  Attributes:
    shape: (N, H, W, channels).
    level_counts: int64 [channels, 256], counts over all the images.
  """

  dtype = np.dtype(np.uint8)
  ndim = 4

  def __init__(
    self,
    records: decoding.Records,
    rows: np.ndarray,
    level_counts: np.ndarray,
    *,
    mark: str,
  ):
    """Stores the arguments and reads no image yet.

    Args:
      records: records of the data set.
      rows: int64 [N], indices into its training records.
      level_counts: level counts of these rows.
      mark: identifier of the content of the data set.
    """
    self._records = records
    self._rows = rows
    self._mark = mark
    self.level_counts = level_counts
    self.shape = (len(rows), *records.image_shape)

  def __len__(self) -> int:
    return len(self._rows)

  def __getitem__(self, index: slice | np.ndarray) -> np.ndarray:
    rows = self._rows[index].tolist()
    return self._records.read("train", rows)[0]

  def __repr__(self) -> str:
    rows = zlib.crc32(np.ascontiguousarray(self._rows))
    return f"RecordImages({self._mark}, rows={rows}, shape={self.shape})"


def load(
  directory: pathlib.Path,
  entry: pathlib.Path,
  *,
  mark: str,
  validation_fraction: float,
  validation_seed: int,
  show_progress: bool,
) -> tuple[dict, dict[str, Any]]:
  """Info and splits of a data set whose training images stay encoded.

  Args:
    directory: directory of the prepared data set.
    entry: directory in the array cache, named after the content.
    mark: identifier of that content.
    validation_fraction: see `loading.load`.
    validation_seed: see `loading.load`.
    show_progress: whether decoding reports to stderr.

  Returns:
    The info of `decoding.decode`, and `<role>-images` and `<role>-labels` of
    all splits; `train-images`, if there is a training split, is a
    `RecordImages`.
  """

  def names(info: dict) -> list[str]:
    decoded = [f"{r}-{k}" for r in info["sizes"] for k in ("images", "labels")]
    return [name for name in decoded if name != "train-images"]

  info, arrays = array_cache.load_or_build(
    entry / "streamed",
    names,
    lambda writer: decoding.decode(
      directory, writer, show_progress=show_progress, encoded=("train",)
    ),
  )
  if "train" not in info["sizes"]:
    return info, arrays
  records = decoding.open_records(directory)
  labels = arrays["train-labels"]
  size = 0
  if "validation" not in info["sizes"]:
    size = holdout.holdout_size(len(labels), validation_fraction)

  def build(writer: array_cache.ArrayWriter) -> dict:
    kept, held_out = np.arange(len(labels)), np.arange(0)
    if size:
      kept, held_out = holdout.stratified(labels, size, seed=validation_seed)
      images = _blocks(records, held_out)
      shape = (size, *records.image_shape)
      writer.write("validation-images", images, shape=shape, dtype=np.uint8)
      held = labels[held_out]
      writer.write("validation-labels", [held], shape=(size,), dtype=np.int32)
    counts = sum(map(moments.level_counts, _blocks(records, kept)))
    for name, array in (("rows", kept), ("levels", counts)):
      writer.write(f"train-{name}", [array], shape=array.shape, dtype=np.int64)
    return {}

  wanted = ["train-rows", "train-levels"]
  if size:
    wanted += ["validation-images", "validation-labels"]
  _, parts = array_cache.load_or_build(
    entry / "streamed" / f"holdout-{size}-{validation_seed}",
    lambda _: wanted,
    build,
  )
  rows = parts.pop("train-rows")
  images = RecordImages(records, rows, parts.pop("train-levels"), mark=mark)
  train = {"train-images": images, "train-labels": labels[rows]}
  return info, arrays | parts | train


def _blocks(
  records: decoding.Records, rows: np.ndarray
) -> Iterator[np.ndarray]:
  """Decoded images of some training records, in blocks."""
  for start in range(0, len(rows), _ROWS):
    yield records.read("train", rows[start : start + _ROWS].tolist())[0]
