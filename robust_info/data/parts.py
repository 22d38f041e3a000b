"""The parts of a data set of one's own, and the rules that all kinds share.

A kind of data reads its place into a `Content`: labels at once, images in
blocks on request. The functions here check the labels, hold out a test part
where there is none, and compute the version, a digest of the content.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from robust_info.data import holdout

ROLES = ("train", "validation", "test")
# Name of a split in a folder or a file -> role.
SPLITS = {
  "train": "train",
  "val": "validation",
  "valid": "validation",
  "validation": "validation",
  "test": "test",
}
# Words of names that mean a split, but are not spelt as one of `SPLITS`.
_WORDS = {
  **SPLITS,
  "training": "train",
  "eval": "validation",
  "testing": "test",
}
_WORD = re.compile(rf"(?<![a-z])({'|'.join(_WORDS)})(?![a-z])")
# A fifth is the usual share; the seed is fixed, so that the test part is one.
_TEST_FRACTION, _TEST_SEED = 0.2, 0
_VERSION_LENGTH = 16


class Digest:
  """The version of a data set: a digest of its images, labels and names.

  It depends on the content alone: neither on the place of the files, nor on
  their times, nor on the machine.
  """

  def __init__(self):
    self._digest = hashlib.sha256()

  def add(self, content: Any) -> None:
    """Adds bytes, or an array in C order, with its length.

    The length keeps different sequences of contents apart.
    """
    view = memoryview(content).cast("B")
    self._digest.update(len(view).to_bytes(8, "little"))
    self._digest.update(view)

  def version(self) -> str:
    """Sixteen hexadecimal digits."""
    return self._digest.hexdigest()[:_VERSION_LENGTH]


# Ascending rows of a part and a digest -> blocks of its images, uint8 [n, H, W,
# channels], in this order; each stored image is added to the digest.
Blocks = Callable[[np.ndarray, Digest], Iterator[np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Part:
  """Examples of one role.

  Attributes:
    labels: int32 [N].
    blocks: function that reads images.
    rows: int64 [N], ascending rows of `blocks`, one per label.
  """

  labels: np.ndarray
  blocks: Blocks
  rows: np.ndarray

  def read(self, role: str, digest: Digest) -> Iterator[np.ndarray]:
    """Adds role and labels to the digest, and returns the blocks of images."""
    digest.add(role.encode())
    digest.add(self.labels.astype("<i4"))
    return self.blocks(self.rows, digest)

  def take(self, rows: np.ndarray) -> "Part":
    """The part with some of its rows, ascending."""
    return dataclasses.replace(
      self, labels=self.labels[rows], rows=self.rows[rows]
    )


@dataclasses.dataclass(frozen=True)
class Content:
  """A data set of one's own whose labels are checked.

  Attributes:
    parts: mapping from a role to its part; `test` at least.
    image_shape: (H, W, channels).
    label_names: names of the C classes.
    notes: lines about decisions that a user has to know.
    finish: function to call after all parts are read; raises ValueError if
      some of the images could not be read.
  """

  parts: Mapping[str, Part]
  image_shape: tuple[int, int, int]
  label_names: tuple[str, ...]
  notes: tuple[str, ...]
  finish: Callable[[], None]


def content(
  given: Mapping[str, tuple[np.ndarray, Blocks]],
  image_shape: tuple[int, int, int],
  *,
  label_names: Sequence[str] | None,
  remedy: str,
  notes: Sequence[str] = (),
  finish: Callable[[], None] = lambda: None,
) -> Content:
  """Checks the classes and completes the roles.

  The test part is the given one, which may be alone; without it the validation
  part, as for TFDS data; without both a fifth of the training part, `round(N /
  5)` examples, stratified by class with seed 0, whatever `validation_seed` is.

  Args:
    given: mapping from a role to integer labels [N] (see `labels_of`) and the
      function that reads its images; `train` or `test` at least.
    image_shape: (H, W, channels).
    label_names: names of the classes; None if they are the numbers 0 .. C-1.
    remedy: hint for data without enough examples to hold some out.
    notes: see `Content`.
    finish: see `Content`.

  Raises:
    ValueError: there is only one class, a class is numbered and has no
      example, a label has no name, or no test part can be held out.
  """
  names = _names_of_classes([y for y, _ in given.values()], label_names)
  parts = {
    role: Part(labels.astype(np.int32), blocks, np.arange(len(labels)))
    for role, (labels, blocks) in given.items()
  }
  notes = list(notes)
  if "test" not in parts and "validation" in parts:
    parts["test"] = parts.pop("validation")
    notes.append("no test part: the validation part is tested on")
  if "train" not in parts:
    # A run needs both parts; a report needs neither.
    parts.pop("validation", None)
    notes.append("no training part: the data serve evaluation only")
  if "test" not in parts:
    train = parts["train"]
    kept, held_out = _test_rows(train.labels, remedy)
    parts |= {"train": train.take(kept), "test": train.take(held_out)}
    notes.append(
      f"no test part: {len(held_out)} of {len(train.labels)} examples are held "
      "out for it, a fifth, stratified by class, the same in every run"
    )
  return Content(parts, image_shape, names, tuple(notes), finish)


def array_of(name: str, value: Any) -> np.ndarray:
  """The array of a value, whose entries all count.

  Raises:
    ValueError: a masked array with entries left out.
  """
  if np.ma.is_masked(value):
    raise ValueError(
      f"Expected {name} without masked entries, got "
      f"{np.ma.count_masked(value)}; leave out these examples, or fill them."
    )
  return np.asarray(value)


def labels_of(
  name: str, value: Any, num_images: int, images: str
) -> np.ndarray:
  """Requires labels: integers [N] >= 0, one per image.

  Args:
    name: name of the labels in errors.
    value: array of the labels.
    num_images: number of images, N.
    images: name of the images in errors.

  Returns:
    Integers [N] of the dtype of `value`.

  Raises:
    TypeError: they are not integers.
    ValueError: another shape or length, a negative or a masked label.
  """
  labels = array_of(name, value)
  if labels.dtype.kind not in "iu":
    fix = (
      f"{name}.argmax(axis=1)" if labels.ndim == 2 else f"{name}.astype(int)"
    )
    raise TypeError(
      f"Expected {name} of integer labels, got dtype={labels.dtype}; use "
      f"numpy.unique({name}, return_inverse=True)[1] for names, {fix} for "
      "numbers."
    )
  if labels.ndim != 1:
    fix = f"{name}[:, 0]" if labels.shape[1:] == (1,) else "argmax(axis=1)"
    raise ValueError(
      f"Expected {name} of shape [N], one label per image, got shape "
      f"{labels.shape}; use {fix}."
    )
  if len(labels) != num_images:
    raise ValueError(
      f"Expected one label in {name} per image in {images}, got {len(labels)} "
      f"labels and {num_images} images."
    )
  if labels.min() < 0:
    row = int(np.argmax(labels < 0))
    raise ValueError(
      f"Expected {name} >= 0, got {name}[{row}]={int(labels[row])} "
      f"({int((labels < 0).sum())} of {len(labels)} are negative); number the "
      "classes from 0, and leave out examples without a label."
    )
  return labels


def version_of(found: Content, digest: Digest) -> str:
  """The version, after all parts were read in the order of `ROLES`."""
  names = found.label_names
  text = "\n".join(names)
  # ("a\nb", "c") are other names than ("a", "b\nc").
  if text.count("\n") >= max(len(names), 1):
    text = json.dumps(names)
  digest.add(text.encode())
  return digest.version()


def splits_meant(name: str) -> set[str]:
  """Roles of the splits whose names are words of a name, in any case.

  `Test`, `testing` and `mnist_test.parquet` mean the test; `contest` does not.
  """
  return {_WORDS[word] for word in _WORD.findall(name.lower())}


def files_below(directory: pathlib.Path) -> list[pathlib.Path]:
  """Files at any depth, sorted by name folder by folder.

  Names that start with a dot (`.DS_Store`) are hidden and left out. Links are
  followed.

  Raises:
    ValueError: a link leads back to a folder that it is in.
    OSError: a folder cannot be read.
  """
  found = []
  for name in sorted(os.listdir(directory)):
    if name.startswith("."):
      continue
    path = directory / name
    if not path.is_dir():
      found.append(path)
      continue
    if path.is_symlink() and directory.resolve().is_relative_to(path.resolve()):
      raise ValueError(
        f"Expected no link to a folder that it is in, got {path}; remove it."
      )
    found += files_below(path)
  return found


def _names_of_classes(
  labels: Sequence[np.ndarray], given: Sequence[str] | None
) -> tuple[str, ...]:
  present = np.unique(
    np.concatenate([np.unique(y).astype("u8") for y in labels])
  )
  highest = int(present[-1])
  if given is not None:
    names = tuple(given)
    if not all(isinstance(name, str) for name in names):
      raise ValueError(f"Expected label_names to be texts, got {names[:3]!r}.")
    if foreign := [name for name in names if not _is_unicode(name)]:
      raise ValueError(
        f"Expected names of classes in UTF-8, got {foreign[0]!r}; rename it."
      )
    if len(set(names)) < len(names):
      twice = next(name for name in names if names.count(name) > 1)
      raise ValueError(f"Expected different label_names, got {twice!r} twice.")
    if highest >= len(names):
      raise ValueError(
        f"Expected label_names with a name per class, got {len(names)} names "
        f"and the label {highest}; labels start at 0."
      )
  elif len(present) <= highest:
    absent = int(np.flatnonzero(present != np.arange(len(present)))[0])
    raise ValueError(
      f"Expected labels 0 to C - 1, got {len(present)} different ones up to "
      f"{highest}, and no example of {absent}; number them from 0 "
      "(numpy.unique(y, return_inverse=True)[1]), or give label_names."
    )
  else:
    names = tuple(map(str, range(highest + 1)))
  if len(names) < 2 or len(present) < 2:
    raise ValueError(
      "Expected examples of at least two classes, got only class "
      f"{names[highest]!r}."
    )
  return names


def _is_unicode(name: str) -> bool:
  """False for a name of a folder whose bytes are no UTF-8."""
  return not any("\ud800" <= letter <= "\udfff" for letter in name)


def _test_rows(
  labels: np.ndarray, remedy: str
) -> tuple[np.ndarray, np.ndarray]:
  size = round(_TEST_FRACTION * len(labels))
  try:
    if not size:
      raise ValueError(f"a fifth of {len(labels)} examples is none.")
    return holdout.stratified(labels, size, seed=_TEST_SEED)
  except ValueError as error:
    reason = str(error).rpartition(": ")[2].rstrip(".")
    raise ValueError(
      "Expected a test part, or enough examples to hold one out, but "
      f"{reason}; {remedy}."
    ) from error
