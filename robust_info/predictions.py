"""The predictions of a network on a split, and what follows from them alone.

Shapes: `N` examples, `G` groups of examples.
"""

import dataclasses
import math

import jax
import numpy as np

from robust_info import accumulator, information

_CALIBRATION_BINS = 15
_summarize = jax.jit(information.summarize)
_merge_groups = jax.jit(accumulator.merge_groups)


@dataclasses.dataclass(frozen=True)
class Predictions:
  """The predictions of a network on a split, clean or attacked; NumPy arrays.

  Attributes:
    parts: `InformationStats` with a leading axis [G], example i in group
      i mod G: what `jackknife` takes.
    correct: bool [N], whether the most probable class is the label.
    confidence: float [N], the probability of the most probable class.
  """

  parts: information.InformationStats
  correct: np.ndarray
  confidence: np.ndarray

  @property
  def stats(self) -> information.InformationStats:
    """The statistics of all examples."""
    return _merge_groups(self.parts)

  @property
  def summary(self) -> information.InformationSummary:
    """`information.summarize` of the statistics, compiled once."""
    return _summarize(self.stats)

  @property
  def calibration_error(self) -> float:
    """Expected calibration error, 15 equal-width bins of confidence.

    The mean over examples of |accuracy - confidence| of their bin (Guo et al.
    2017); in [0, 1]. NaN if any confidence is.
    """
    return float(_calibration_error(self._gaps().sum(axis=0)))

  @property
  def calibration_error_deleted(self) -> np.ndarray:
    """[G], the calibration error without each group of `parts`."""
    gaps = self._gaps()
    return _calibration_error(gaps.sum(axis=0, keepdims=True) - gaps)

  def _gaps(self) -> np.ndarray:
    """[G, bins, 2]: sums of correct - confidence, and counts."""
    num_groups = len(self.parts.confusion)
    gaps = np.full((num_groups, _CALIBRATION_BINS, 2), math.nan)
    if not np.isfinite(self.confidence).all():
      return gaps
    bins = np.minimum(
      (self.confidence * _CALIBRATION_BINS).astype(int), _CALIBRATION_BINS - 1
    )
    cells = np.arange(len(bins)) % num_groups * _CALIBRATION_BINS + bins
    values = self.correct - self.confidence.astype(np.float64)
    for index, weights in enumerate((values, np.ones(len(bins)))):
      gaps[..., index] = np.bincount(
        cells, weights, num_groups * _CALIBRATION_BINS
      ).reshape(num_groups, _CALIBRATION_BINS)
    return gaps


def _calibration_error(gaps: np.ndarray) -> np.ndarray:
  """[..., bins, 2] of sums and counts to [...]."""
  return np.abs(gaps[..., 0]).sum(axis=-1) / gaps[..., 1].sum(axis=-1)
