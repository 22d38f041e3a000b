"""The numbers of a report and of the curves of a training, one file each.

A metric is a module with some of the functions

    measure(network: Subject) -> dict         fields of a run in a report
    sections(runs) -> Iterator[rows.Section]  parts of the table
    follow(network: Followed) -> dict         curves of a training

and its place in `METRICS`. Standard errors are over examples: those of exact
numbers in `standard_errors`, all others beside the numbers.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from robust_info.evaluation.metrics import (
  attacked,
  fisher,
  information,
  lenses,
  performance,
  robustness,
  rows,
)
from robust_info.evaluation.metrics.subject import Followed, Subject

# In the order of the table.
METRICS = (performance, robustness, information, fisher, lenses, attacked)


def measure(network: Subject) -> dict[str, Any]:
  """Measures one network; finished measurements come from the cache.

  Returns:
    The fields of a `runs` entry that are measured, of all metrics.
  """
  entry: dict[str, Any] = {"standard_errors": {}}
  for metric in METRICS:
    if hasattr(metric, "measure"):
      found = metric.measure(network)
      entry["standard_errors"] |= found.pop("standard_errors", {})
      entry |= found
  return entry


def sections(runs: Sequence[rows.Run]) -> Iterator[rows.Section]:
  """The parts of the table of a report."""
  for metric in METRICS:
    if hasattr(metric, "sections"):
      yield from metric.sections(runs)


def follow(network: Followed) -> dict[str, float]:
  """The numbers that training follows, of all metrics."""
  found: dict[str, float] = {}
  for metric in METRICS:
    if hasattr(metric, "follow"):
      found |= metric.follow(network)
  return found
