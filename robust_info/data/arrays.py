"""Data of one's own in NumPy arrays, in memory or in an .npz file.

Images are stored as uint8, as in every data set here: 8 bits per channel. Float
images in [0, 1] become `round(255 * x)`, halves to even. Images that were bytes
before come back exactly; any others move by at most 1/510, far less than the
radius of an attack, and one line states the largest change. A refusal would
only make the user round by hand, with the same result.
"""

import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from robust_info import _validate
from robust_info.data import holdout, parts, prepared, source
from robust_info.runtime import streams

_ROWS = 4096
_CHANNELS = (1, 3, 4)
_KEYS = {
  "train": ("x", "y"),
  "validation": ("x_validation", "y_validation"),
  "test": ("x_test", "y_test"),
}
_NAMES = "label_names"
_REMEDY = "give x_test and y_test"
# Half a level of 8 bits.
_OVERSHOOT = 0.5 / 255


def from_arrays(
  x: Any = None,
  y: Any = None,
  *,
  x_validation: Any = None,
  y_validation: Any = None,
  x_test: Any = None,
  y_test: Any = None,
  name: str = "arrays",
  label_names: Sequence[str] | None = None,
  validation_fraction: float = 0.1,
  validation_seed: int = 0,
  progress: bool = True,
) -> source.DataSource:
  """A data set from arrays in memory.

  Splits: without a training part, there is a test split only. Without a test
  part, the validation part is tested on; without both, a fifth of the examples
  (`round(N / 5)`, stratified by class with seed 0) is held out for the test.
  Without a validation part, `round(validation_fraction * N)` of the remaining
  training examples are held out, as in `load`. A class may have no example in a
  part. Examples keep their order.

  Args:
    x: training images [N, H, W] or [N, H, W, channels] with 1, 3 or 4 channels:
      uint8, or floats in [0, 1], which are stored as `round(255 * x)`.
    y: their labels [N], integers of any width in [0, C).
    x_validation: validation images.
    y_validation: their labels.
    x_test: test images.
    y_test: their labels.
    name: name of the data set in reports.
    label_names: names of the C classes; by default the numbers 0 .. C-1, each
      of which must then have an example.
    validation_fraction: share of the training part to hold out, in (0, 1).
    validation_seed: seed of the choice of these examples, in [0, 2^64).
    progress: whether lines about rounding and a held-out test part go to
      stderr.

  Returns:
    The data set. Its version is a digest of the stored images, the labels and
    the names. Cost: one or two copies of the images as uint8.

  Raises:
    TypeError: images are neither uint8 nor floats, or labels no integers.
    ValueError: a wrong shape, NaN or a value outside [0, 1], mismatched
      lengths, a bad label, a single class, or too few examples to hold out
      some; one line that names the argument.
  """
  holdout.check_fraction(validation_fraction)
  _validate.nonnegative_int("validation_seed", validation_seed)
  given = {
    "x": x,
    "y": y,
    "x_validation": x_validation,
    "y_validation": y_validation,
    "x_test": x_test,
    "y_test": y_test,
    _NAMES: label_names,
  }
  found = _content({k: v for k, v in given.items() if v is not None})
  if progress:
    for note in found.notes:
      streams.note(f"{name}: {note}")
  digest = parts.Digest()
  splits = {}
  for role in parts.ROLES:
    if role in found.parts:
      images = np.concatenate([*found.parts[role].read(role, digest)])
      splits[role] = source.Split(images, found.parts[role].labels)
  if "train" in splits and "validation" not in splits:
    images, labels = splits["train"].images, splits["train"].labels
    size = holdout.holdout_size(len(labels), validation_fraction)
    chosen = holdout.stratified(labels, size, seed=validation_seed)
    for role, rows in zip(("train", "validation"), chosen, strict=True):
      splits[role] = source.Split(images[rows], labels[rows])
  return source.DataSource(
    name=name,
    version=parts.version_of(found, digest),
    num_classes=len(found.label_names),
    image_shape=found.image_shape,
    label_names=found.label_names,
    **{role: splits.get(role) for role in parts.ROLES},
  )


def read(path: pathlib.Path, *, show_progress: bool) -> parts.Content:
  """The content of an .npz file.

  Its arrays have the names of the arguments of `from_arrays`: `x`, `y`, and
  optionally `x_validation`, `y_validation`, `x_test`, `y_test` and
  `label_names` (texts); or `x_test` and `y_test` without `x` and `y`. Python
  objects are never loaded. The file is read into memory.

  Args:
    path: the file.
    show_progress: unused, because reading takes seconds.

  Raises:
    ValueError, TypeError: as `from_arrays`; or the file is damaged, or has
      other arrays.
    OSError: the file cannot be read.
  """
  del show_progress
  if not path.is_file():
    raise ValueError("expected an .npz file, got a folder.")
  known = [*(key for pair in _KEYS.values() for key in pair), _NAMES]
  given = {}
  try:
    with open(path, "rb") as stream:
      file = np.load(stream, allow_pickle=False)
      names = getattr(file, "files", ["one array without a name"])
      unknown = [name for name in names if name not in known]
      if not unknown:
        given = {name: file[name] for name in names}
  except Exception as error:  # Zip, zlib, header or disk: any type.
    # To save it again helps only if its content is wrong.
    if isinstance(error, OSError) and error.filename is not None:
      raise
    raise ValueError(_unreadable(error)) from error
  if unknown:
    raise ValueError(
      "expected the arrays x and y, and optionally "
      f"{', '.join(known[2:])}, got {', '.join(map(repr, names[:8]))}; save it "
      "with numpy.savez(path, x=x, y=y)."
    )
  return _content(given)


def to_images(name: str, value: Any) -> tuple[np.ndarray, float]:
  """Images as uint8, by the rule of the module.

  Args:
    name: name of the images in errors.
    value: uint8 or floats in [0, 1], [N, H, W] or [N, H, W, channels].

  Returns:
    uint8 [N, H, W, channels], and the largest change by rounding, 0 if none
    exceeds the precision of the dtype.

  Raises:
    TypeError: another dtype.
    ValueError: another shape, NaN, a masked value, or one outside [0, 1].
  """
  x = parts.array_of(name, value)
  if x.dtype != np.uint8 and x.dtype.kind != "f":
    fix = f"use {name}.astype(numpy.float32)"
    if x.dtype.kind in "iu":
      fix = f"for integers in [0, 255] use {name}.astype(numpy.uint8)"
    raise TypeError(
      f"Expected {name} as uint8, or as floats in [0, 1], got dtype={x.dtype}; "
      f"{fix}."
    )
  _check_shape(name, x.shape)
  if x.dtype == np.uint8:
    if x.max() <= 1:
      raise ValueError(
        f"Expected {name} as uint8 in [0, 255], got no value above 1, which is "
        f"black; use {name}.astype(float) for images in [0, 1]."
      )
    images, change = x, 0.0
  else:
    images, change = _rounded(name, x)
  return images.reshape(*x.shape[:3], -1), change


def _content(given: Mapping[str, Any]) -> parts.Content:
  """Checks arrays by their names in an .npz file."""
  found, notes, shapes = {}, [], {}
  for role, (x_name, y_name) in _KEYS.items():
    here = [name for name in (x_name, y_name) if name in given]
    if not here and (role != "train" or {*_KEYS["test"]} <= given.keys()):
      continue
    if len(here) < 2:
      (absent, *_) = {x_name, y_name} - set(here)
      there = ", ".join(given) or "nothing"
      raise ValueError(
        f"Expected {x_name} and {y_name}, got no {absent}, only {there}."
      )
    images, change = to_images(x_name, given[x_name])
    shapes[x_name] = images.shape[1:]
    if change:
      notes.append(
        f"{x_name} holds other floats than multiples of 1/255; they are "
        f"rounded to them, by at most {change:.2g}"
      )
    labels = parts.labels_of(y_name, given[y_name], len(images), x_name)
    found[role] = (labels, _blocks(images))
  if len(set(shapes.values())) > 1:
    texts = ", ".join(f"{shape} in {name}" for name, shape in shapes.items())
    raise ValueError(f"Expected images of one shape in all parts, got {texts}.")
  return parts.content(
    found,
    tuple(map(int, next(iter(shapes.values())))),
    label_names=_texts(given.get(_NAMES)),
    remedy=_REMEDY,
    notes=notes,
  )


def _blocks(images: np.ndarray) -> parts.Blocks:
  def read(rows: np.ndarray, digest: parts.Digest) -> Iterator[np.ndarray]:
    for start in range(0, len(rows), _ROWS):
      block = np.ascontiguousarray(images[rows[start : start + _ROWS]])
      digest.add(block)
      yield block

  return read


def _check_shape(name: str, shape: tuple[int, ...]) -> None:
  expected = f"Expected {name} of shape [N, H, W] or [N, H, W, channels]"
  if len(shape) not in (3, 4):
    raise ValueError(
      f"{expected}, got shape {shape}; use {name}.reshape(-1, H, W, channels)."
    )
  if 0 in shape:
    raise ValueError(f"{expected} with at least one image, got shape {shape}.")
  if len(shape) == 4 and shape[3] not in _CHANNELS:
    first = shape[1] in _CHANNELS
    hint = f"; use numpy.moveaxis({name}, 1, -1)" if first else ""
    raise ValueError(
      f"{expected} with 1, 3 or 4 channels, got shape {shape}{hint}."
    )


def _rounded(name: str, x: np.ndarray) -> tuple[np.ndarray, float]:
  """Floats in [0, 1] as uint8, and the largest change, as `to_images`."""
  images, change = np.empty(x.shape, np.uint8), 0.0
  for start in range(0, len(x), _ROWS):
    block = x[start : start + _ROWS]
    wrong = ~((block >= 0) & (block <= 1))  # True for NaN as well.
    if wrong.any():
      place = tuple(map(int, np.argwhere(wrong)[0]))
      number = float(block[place])
      place = (start + place[0], *place[1:])
      raise ValueError(
        f"Expected {name} in [0, 1], got {number!r} in "
        f"{name}[{', '.join(map(str, place))}]; {_remedy(name, number)}."
      )
    levels = block.astype(np.promote_types(x.dtype, np.float32)) * 255
    nearest = np.rint(levels)
    images[start : start + _ROWS] = nearest
    change = max(change, float(np.abs(levels - nearest).max()))
  # Multiples of 1/255 differ from integers by the precision of their dtype.
  is_rounding = change > 255 * float(np.finfo(x.dtype).eps)
  return images, change / 255 if is_rounding else 0.0


def _remedy(name: str, number: float) -> str:
  """The fix for images with a value outside [0, 1]."""
  if not np.isfinite(number):
    return "correct or leave out such images"
  if -_OVERSHOOT < number < 1 + _OVERSHOOT:
    return f"use numpy.clip({name}, 0, 1) if it overshoots by rounding"
  if number < 0:
    return f"use ({name} + 1) / 2 if {name} lies in [-1, 1]"
  return f"divide by 255 if {name} lies in [0, 255]"


def _texts(names: Any) -> list[Any] | None:
  return None if names is None else np.asarray(names).reshape(-1).tolist()


def _unreadable(error: Exception) -> str:
  if "pickle" in str(error):
    return (
      "expected arrays of numbers, got Python objects (a pickle), which are "
      "never loaded; save uint8 images and integer labels with numpy.savez."
    )
  return (
    f"it is no readable .npz file ({prepared.one_line(error)}); save it again "
    "with numpy.savez."
  )
