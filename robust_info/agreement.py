"""What the processes of one run must have in common, in a few words each.

Processes with other settings would train another network each, or wait for one
another in different programs; see `processes.require_same`.
"""

import functools
import hashlib
import importlib.metadata
import pathlib
import platform
import zlib
from typing import Any

import jax
import numpy as np

from robust_info import config as config_lib
from robust_info import data

# Enough images to tell data sets apart, without reading one as a whole.
_NUM_IMAGES = 256
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")


def of_training(
  config: config_lib.Config, split: data.Split, *, init_from: str | None
) -> dict[str, Any]:
  """Name -> value of all that decides the steps of a training.

  Args:
    config: resolved. Where the data lies does not count.
    split: the training split: its shape, its labels and some of its images.
    init_from: where the weights come from, None if they are drawn.
  """
  settings = {
    f"config.{name}": value
    for name, value in config_lib.flatten(config).items()
    if name not in config_lib.LOCATION_FIELDS
  }
  # The first process alone reads the weights.
  return {
    **settings,
    "init_from": init_from is not None,
    "training data": data_digest(split),
    **versions(),
  }


def versions() -> dict[str, str]:
  """The versions of the code and of the libraries that numbers depend on."""
  found = {name: importlib.metadata.version(name) for name in _PACKAGES}
  return {
    **found,
    "python": platform.python_version(),
    "robust_info code": code_digest()[:12],
    "backend": jax.default_backend(),
  }


def data_digest(split: data.Split) -> str:
  """Number of examples, checksum of all labels and of evenly spaced images."""
  rows = np.unique(np.linspace(0, len(split) - 1, _NUM_IMAGES, dtype=np.int64))
  images = np.ascontiguousarray(split.images[rows])
  labels = np.ascontiguousarray(split.labels)
  return (
    f"{split.images.shape}-{zlib.crc32(labels):08x}-{zlib.crc32(images):08x}"
  )


@functools.cache
def code_digest() -> str:
  """A hash of the source of this package."""
  digest = hashlib.sha256()
  package = pathlib.Path(__file__).parent
  for path in sorted(package.rglob("*.py")):
    digest.update(path.relative_to(package).as_posix().encode() + b"\0")
    digest.update(path.read_bytes() + b"\0")
  return digest.hexdigest()
