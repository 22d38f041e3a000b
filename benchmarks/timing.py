"""Comparable timings: warm medians and paired ratios.

The speed of a shared machine drifts. Runs of two candidates are therefore
interleaved, and the ratio is taken within each pair.
"""

import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax

MIN_RUNS = 5


@dataclasses.dataclass(frozen=True)
class Spread:
  """A median with its quartiles: half of the runs lie between them.

  Attributes:
    median: median of the runs.
    low: the lower quartile.
    high: the upper quartile.
    runs: number of runs.
  """

  median: float
  low: float
  high: float
  runs: int

  def __str__(self) -> str:
    """`median [low, high]`, three digits."""
    return f"{self.median:.3g} [{self.low:.3g}, {self.high:.3g}]"


def spread(values: list[float]) -> Spread:
  """Median and quartiles of at least two values."""
  low, median, high = statistics.quantiles(values, method="inclusive")
  return Spread(median, low, high, len(values))


def seconds(function: Callable[[], Any]) -> float:
  """Wall time of one call, until its JAX results are ready."""
  begin = time.perf_counter()
  jax.block_until_ready(function())
  return time.perf_counter() - begin


def warm(function: Callable[[], Any], *, runs: int = MIN_RUNS) -> Spread:
  """Seconds per call after a first call that is not counted.

  Args:
    function: function to call, `runs + 1` times.
    runs: number of counted calls, at least five.

  Returns:
    The spread.
  """
  if runs < MIN_RUNS:
    raise ValueError(f"Expected runs >= {MIN_RUNS}, got runs={runs}.")
  seconds(function)
  return spread([seconds(function) for _ in range(runs)])


@dataclasses.dataclass(frozen=True)
class Pair:
  """Two candidates, run in turns.

  Attributes:
    first: seconds of the first candidate.
    second: seconds of the second candidate.
    ratio: second over first, within pairs: above 1, the first is faster.
  """

  first: Spread
  second: Spread
  ratio: Spread


def paired(
  first: Callable[[], Any], second: Callable[[], Any], *, runs: int = MIN_RUNS
) -> Pair:
  """Times two functions in turns, each warmed up once.

  Args:
    first: a candidate.
    second: the other candidate.
    runs: number of pairs, at least five.

  Returns:
    Both spreads and the spread of the ratio.
  """
  if runs < MIN_RUNS:
    raise ValueError(f"Expected runs >= {MIN_RUNS}, got runs={runs}.")
  seconds(first)
  seconds(second)
  pairs = [(seconds(first), seconds(second)) for _ in range(runs)]
  return Pair(
    spread([a for a, _ in pairs]),
    spread([b for _, b in pairs]),
    spread([b / a for a, b in pairs]),
  )
