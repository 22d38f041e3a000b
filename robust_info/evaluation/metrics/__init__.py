"""The metrics of a report and of validation, one file per metric.

A metric is a module with some of the functions

    measure(network: Subject) -> dict         fields of a run in a report
    work(settings, num_examples, num_classes) -> Iterator[progress.Work]
                                              what `measure` takes, for progress
    sections(runs) -> Iterator[rows.Section]  parts of the table
    follow(network: Followed) -> dict         numbers of validation

and an entry in `METRICS`. Standard errors are over examples: those of exact
numbers are in `standard_errors`, all others next to the numbers.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from robust_info import config as config_lib
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
from robust_info.runtime import progress

# In the order of the table.
METRICS = (performance, robustness, information, fisher, lenses, attacked)


def measure(network: Subject) -> dict[str, Any]:
  """Evaluates one network; finished measurements are read from the cache.

  Returns:
    The measured fields of a `runs` entry, of all metrics.
  """
  entry: dict[str, Any] = {"standard_errors": {}}
  for metric in METRICS:
    if hasattr(metric, "measure"):
      found = dict(metric.measure(network))
      _add(entry["standard_errors"], found.pop("standard_errors", {}))
      _add(entry, found)
  return entry


def work(
  settings: config_lib.EvaluationConfig, num_examples: int, num_classes: int
) -> list[progress.Work]:
  """The measurements of one network that show progress, in order.

  Their work is that of the algorithms; of attacks that stop early, the most.
  """
  return [
    part
    for metric in METRICS
    if hasattr(metric, "work")
    for part in metric.work(settings, num_examples, num_classes)
  ]


def sections(runs: Sequence[rows.Run]) -> Iterator[rows.Section]:
  """The parts of the table of a report."""
  for metric in METRICS:
    if hasattr(metric, "sections"):
      yield from metric.sections(runs)


def follow(network: Followed) -> dict[str, float]:
  """The numbers of validation, of all metrics."""
  found: dict[str, float] = {}
  for metric in METRICS:
    if hasattr(metric, "follow"):
      _add(found, metric.follow(network))
  return found


def _add(entry: dict[str, Any], found: Mapping[str, Any]) -> None:
  """Adds fields; no metric may replace those of another."""
  if taken := entry.keys() & found.keys():
    raise ValueError(
      f"Expected each field from one metric, got {', '.join(sorted(taken))} "
      "from two; rename it."
    )
  entry |= found
