"""Decodes prepared TFDS data into arrays."""

import dataclasses
import hashlib
import io
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import PIL.Image

from robust_info.data import array_cache, prepared, source
from robust_info.runtime import progress

_CHUNK = 1024
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def fingerprint(directory: pathlib.Path) -> str:
  """A value that changes whenever a file is written, added or removed.

  Made of the names, sizes, and both times of every file of the directory: the
  change time cannot be set back by hand. Costs one `stat` per file.
  """
  lines = []
  try:
    for entry in os.scandir(directory):
      stat = entry.stat()
      times = f"{stat.st_mtime_ns}|{stat.st_ctime_ns}"
      lines.append(f"{entry.name}|{stat.st_size}|{times}")
  except OSError as error:
    raise _unreadable(directory, error) from error
  return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


@dataclasses.dataclass(frozen=True)
class Records:
  """A prepared data set whose images are still encoded.

  Attributes:
    info: the dataset info of TFDS.
    splits: mapping from a role to a split of the source.
    by_role: mapping from a role to its records, with `__getitems__`.
    image_shape: (height, width, channels) of the first training image.
  """

  info: Any
  splits: dict[str, str]
  by_role: dict[str, Any]
  image_shape: tuple[int, int, int]

  def read(self, role: str, rows: Any) -> tuple[np.ndarray, list[int]]:
    """Decoded images [n, *image_shape] and labels of some rows of a role.

    Raises:
      source.UnavailableError: a record cannot be read, or has another shape.
    """
    title = f"{self.info.name} {self.splits[role]}"
    return _read_rows(self.by_role[role], rows, title, self.image_shape)

  def labels(self, role: str) -> list[int]:
    """Labels of a role, without decoding its images."""
    records = self.by_role[role]
    try:
      return [
        int(example["label"])
        for start in range(0, len(records), _CHUNK)
        for example in records.__getitems__(
          range(start, min(start + _CHUNK, len(records)))
        )
      ]
    except Exception as error:  # Record reader or parser: any type.
      raise _unreadable(self.info.name, error) from error


def decode(
  directory: pathlib.Path,
  writer: array_cache.ArrayWriter,
  *,
  show_progress: bool,
  encoded: tuple[str, ...] = (),
) -> dict:
  """Decodes a prepared data set into `<role>-images` and `<role>-labels`.

  Roles: `test`, and `train` and `validation` if the data have such splits. If
  there is no `test` split, `validation` becomes the test split, as is usual for
  ImageNet, and there is no validation role. Other splits are ignored. Images
  are decoded with Pillow, in one thread: two threads gained nothing on 28 x 28
  PNG and 32 x 32 JPEG images.

  Args:
    directory: `<name>/<version>` as TFDS prepared it, in array_record format.
    writer: writer of the arrays.
    show_progress: whether to report to stderr.
    encoded: roles whose images stay encoded; only their labels are written.

  Returns:
    name, version, image_shape, num_classes, label_names, and sizes: the number
    of examples of every role.

  Raises:
    source.UnavailableError: the data are not image classification with uint8
      images of one shape and known labels, have no test split, are in another
      file format, or cannot be read.
  """
  records = open_records(directory)
  info, label = records.info, records.info.features["label"]
  for role in records.by_role:
    _write_split(
      records,
      writer,
      role=role,
      num_classes=label.num_classes,
      with_images=role not in encoded,
      show_progress=show_progress,
    )
  return {
    "name": info.name,
    "version": str(info.version),
    "image_shape": records.image_shape,
    "num_classes": label.num_classes,
    "label_names": [label.int2str(i) for i in range(label.num_classes)],
    "sizes": {role: len(found) for role, found in records.by_role.items()},
  }


def open_records(directory: pathlib.Path) -> Records:
  """Opens a prepared data set; see `decode` for its requirements."""
  tfds = prepared.import_tfds()
  try:
    builder = tfds.builder_from_directory(directory)
  except Exception as error:  # Broken metadata make TFDS raise any type.
    raise _unreadable(directory, error) from error
  info = builder.info
  prepared.check_features(tfds, info.name, info.features)
  if info.file_format is None or info.file_format.value != "array_record":
    raise source.UnavailableError(
      f"Data set {directory} is not in array_record format, which is what "
      "can be read without TensorFlow; prepare it with file_format="
      '"array_record" in another data_dir.'
    )
  skip = {
    name: tfds.decode.SkipDecoding()
    for name, feature in info.features.items()
    if isinstance(feature, tfds.features.Image)
  }
  roles = _roles(info.name, info.splits)
  try:
    records = {
      role: builder.as_data_source(split, decoders=skip)
      for role, split in roles.items()
    }
    channels = info.features["image"].shape[-1]
    first = next(iter(records.values()))[0]
    image_shape = _decode(first["image"], channels).shape
  except Exception as error:  # Record reader, parser or Pillow: any type.
    raise _unreadable(directory, error) from error
  return Records(info, roles, records, image_shape)


def _roles(name: str, splits) -> dict[str, str]:
  """Mapping from each role to a split of the source."""
  roles = {
    role: role
    for role in ("train", "validation", "test")
    if role in splits and splits[role].num_examples
  }
  if "test" not in roles and "validation" in roles:
    roles["test"] = roles.pop("validation")
  if "test" not in roles:
    raise source.UnavailableError(
      f"Data set {name} has no test split, only {', '.join(splits)}."
    )
  return roles


def _write_split(
  records: Records,
  writer: array_cache.ArrayWriter,
  *,
  role: str,
  num_classes: int,
  with_images: bool,
  show_progress: bool,
) -> None:
  labels: list[int] = []
  size = len(records.by_role[role])
  title = f"{records.info.name} {records.splits[role]}"
  meter = progress.CountProgress(f"decoding {title}", size, unit="images")

  def chunks() -> Iterator[np.ndarray]:
    for start in range(0, size, _CHUNK):
      rows = range(start, min(start + _CHUNK, size))
      images, chunk_labels = records.read(role, rows)
      labels.extend(chunk_labels)
      yield images
      if show_progress:
        meter.advance(len(rows))

  if with_images:
    shape = (size, *records.image_shape)
    writer.write(f"{role}-images", chunks(), shape=shape, dtype=np.uint8)
    if show_progress:
      meter.close()
  else:
    labels = records.labels(role)
  classes = np.array(labels, np.int32)
  if classes.min() < 0 or classes.max() >= num_classes:
    raise source.UnavailableError(
      f"Data set {title} has labels outside [0, {num_classes}); its labels "
      "are probably withheld."
    )
  writer.write(f"{role}-labels", [classes], shape=classes.shape, dtype=np.int32)


def _read_rows(
  records, rows: range, title: str, image_shape: tuple[int, int, int]
) -> tuple[np.ndarray, list[int]]:
  """Images [n, *image_shape] and labels of some rows."""
  try:
    examples = records.__getitems__(rows)
    images = [_decode(e["image"], image_shape[-1]) for e in examples]
    labels = [int(e["label"]) for e in examples]
  except Exception as error:  # Record reader, parser or Pillow: any type.
    raise _unreadable(title, error) from error
  for image in images:
    if image.shape != image_shape:
      raise source.UnavailableError(
        f"Data set {title} has images of varying shapes, {image_shape} and "
        f"{image.shape}; only data whose images share one shape are supported."
      )
  return np.stack(images), labels


def _decode(encoded: bytes, channels: int) -> np.ndarray:
  """Decodes one image to uint8 [H, W, channels]."""
  with PIL.Image.open(io.BytesIO(encoded)) as image:
    pixels = np.asarray(image.convert(_MODES[channels]))
  return pixels.reshape(*pixels.shape[:2], channels)


def _unreadable(
  what: pathlib.Path | str, error: Exception
) -> source.UnavailableError:
  return source.UnavailableError(
    f"Cannot read data set {what}: {prepared.one_line(error)}; prepare it "
    "again."
  )
