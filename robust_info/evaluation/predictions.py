"""The predictions of a network on a split, and the metrics they determine.

Shapes: `N` examples, `C` classes, `G` groups of examples.
"""

import dataclasses
import functools
import math
import operator
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np

from robust_info import information
from robust_info.attacks import results
from robust_info.information import _jackknife, divergences, groups

# Groups of the jackknife: more groups give more reliable standard errors, fewer
# groups need less memory, O(G C^2).
_MAX_GROUPS = 50
_MIN_GROUPS = 20
_MANY_CLASSES = 100
_CALIBRATION_BINS = 15
_add_parts = jax.jit(jax.vmap(operator.add))


@dataclasses.dataclass(frozen=True)
class Predictions:
  """The predictions of a network on a split, clean or attacked; NumPy arrays.

  Attributes:
    parts: `InformationStats` with a leading axis [G], example i in group i mod
      G; the input of `jackknife`.
    correct: bool [N], whether the most probable class is the label; False where
      logits are not finite.
    confidence: float [N], the probability of the most probable class.
  """

  parts: information.InformationStats
  correct: np.ndarray
  confidence: np.ndarray

  @property
  def stats(self) -> information.InformationStats:
    """The statistics of all examples."""
    return functools.reduce(operator.add, groups.split_groups(self.parts))

  @property
  def summary(self) -> information.InformationSummary:
    """`information.summarize` of the statistics."""
    return information.summarize(self.stats)

  @functools.cached_property
  def jackknife(self) -> _jackknife.Jackknife:
    """`jackknife` of the summary."""
    return _jackknife.jackknife(self.parts, information.summarize)

  @property
  def calibration_error(self) -> float:
    """Expected calibration error, 15 equal-width bins of confidence.

    The mean over examples of |accuracy - confidence| of their bin (Guo et al.
    2017); in [0, 1]. NaN if any confidence is NaN.
    """
    return float(_calibration_error(self._gaps().sum(axis=0)))

  @property
  def calibration_error_deleted(self) -> np.ndarray:
    """The calibration error without each group of `parts`, [G]."""
    gaps = self._gaps()
    return _calibration_error(gaps.sum(axis=0, keepdims=True) - gaps)

  def _gaps(self) -> np.ndarray:
    """Sums of correct - confidence, and counts: [G, bins, 2]."""
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
  """The calibration error [...] from sums and counts [..., bins, 2]."""
  return np.abs(gaps[..., 0]).sum(axis=-1) / gaps[..., 1].sum(axis=-1)


class Tally:
  """Collects the predictions of a split from its logits, batch by batch."""

  def __init__(self, labels: np.ndarray, num_classes: int, *, batch_size: int):
    """Stores the arguments; compiles nothing yet.

    Args:
      labels: labels of the split, [N].
      num_classes: number C of classes; the jackknife has 50 groups, but 20 for
        more than 100 classes.
      batch_size: number B of rows of a batch.
    """
    most = _MAX_GROUPS if num_classes <= _MANY_CLASSES else _MIN_GROUPS
    self._num_groups = min(most, len(labels))
    self._labels = labels
    self._batch_size = batch_size

  def __call__(self, batches: Iterable[np.ndarray]) -> Predictions:
    """The predictions of all examples.

    Args:
      batches: logits [B, C] of the examples in order; the last batch may be
        shorter, or padded with any values.
    """
    total, rows = None, []
    num_examples, size = len(self._labels), self._batch_size
    for number, logits in enumerate(batches):
      ids = number * size + np.arange(size)
      mask = ids < num_examples
      logits = np.pad(logits, ((0, size - len(logits)), (0, 0)))
      part, correct, confidence = _tally(
        logits,
        self._labels[np.minimum(ids, num_examples - 1)],
        ids,
        mask,
        num_groups=self._num_groups,
      )
      total = part if total is None else _add_parts(total, part)
      rows.append((np.asarray(correct)[mask], np.asarray(confidence)[mask]))
    correct, confidence = (np.concatenate(c) for c in zip(*rows, strict=True))
    return Predictions(jax.device_get(total), correct, confidence)


@functools.partial(jax.jit, static_argnames="num_groups")
def _tally(logits, labels, ids, mask, *, num_groups):
  """The statistics of one batch."""
  parts = groups.grouped_information_stats(
    logits, labels, ids % num_groups, num_groups=num_groups, where=mask
  )
  correct = results.correct(logits, labels)
  confidence = jnp.max(jnp.exp(divergences.log_softmax(logits)), axis=-1)
  return parts, correct, confidence
