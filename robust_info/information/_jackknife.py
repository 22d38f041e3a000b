"""Uncertainty over examples: the delete-a-group jackknife (Kott 2001).

Shapes: `C` classes, `G` groups of examples.
"""

import dataclasses
import itertools
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from robust_info._xla import explicit_meshes
from robust_info.information import _stacking, groups
from robust_info.information import stats as stats_lib


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Jackknife:
  """A statistic of a data set and its uncertainty over examples.

  Every field is a pytree with the structure of the statistic.

  Attributes:
    estimate: the statistic of all examples.
    standard_error: standard error of the estimate.
    bias: jackknife estimate of the bias; `estimate - bias` is corrected to
      first order in 1/N.
    low: `estimate - z standard_error`.
    high: `estimate + z standard_error`, where z is the normal quantile of the
      level.
    deleted: [G, ...], the statistic of all groups but one.
  """

  estimate: Any
  standard_error: Any
  bias: Any
  low: Any
  high: Any
  deleted: Any


@explicit_meshes.accepted(rows=False)
def jackknife(
  parts: stats_lib.InformationStats | Sequence[stats_lib.InformationStats],
  statistic: Callable[[stats_lib.InformationStats], Any],
  *,
  level: float = 0.95,
) -> Jackknife:
  """Uncertainty over examples of any statistic of a data set.

  Args:
    parts: statistics of G disjoint groups of examples, of similar size and
      distribution (for example, example i in group i mod G, not sorted by
      class); 20 or more for a usable error. A sequence, or stacked along a
      leading axis [G, ...] as by `grouped_information_stats`.
    statistic: function from `InformationStats` to a pytree of numbers and
      arrays, for example `summarize` or `lambda s: summarize(s).cckl`.
    level: confidence level of the interval, in (0, 1).

  Returns:
    `Jackknife` of NumPy arrays. Integer leaves of the statistic become
    floats. Cost: 3 G merges and G + 1 calls of the statistic; runs on the
    host, outside `jax.jit`.

  Raises:
    TypeError: a part is no `InformationStats`.
    ValueError: fewer than two groups, statistics that are not stacked, or a
      level outside (0, 1).
  """
  if isinstance(parts, stats_lib.InformationStats):
    parts = groups.split_groups(parts)
  for part in parts:
    _stacking.require_one_set("parts", part)
  num_groups = len(parts)
  if num_groups < 2:
    raise ValueError(
      f"Expected parts of at least two groups of examples, got {num_groups}."
    )
  if not 0 < level < 1:
    raise ValueError(f"Expected level in (0, 1), got level={level}.")

  def measure(stats):
    return jax.tree.map(
      lambda leaf: leaf.astype(np.result_type(leaf, np.float32)),
      jax.tree.map(np.asarray, jax.device_get(statistic(stats))),
    )

  # Sums of all groups up to each one, and of all groups from each one on: a
  # deletion then takes one merge instead of G - 2.
  before = list(itertools.accumulate(parts))
  after = list(itertools.accumulate(reversed(parts)))[::-1]
  estimate = measure(before[-1])
  deleted = [
    measure(after[1]),
    *(measure(before[g - 1] + after[g + 1]) for g in range(1, num_groups - 1)),
    measure(before[-2]),
  ]
  deleted = jax.tree.map(lambda *leaves: np.stack(leaves), *deleted)
  error = jax.tree.map(standard_error, deleted)
  quantile = statistics.NormalDist().inv_cdf(0.5 + level / 2)

  def bias(without, e):
    # In float64: the difference is multiplied by the number of groups.
    excess = np.mean(without, axis=0, dtype=np.float64) - e
    return ((num_groups - 1) * excess).astype(e.dtype)

  def bound(sign):
    return jax.tree.map(lambda e, s: e + sign * quantile * s, estimate, error)

  return Jackknife(
    estimate=estimate,
    standard_error=error,
    bias=jax.tree.map(bias, deleted, estimate),
    low=bound(-1),
    high=bound(1),
    deleted=deleted,
  )


def standard_error(deleted: jax.Array) -> jax.Array:
  """The jackknife error [...] of a statistic from `deleted` [G, ...]."""
  num_groups = deleted.shape[0]
  deviation = deleted - deleted.mean(axis=0, keepdims=True)
  scale = (num_groups - 1) / num_groups
  return (scale * (deviation**2).sum(axis=0)) ** 0.5
