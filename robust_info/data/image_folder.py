"""Data of one's own in a folder of pictures, with a folder per class."""

import os
import pathlib
from collections.abc import Iterator

import numpy as np

from robust_info.data import parts, pictures

_EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp")
_SHOWN = 3


def read(
  path: pathlib.Path, *, show_progress: bool, image_size: int | None = None
) -> parts.Content:
  """The content of a folder.

  It holds `train/CLASS/*`, and `val/CLASS/*` or `test/CLASS/*` or both, or
  directly `CLASS/*`. The sorted names of all classes are the label names; a
  class may be absent from a part. All files of a class, at any depth and sorted
  by path, are pictures: `.png`, `.jpg`, `.jpeg` or `.webp`. Hidden names, which
  start with a dot, and other files outside the classes are ignored. See
  `pictures` for grey, colour and sizes.

  Args:
    path: the folder.
    show_progress: whether decoding reports to stderr.
    image_size: side of the pictures after resizing; None resizes nothing.

  Raises:
    ValueError: there are no pictures, or not in such folders; other files lie
      among them; or see `pictures.reader` and `parts.content`.
    OSError: a folder cannot be read.
  """
  if not path.is_dir():
    raise ValueError("expected a folder with a folder per class, got a file.")
  homes = _homes(path)
  names = sorted({name for home in homes.values() for name in _folders(home)})
  files, labels = {}, {}
  for role, home in homes.items():
    files[role], labels[role] = _files(home, names)
  _require_pictures(path, [f for found in files.values() for f in found])
  _require_examples(path, names, labels)
  reader = pictures.reader(
    (item for found in files.values() for item in _items(path, found)),
    title=f"decoding {path.name}",
    image_size=image_size,
    show_progress=show_progress,
  )

  def blocks(found: list[pathlib.Path]) -> parts.Blocks:
    return reader.blocks(lambda: _items(path, found))

  return parts.content(
    {role: (labels[role], blocks(files[role])) for role in files},
    reader.image_shape,
    label_names=names,
    remedy="make a folder test with a folder per class",
    finish=reader.finish,
  )


def _homes(path: pathlib.Path) -> dict[str, pathlib.Path]:
  """Role -> the folder with its classes."""
  there = _folders(path)
  by_role = [name for name in there if name in parts.SPLITS]
  if not by_role:
    _require_no_splits(path, there)
    return {"train": path}
  others = [name for name in there if name not in parts.SPLITS]
  if not {"train", "test"} & {*by_role} or others:
    raise ValueError(
      "expected either a folder per class or the folders train, val and test, "
      f"got {_some(there)}."
    )
  homes = {parts.SPLITS[name]: path / name for name in by_role}
  if len(homes) < len(by_role):
    raise ValueError(
      f"expected one folder of validation pictures, got {_some(by_role)}."
    )
  _require_none_outside(path)
  return homes


def _files(
  home: pathlib.Path, names: list[str]
) -> tuple[list[pathlib.Path], np.ndarray]:
  """Files and labels of one role, class by class."""
  _require_none_outside(home)
  files, labels = [], []
  for label, name in enumerate(names):
    if (home / name).is_dir():
      found = parts.files_below(home / name)
      files += found
      labels += [label] * len(found)
  if not files:
    raise ValueError(
      f"expected pictures in {home}, in a folder per class, got "
      "none; add some or remove it."
    )
  return files, np.array(labels, np.int32)


def _items(
  path: pathlib.Path, files: list[pathlib.Path]
) -> Iterator[pictures.Encoded]:
  return ((str(file.relative_to(path)), file) for file in files)


def _folders(path: pathlib.Path) -> list[str]:
  return sorted(
    name
    for name in os.listdir(path)
    if not name.startswith(".") and (path / name).is_dir()
  )


def _is_picture(path: pathlib.Path) -> bool:
  return path.suffix.lower() in _EXTENSIONS


def _require_pictures(path: pathlib.Path, files: list[pathlib.Path]) -> None:
  others = [str(f.relative_to(path)) for f in files if not _is_picture(f)]
  if others:
    raise ValueError(
      f"expected only {', '.join(_EXTENSIONS)} in the folders of classes, got "
      f"{_some(others)}; move or convert them."
    )


def _require_none_outside(home: pathlib.Path) -> None:
  """Requires every picture to lie in the folder of a class."""
  stray = sorted(
    file.name
    for file in home.iterdir()
    if _is_picture(file) and not file.name.startswith(".") and file.is_file()
  )
  if stray:
    raise ValueError(
      f"expected every picture in the folder of a class, got {_some(stray)} in "
      f"{home} itself; move them."
    )


def _require_no_splits(path: pathlib.Path, names: list[str]) -> None:
  """Refuses `Train` and `Test`, which would be two classes.

  Among many classes there may be a `train_station` and a `test_tube`.
  """
  alike = [name for name in names if parts.splits_meant(name)]
  roles = {role for name in alike for role in parts.splits_meant(name)}
  if "train" in roles and len(roles) > 1 and 2 * len(alike) >= len(names):
    raise ValueError(
      "expected the folders train, val and test, or a folder per class, got "
      f"{_some(alike)} in {path}; rename them to train, val and test."
    )


def _require_examples(
  path: pathlib.Path, names: list[str], labels: dict[str, np.ndarray]
) -> None:
  counts = sum(np.bincount(y, minlength=len(names)) for y in labels.values())
  empty = [name for name, count in zip(names, counts, strict=True) if not count]
  if empty:
    raise ValueError(
      f"expected pictures of every class in {path}, got none of "
      f"{_some(empty)}; add some or remove the folder."
    )


def _some(names: list[str]) -> str:
  more = len(names) - _SHOWN
  tail = f" and {more} more" if more > 0 else ""
  return ", ".join(map(repr, names[:_SHOWN])) + tail
