"""Loaded data sets and their splits."""

import dataclasses
import math
from typing import Any

import numpy as np


class UnavailableError(Exception):
  """Data are unavailable; the message is one line for users."""


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
  """Images and labels of one split, in file order.

  Attributes:
    images: uint8 [N, H, W, channels]; from `load` a read-only memory map, or
      `streaming.RecordImages`.
    labels: int32 [N].

  Raises:
    TypeError: a dtype differs.
    ValueError: a rank differs, there are no examples, or the lengths differ.
  """

  images: Any
  labels: np.ndarray

  def __post_init__(self):
    if self.images.dtype != np.uint8 or self.labels.dtype != np.int32:
      raise TypeError(
        "Expected uint8 images and int32 labels, got "
        f"{self.images.dtype} and {self.labels.dtype}."
      )
    if self.images.ndim != 4 or self.labels.shape != self.images.shape[:1]:
      raise ValueError(
        "Expected images of shape [N, H, W, channels] and labels of shape [N], "
        f"got {self.images.shape} and {self.labels.shape}."
      )
    if not self.labels.size:
      raise ValueError("Expected at least one example, got an empty split.")

  def __len__(self) -> int:
    return len(self.labels)


def check_labels(labels: np.ndarray, num_classes: int, *, split: str) -> None:
  """Requires every label to lie in the range of the classes.

  Args:
    labels: int32 [N].
    num_classes: number of classes, C.
    split: name of the split in errors.

  Raises:
    ValueError: a label lies outside [0, C); the message has its row and a
      likely reason.
  """
  wrong = (labels < 0) | (labels >= num_classes)
  if not wrong.any():
    return
  row = int(np.argmax(wrong))
  lowest, highest = int(labels.min()), int(labels.max())
  if (lowest, highest) == (1, num_classes):
    reason = "labels start at 1: subtract 1"
  elif (lowest, highest) == (-1, num_classes - 2):
    reason = "labels start at -1: add 1"
  elif lowest == -1:
    reason = "-1 stands for rows without a label: leave them out"
  else:
    reason = "correct the labels or the number of classes"
  raise ValueError(
    f"Expected labels of the {split} split in [0, {num_classes}), got "
    f"{int(labels[row])} in row {row} ({int(wrong.sum())} of {len(labels)} "
    f"rows are out of range); {reason}."
  )


def check_two_classes(labels: np.ndarray, *, split: str) -> None:
  """Requires examples of two classes, which information and pairs compare.

  Args:
    labels: int32 [N].
    split: name of the split in errors.

  Raises:
    ValueError: all examples are of one class, or there is none.
  """
  if len(labels) and (labels != labels[0]).any():
    return
  got = f"{len(labels)} of class {labels[0]} alone" if len(labels) else "none"
  raise ValueError(
    f"Expected {split} examples of at least two classes, got {got}; take more "
    "of them, or other data."
  )


def classes_at_first(labels: np.ndarray, number: int) -> tuple[int, int] | None:
  """Whether the first examples have too few classes, as sorted data have.

  Args:
    labels: integers [N], of all examples.
    number: number of first examples, in [1, N].

  Returns:
    None, unless random choices have as few classes with a probability below
    1e-4, by the bound of Chernoff and Hoeffding. Then the number of classes of
    the first examples, and its mean over random choices.
  """
  _, counts = np.unique(labels, return_counts=True)
  found, of = len(np.unique(labels[:number])), len(counts)
  absent = 1 - found / of
  usual = ((1 - counts / len(labels)) ** number).mean()
  if absent <= usual:
    return None
  exponent = absent * math.log(absent / max(usual, 1e-300))
  exponent += found / of * math.log((found / of) / (1 - usual))
  if exponent * of < math.log(1e4):
    return None
  return found, round(of * (1 - usual))


@dataclasses.dataclass(frozen=True, eq=False)
class DataSource:
  """A data set with three disjoint splits, or with a test split only.

  Attributes:
    name: the requested name, without a version ("mnist",
      "mnist_corrupted/spatter").
    version: version of the prepared data, for example "3.0.1".
    train: split for training; None if the data serve evaluation only.
    validation: split for the choice of checkpoints; never used in training;
      None as well then.
    test: split for reported results.
    num_classes: number of classes, C; labels lie in [0, C).
    image_shape: (H, W, channels).
    label_names: names of the C classes.

  Raises:
    ValueError: a label is outside [0, C); the message has its row.
  """

  name: str
  version: str
  train: Split | None
  validation: Split | None
  test: Split
  num_classes: int
  image_shape: tuple[int, int, int]
  label_names: tuple[str, ...]

  def __post_init__(self):
    for name in ("train", "validation", "test"):
      if split := getattr(self, name):
        check_labels(split.labels, self.num_classes, split=name)
