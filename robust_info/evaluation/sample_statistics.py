"""Statistics of a sample, with their uncertainty."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

_QUANTILES = {"q05": 0.05, "q25": 0.25, "median": 0.5, "q75": 0.75, "q95": 0.95}
_LEVEL = 0.95


def describe(values: np.ndarray) -> dict[str, Any]:
  """Mean and quantiles of a sample [M], with their uncertainty.

  Args:
    values: sample [M] of independent draws.

  Returns:
    `mean`, its `standard_error` (NaN for a single value), the quantiles `q05`,
    `q25`, `median`, `q75` and `q95`, and `intervals`: for each quantile, two
    order statistics that enclose the quantile of the population with a
    probability of at least 95 %, for any distribution; NaN on a side where the
    sample is too small.
  """
  values = np.sort(np.asarray(values, np.float64))
  size = len(values)
  error = values.std(ddof=1) / math.sqrt(size) if size > 1 else math.nan
  return {
    "mean": float(values.mean()),
    "standard_error": float(error),
    **{
      name: float(np.quantile(values, level))
      for name, level in _QUANTILES.items()
    },
    "intervals": {
      name: _quantile_interval(values, level)
      for name, level in _QUANTILES.items()
    },
  }


def _quantile_interval(values: np.ndarray, level: float) -> list[float]:
  """Order statistics around a quantile, from the binomial distribution."""
  # It takes a third of a second to import, and training needs it never.
  from scipy import special

  size = len(values)
  tail = (1 - _LEVEL) / 2
  # The number of values below the quantile is binomial. Counted from zero,
  # value i lies above the quantile only if i or fewer lie below it.
  low = _first(lambda k: special.bdtr(k, size, level) >= tail, size) - 1
  high = _first(lambda k: special.bdtrc(k, size, level) <= tail, size)
  return [
    float(values[low]) if low >= 0 else math.nan,
    float(values[high]) if high < size else math.nan,
  ]


def _first(is_reached: Callable[[int], bool], size: int) -> int:
  """The least k in [0, size] from which on `is_reached(k)` holds, by bisection.

  (scipy.stats has quantiles of a binomial, but takes a second to import.)
  """
  below, above = -1, size
  while above - below > 1:
    middle = (below + above) // 2
    below, above = (below, middle) if is_reached(middle) else (middle, above)
  return above
