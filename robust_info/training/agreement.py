"""What the processes of one run must have in common, in a few words each.

Processes with other settings would train another network each, or wait for one
another in different programs; see `processes.require_same`.
"""

import zlib
from typing import Any

import numpy as np

from robust_info import config as config_lib
from robust_info import data
from robust_info.runtime import environment

# Enough images to tell data sets apart, without reading one as a whole.
_NUM_IMAGES = 256


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
    **environment.agreed_versions(),
  }


def data_digest(split: data.Split) -> str:
  """Number of examples, checksum of all labels and of evenly spaced images."""
  rows = np.unique(np.linspace(0, len(split) - 1, _NUM_IMAGES, dtype=np.int64))
  images = np.ascontiguousarray(split.images[rows])
  labels = np.ascontiguousarray(split.labels)
  return (
    f"{split.images.shape}-{zlib.crc32(labels):08x}-{zlib.crc32(images):08x}"
  )
