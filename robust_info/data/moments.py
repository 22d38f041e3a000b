"""Mean and standard deviation of images per channel."""

import math
from typing import Any

import numpy as np

_ROWS = 4096


def level_counts(images: Any) -> np.ndarray:
  """Counts of each level in each channel: int64 [channels, 256].

  Args:
    images: uint8 [N, H, W, channels]; read once, a few thousand at a time.
      Images with an attribute `level_counts` are not read.
  """
  if hasattr(images, "level_counts"):
    return images.level_counts
  counts = np.zeros((images.shape[-1], 256), np.int64)
  for start in range(0, len(images), _ROWS):
    block = images[start : start + _ROWS]
    for channel, row in enumerate(counts):
      row += np.bincount(block[..., channel].reshape(-1), minlength=256)
  return counts


def channel_moments(
  images: Any,
) -> tuple[tuple[float, ...], tuple[float, ...]]:
  """Mean and standard deviation per channel, in [0, 1].

  Args:
    images: images of a split.

  Returns:
    Both with one entry per channel, rounded to six digits; the standard
    deviation of a channel without variation is 1.
  """
  levels = np.arange(256) / 255.0
  counts = level_counts(images)
  means, stds = [], []
  for weights in counts / counts.sum(axis=1, keepdims=True):
    mean = weights @ levels
    std = math.sqrt(weights @ (levels - mean) ** 2)
    means.append(round(float(mean), 6))
    stds.append(round(std, 6) or 1.0)
  return tuple(means), tuple(stds)
