"""Settings and data that the processes of one run must have in common.

Processes with different settings would train different networks, or wait for
each other in different programs; see `processes.require_same`.
"""

import zlib
from typing import Any

import numpy as np

from robust_info import config as config_lib
from robust_info import data
from robust_info.runtime import environment

# Enough images to distinguish data sets without reading all images.
_NUM_IMAGES = 256


def of_training(
  config: config_lib.Config, split: data.Split, *, init_from: str | None
) -> dict[str, Any]:
  """Name -> value of everything that determines the steps of a training.

  Args:
    config: resolved configuration. The location of the data is ignored.
    split: the training split; its shape, its labels and some of its images
      count.
    init_from: workdir of the initial weights; None if they are drawn at random.
  """
  settings = {
    f"config.{name}": value
    for name, value in config_lib.flatten(config).items()
    if name not in config_lib.LOCATION_FIELDS
  }
  # Only the first process reads the weights.
  return {
    **settings,
    "init_from": init_from is not None,
    "registered parts": [
      (part.kind, part.name, part.origin and part.origin.digest)
      for part in config_lib.parts(config)
    ],
    "training data": data_digest(split),
    **environment.agreed_versions(),
  }


def data_digest(split: data.Split) -> str:
  """Number of examples; checksum of all labels and evenly spaced images."""
  rows = np.unique(np.linspace(0, len(split) - 1, _NUM_IMAGES, dtype=np.int64))
  images = np.ascontiguousarray(split.images[rows])
  labels = np.ascontiguousarray(split.labels)
  return (
    f"{split.images.shape}-{zlib.crc32(labels):08x}-{zlib.crc32(images):08x}"
  )
