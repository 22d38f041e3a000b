"""Loads a data set by name as a `DataSource`."""

import dataclasses
import hashlib
import os
import pathlib
import shutil
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from robust_info import _validate
from robust_info.data import (
  array_cache,
  decoding,
  holdout,
  own,
  prepared,
  source,
)
from robust_info.data import streaming as stream
from robust_info.runtime import environment, files, streams

_EMBEDDED = "digits"
_KINDS = ("images", "labels")
_ROWS = 4096


def load(
  name: str,
  *,
  data_dir: str | os.PathLike | None = None,
  path: str | os.PathLike | None = None,
  image_size: int | None = None,
  label_column: str | None = None,
  validation_fraction: float = 0.1,
  validation_seed: int = 0,
  cache_dir: str | os.PathLike | None = None,
  streaming: bool = False,
  progress: bool = True,
) -> source.DataSource:
  """Loads an image classification data set as memory-mapped arrays.

  `digits` is built in: the UCI handwritten digits that scikit-learn ships, 8 x
  8, 1,297 training and 500 test images, prepared on first use without
  TensorFlow and without a download. Any other name is a TFDS data set with
  features `image` (uint8, all of one shape) and `label`, read from array_record
  data in `data_dir`, whether TFDS has a builder of that name or not. Data that
  are not prepared are downloaded and prepared if TensorFlow is installed.
  `arrays`, `image_folder` and `parquet` are data of one's own in `path`: an
  .npz file, a folder of pictures with a folder per class, and Parquet files;
  `arrays.read`, `image_folder.read` and `parquet.read` state their layout.

  Images are decoded once, into the cache (about 12,000 MNIST images a second),
  and memory-mapped afterwards: a second start only computes checksums, and does
  not import tensorflow_datasets. The cache detects changed sources and damaged
  files of its own, and processes may share it.

  Splits: `test` is the data set's own (its `validation` split if it has no
  `test`; a fifth of data of one's own with neither, see `parts.content`).
  `validation` is the data set's own if it has one as well as a test split;
  otherwise it is held out from `train`: exactly `round(validation_fraction *
  N)` examples, stratified by class (each class within one of its proportional
  share), a pure function of the labels, the fraction and `validation_seed`.
  Examples keep their file order.

  Args:
    name: `digits`, `arrays`, `image_folder`, `parquet`, or
      `name[/config][:version]` in TFDS; by default the highest version found.
    data_dir: directory of prepared TFDS data, may be read-only, must exist; by
      default TFDS_DATA_DIR, else ~/tensorflow_datasets. `digits` is prepared
      here if this is given and can be written, in the cache otherwise.
    path: file or folder with data of one's own, may be read-only.
    image_size: side of the pictures of one's own after resizing and cropping,
      see `pictures`; by default all must have one size.
    label_column: column of Parquet files with the labels; by default `label`.
    validation_fraction: share of `train` that is held out, in (0, 1).
    validation_seed: seed of the choice of held-out examples, in [0, 2^64).
    cache_dir: directory of decoded arrays; by default ROBUST_INFO_CACHE, else
      ~/.cache/robust_info. Takes up to twice the size of the raw images.
    streaming: whether training images stay encoded in their records, and are
      decoded when a batch asks for them. Nothing else differs: rows, labels,
      moments and so batches are the same. The cache then holds validation and
      test images only; the first start still reads all records once.
    progress: whether decoding reports to stderr, and decisions about data of
      one's own, one line each.

  Returns:
    The data set. The version of data of one's own is a digest of the content.

  Raises:
    ValueError: an argument is out of range; the message has its name.
    source.UnavailableError: the data are unavailable; the message is one line
      with the reason and a remedy.
  """
  holdout.check_fraction(validation_fraction)
  _validate.nonnegative_int("validation_seed", validation_seed)
  cache = environment.cache_root(cache_dir) / "arrays"
  if name in own.KINDS:
    _require_unset(name, data_dir=data_dir, streaming=streaming)
    place = own.place(
      name, path, image_size=image_size, label_column=label_column
    )
    decoded = _own_data(place, cache / name, progress)
  else:
    request = prepared.parse(name)
    _require_unset(
      name, path=path, image_size=image_size, label_column=label_column
    )
    directory = _source_directory(request, data_dir, cache.parent)
    name = request.path
    decoded = _tfds_data(directory, cache / name, progress)
  if streaming:
    info, arrays = stream.load(
      directory,
      decoded.entry,
      mark=decoded.mark,
      validation_fraction=validation_fraction,
      validation_seed=validation_seed,
      show_progress=progress,
    )
  else:
    info, arrays = decoded.read()
  for note in info.get("notes", ()):
    if progress:
      streams.note(f"{name}: {note}")
  if _holds_out(info) and "validation-labels" not in arrays:
    size = holdout.holdout_size(info["sizes"]["train"], validation_fraction)
    arrays |= _held_out(decoded, size, validation_seed)
  return _source(name, info, arrays)


def _source(
  name: str, info: dict, arrays: dict[str, np.ndarray]
) -> source.DataSource:
  splits = {
    role: source.Split(arrays[f"{role}-images"], arrays[f"{role}-labels"])
    if f"{role}-labels" in arrays
    else None
    for role in ("train", "validation", "test")
  }
  return source.DataSource(
    name=name,
    version=info["version"],
    num_classes=info["num_classes"],
    image_shape=tuple(info["image_shape"]),
    label_names=tuple(info["label_names"]),
    **splits,
  )


class _Decoded:
  """The decoded arrays of a data set."""

  def __init__(
    self,
    where: pathlib.Path,
    home: pathlib.Path,
    fingerprint: Callable[[], str],
    decode: Callable[[array_cache.ArrayWriter], dict],
    form: str = "",
  ):
    self._path, self._home = where, home
    self._fingerprint, self._decode = fingerprint, decode
    self.mark = fingerprint()
    # One source decoded in several forms has an entry for each of them:
    # processes that read different forms would remove each other's otherwise.
    path = os.fsencode(f"{where.resolve()}{form}")
    self._where = hashlib.sha256(path).hexdigest()[:12]
    self.entry = self._home / f"{self._where}-{self.mark[:16]}"

  def read(self) -> tuple[dict, dict[str, np.ndarray]]:
    """The info and the arrays of the splits that need no hold-out."""

    def names(info: dict) -> list[str]:
      held_out = _holds_out(info)
      return _array_names(["test"] if held_out else info["sizes"])

    return array_cache.load_or_build(self.entry, names, self._build)

  def read_train(self) -> dict[str, np.ndarray]:
    """The training split before a hold-out is taken."""
    names = _array_names(["train"])
    return array_cache.load_or_build(
      self.entry, lambda info: names, self._build
    )[1]

  def _build(self, writer: array_cache.ArrayWriter) -> dict:
    for superseded in self._home.glob(f"{self._where}-*"):
      if superseded != self.entry:
        shutil.rmtree(superseded, ignore_errors=True)
    info = self._decode(writer)
    if self._fingerprint() != self.mark:
      raise source.UnavailableError(
        f"Data set {self._path} changed while it was read; start again."
      )
    return info


def _own_data(
  place: own.Place, home: pathlib.Path, show_progress: bool
) -> _Decoded:
  return _Decoded(
    place.path,
    home,
    place.fingerprint,
    lambda writer: place.write(writer, show_progress=show_progress),
    form=place.form,
  )


def _tfds_data(
  directory: pathlib.Path, home: pathlib.Path, show_progress: bool
) -> _Decoded:
  return _Decoded(
    directory,
    home / directory.name,
    lambda: decoding.fingerprint(directory),
    lambda writer: decoding.decode(
      directory, writer, show_progress=show_progress
    ),
  )


def _holds_out(info: dict) -> bool:
  """Whether validation examples are taken from the training split."""
  return "train" in info["sizes"] and "validation" not in info["sizes"]


def _held_out(decoded: _Decoded, size: int, seed: int) -> dict[str, np.ndarray]:
  """The arrays of `train` and `validation`, parts of the training split."""

  def build(writer: array_cache.ArrayWriter) -> dict:
    whole = decoded.read_train()
    labels = whole["train-labels"]
    kept, held_out = holdout.stratified(labels, size, seed=seed)
    for role, rows in (("train", kept), ("validation", held_out)):
      for kind in _KINDS:
        array = whole[f"train-{kind}"]
        writer.write(
          f"{role}-{kind}",
          _take(array, rows),
          shape=(len(rows), *array.shape[1:]),
          dtype=array.dtype,
        )
    return {}

  names = _array_names(["train", "validation"])
  directory = decoded.entry / f"holdout-{size}-{seed}"
  return array_cache.load_or_build(directory, lambda info: names, build)[1]


def _array_names(roles: Iterable[str]) -> list[str]:
  return [f"{role}-{kind}" for role in roles for kind in _KINDS]


def _take(array: np.ndarray, rows: np.ndarray) -> Iterator[np.ndarray]:
  for start in range(0, len(rows), _ROWS):
    yield array[rows[start : start + _ROWS]]


def _require_unset(name: str, **arguments: object) -> None:
  for argument, value in arguments.items():
    if value not in (None, False):
      raise ValueError(
        f"Expected no {argument} with name={name!r}, which does not read it, "
        f"got {argument}={value}."
      )


def _source_directory(
  request: prepared.Request,
  data_dir: str | os.PathLike | None,
  cache: pathlib.Path,
) -> pathlib.Path:
  """Directory of the prepared data; prepares them if necessary and possible."""
  if data_dir is not None and "://" in os.fspath(data_dir):
    raise ValueError(f"Expected data_dir to be local, got data_dir={data_dir}.")
  given = None if data_dir is None else pathlib.Path(data_dir).expanduser()
  if given is not None and not given.is_dir():
    raise ValueError(
      f"Expected data_dir to be a directory that exists, got data_dir={given}; "
      "make it first if data are to be prepared there."
    )
  if request.name == _EMBEDDED and request.config is None:
    return _digits_directory(request, given, cache / "tfds")
  data_dir = given or prepared.default_data_dir()
  return prepared.find(request, data_dir) or prepared.prepare(request, data_dir)


def _digits_directory(
  request: prepared.Request, given: pathlib.Path | None, fallback: pathlib.Path
) -> pathlib.Path:
  current = prepared.DIGITS_VERSION
  if request.version not in (None, current):
    raise source.UnavailableError(
      f"Data set digits has no version {request.version}, only {current}."
    )
  request = dataclasses.replace(request, version=current)
  candidates = [path for path in (given, fallback) if path is not None]
  for candidate in candidates:
    if found := prepared.find(request, candidate):
      return found
  prepared.import_tfds()  # If it is missing, the error names the package.
  try:
    from robust_info.data import digits
  except ImportError as error:
    raise source.UnavailableError(
      f"Data set digits comes with scikit-learn, which does not import "
      f'({prepared.one_line(error)}): pip install "robust_info[train]".'
    ) from error
  for candidate in candidates:
    try:
      return digits.prepare(candidate)
    except OSError as error:
      failure = error
  elsewhere = "pass cache_dir= or set ROBUST_INFO_CACHE to a writable directory"
  raise source.UnavailableError(
    f"Cannot prepare data set digits in {fallback}: "
    f"{failure.strerror or failure}; {files.remedy(failure.errno, elsewhere)}."
  )
