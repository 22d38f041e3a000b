"""Finds prepared TFDS data on disk, or has TFDS prepare it.

The search does not import tensorflow_datasets: a prepared data set is a
directory `<data_dir>/<name>[/<config>]/<version>` with `dataset_info.json` and
`features.json`. The highest version wins unless one is requested.
"""

import contextlib
import dataclasses
import difflib
import importlib.util
import json
import logging
import os
import pathlib
import re
import sys

import numpy as np

from robust_info.data import source

# Version of the builder in data.digits, repeated here to avoid importing TFDS.
DIGITS_VERSION = "1.0.0"

_NAME = re.compile(
  r"(?P<name>[a-z]\w*)(/(?P<config>[\w.\-]+))?(:(?P<version>\d+\.\d+\.\d+))?",
  re.ASCII,
)
_VERSION = re.compile(r"\d+\.\d+\.\d+", re.ASCII)
_CHANNELS = (1, 3, 4)
_CATALOG = "https://www.tensorflow.org/datasets/catalog"


@dataclasses.dataclass(frozen=True)
class Request:
  """A data set in the notation of users: `name[/config][:version]`."""

  name: str
  config: str | None
  version: str | None

  @property
  def path(self) -> str:
    """`name[/config]`."""
    return f"{self.name}/{self.config}" if self.config else self.name

  def __str__(self) -> str:
    return f"{self.path}:{self.version}" if self.version else self.path


def parse(name: str) -> Request:
  """Parses `name[/config][:version]`; ValueError on anything else."""
  match = _NAME.fullmatch(name) if isinstance(name, str) else None
  if match is None:
    raise ValueError(
      "Expected name to be a TFDS name such as 'mnist', "
      f"'mnist_corrupted/spatter' or 'mnist:3.0.1', got name={name!r}."
    )
  return Request(**match.groupdict())


def default_data_dir() -> pathlib.Path:
  """The default of TFDS: TFDS_DATA_DIR, else ~/tensorflow_datasets."""
  home = "~/tensorflow_datasets"
  return pathlib.Path(os.environ.get("TFDS_DATA_DIR") or home).expanduser()


def find(request: Request, data_dir: pathlib.Path) -> pathlib.Path | None:
  """The prepared directory of a data set, or None."""
  root = data_dir / request.path
  if request.version and _has_metadata(root / request.version):
    return root / request.version
  versions = [
    path
    for path in _subdirectories(root)
    if _VERSION.fullmatch(path.name) and _has_metadata(path)
  ]
  if versions and not request.version:
    return max(versions, key=lambda path: [*map(int, path.name.split("."))])
  config = None if request.config else _default_config(root)
  return config and find(dataclasses.replace(request, config=config), data_dir)


def prepare(request: Request, data_dir: pathlib.Path) -> pathlib.Path:
  """Downloads and prepares a data set with TFDS, as array_record.

  Args:
    request: data set that TFDS has a builder for.
    data_dir: directory to prepare it in.

  Returns:
    The prepared directory.

  Raises:
    source.UnavailableError: the name, configuration or version is unknown, the
      data are not images with labels, TensorFlow is needed and missing, or the
      preparation failed.
  """
  tfds = import_tfds()
  builder = _builder(tfds, request, data_dir)
  directory = pathlib.Path(os.fspath(builder.data_path))
  if _has_metadata(directory):  # Only TFDS knew the default configuration.
    return directory
  check_features(tfds, str(request), builder.info.features)
  if not _tensorflow_is_installed():
    raise source.UnavailableError(
      f"Data set {request} is not prepared in data_dir={data_dir}, and "
      'preparing it needs TensorFlow: pip install "robust_info[prepare]", or '
      "give the data_dir of array_record data that is prepared."
    )
  try:
    # Standard output is reserved for reports.
    with contextlib.redirect_stdout(sys.stderr):
      builder.download_and_prepare(file_format="array_record")
  except Exception as error:  # TFDS, TensorFlow, network and disk: any type.
    raise source.UnavailableError(
      f"Preparing data set {request} in data_dir={data_dir} failed: "
      f"{one_line(error)}"
    ) from error
  return directory


def import_tfds():
  """Imports tensorflow_datasets; called only if there are data to read."""
  try:
    import tensorflow_datasets as tfds
  except ImportError as error:
    raise source.UnavailableError(
      "Reading TFDS data needs tensorflow_datasets, which does not import "
      f'({one_line(error)}): pip install "robust_info[train]".'
    ) from error
  return tfds


def check_features(tfds, name: str, features) -> None:
  """Requires a uint8 `image` and a class `label`."""
  is_dict = isinstance(features, tfds.features.FeaturesDict)
  known = dict(features.items()) if is_dict else {}
  image, label = known.get("image"), known.get("label")
  if not (
    isinstance(image, tfds.features.Image)
    and isinstance(label, tfds.features.ClassLabel)
    and label.num_classes
  ):
    raise source.UnavailableError(
      f"Data set {name} is not image classification: expected an Image "
      f"'image' and a ClassLabel 'label' among its features, got "
      f"{', '.join(sorted(known)) or type(features).__name__}."
    )
  dtype = np.dtype(image.np_dtype)
  if dtype != np.uint8 or image.shape[-1] not in _CHANNELS:
    raise source.UnavailableError(
      f"Data set {name} has images of dtype {dtype} and shape "
      f"{image.shape}; only uint8 images of 1, 3 or 4 channels are supported."
    )


def one_line(error: BaseException) -> str:
  """The first line of an error, or its type if it has no message."""
  lines = str(error).strip().splitlines()
  return lines[0].strip() if lines else type(error).__name__


def _subdirectories(root: pathlib.Path) -> list[pathlib.Path]:
  try:
    return sorted(path for path in root.iterdir() if path.is_dir())
  except OSError:
    return []


def _has_metadata(directory: pathlib.Path) -> bool:
  return all(
    (directory / name).is_file()
    for name in ("dataset_info.json", "features.json")
  )


def _default_config(root: pathlib.Path) -> str | None:
  """The default configuration that TFDS stored when it prepared a data set."""
  try:
    metadata = json.loads((root / ".config" / "metadata.json").read_bytes())
    return metadata["default_config_name"]
  except (OSError, ValueError, KeyError):
    return None


def _builder(tfds, request: Request, data_dir: pathlib.Path):
  with _absl_silenced("Variant folder"):  # TFDS reports that it is missing.
    try:
      return tfds.builder(str(request), data_dir=data_dir)
    except tfds.core.DatasetNotFoundError as error:
      raise source.UnavailableError(
        _unknown(tfds, request, data_dir)
      ) from error
    except Exception as error:  # AssertionError, ValueError, ImportError, ...
      raise source.UnavailableError(
        f"Cannot load data set {request}: {one_line(error)}"
      ) from error


def _unknown(tfds, request: Request, data_dir: pathlib.Path) -> str:
  there = [path.name for path in _subdirectories(data_dir / request.path)]
  known = {"digits", *tfds.list_builders(with_community_datasets=False)}
  known |= {path.name for path in _subdirectories(data_dir)}
  close = difflib.get_close_matches(request.name, sorted(known))
  if there:
    hint = f"found there: {', '.join(there)}."
  elif close:
    hint = f"did you mean {' or '.join(close)}?"
  else:
    hint = f"see {_CATALOG}, or use the embedded 'digits'."
  return (
    f"Unknown data set {request}: TFDS has no such builder, and data_dir="
    f"{data_dir} no such prepared data; {hint}"
  )


def _tensorflow_is_installed() -> bool:
  return importlib.util.find_spec("tensorflow") is not None


@contextlib.contextmanager
def _absl_silenced(prefix: str):
  def keep(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(prefix)

  logger = logging.getLogger("absl")
  logger.addFilter(keep)
  try:
    yield
  finally:
    logger.removeFilter(keep)
