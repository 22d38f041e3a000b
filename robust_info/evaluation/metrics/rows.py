"""Rows of the table of a report: labels, and one cell per run."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from robust_info.attacks import checks

Run = Mapping[str, Any]
# Largest number of classes whose matrices are part of a report.
MAX_MATRIX = 256


class Section(NamedTuple):
  """A part of the table.

  Attributes:
    title: title, one line.
    rows: label and one cell per run, for each row.
    notes: paragraphs below the rows.
  """

  title: str
  rows: list[tuple[str, list[str]]]
  notes: Sequence[str] = ()


def section(
  title: str,
  runs: Sequence[Run],
  readers: Iterable[tuple[str, Callable[[Run], str]]],
) -> Section:
  """A section from labels and functions from a run to its cell."""
  return Section(
    title, [(label, [read(run) for run in runs]) for label, read in readers]
  )


def number(value: float, error: float = math.nan, *, digits: int = 4) -> str:
  """A number with four digits, and its standard error with two."""
  if not math.isfinite(value):
    return "n/a"
  if abs(value) >= 1e-3 or value == 0:
    text = f"{value:.{digits}g}"
  else:
    text = f"{value:.{digits - 3}e}"
  return f"{text} ± {error:.2g}" if math.isfinite(error) else text


def beside_limit(value: float, limit: float) -> str:
  """A number that does not look like its limit unless it is equal."""
  return checks.told_apart(value, limit, lambda v, n: number(v, digits=n))


def percent(value: float, error: float = math.nan) -> str:
  """A share in per cent, with its standard error."""
  if not math.isfinite(value):
    return "n/a"
  text = f"{100 * value:.1f} %"
  return f"{text} ± {100 * error:.1f}" if math.isfinite(error) else text


def sampled(part: Mapping[str, float]) -> str:
  """A mean with its standard error."""
  return number(part["mean"], part["standard_error"])


def pair(run: Run, name: str, part: str) -> tuple[float, float]:
  """The number `name` of a part of a run, and its standard error."""
  return run[part][name], run["standard_errors"][part][name]


def matrix(array: Any) -> Any:
  """A matrix [C, C] as nested lists; `[]` above `MAX_MATRIX` classes.

  A thousand classes are a million numbers, 30 MB as text, several times per
  network.
  """
  return floats(array) if len(array) <= MAX_MATRIX else []


def floats(array: Any) -> Any:
  """An array as nested lists of float64."""
  return np.asarray(array, np.float64).tolist()
