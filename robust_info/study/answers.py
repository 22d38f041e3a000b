"""Answers: criteria over seeds, their statistics, and verdicts.

A *criterion* is a number per seed of training that the claim requires to exceed
a threshold. Its estimate is the mean over seeds, with the 95 % interval and the
one-sided p-value of Student's t-test. The p-values of all criteria of a study
are corrected for their number by Holm's method. A criterion

* *holds* if its corrected p-value is below 0.05;
* *fails* if its interval lies below the threshold;
* is *open* otherwise.

A claim is *supported* if all its criteria hold, *mixed* if some do, *not
supported* if none holds and some fail, and *undecided* if all are open, as with
a single seed.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

LEVEL = 0.95
SUPPORTED, NOT_SUPPORTED, MIXED = "supported", "not supported", "mixed"
UNDECIDED = "undecided"
HOLDS, FAILS, OPEN = "holds", "fails", "open"


@dataclasses.dataclass(frozen=True)
class Criterion:
  """A requirement of a claim on one case.

  Attributes:
    case: name of the case.
    text: the number, in words.
    values: its values, one per seed.
    threshold: value that it has to exceed.
  """

  case: str
  text: str
  values: Sequence[float]
  threshold: float


@dataclasses.dataclass(frozen=True)
class Table:
  """A table: texts and numbers by column.

  Attributes:
    title: one line.
    columns: names of the columns.
    rows: values, one list per row, as long as `columns`.
  """

  title: str
  columns: Sequence[str]
  rows: Sequence[Sequence[Any]]


@dataclasses.dataclass(frozen=True)
class Answer:
  """The answer to a question.

  Attributes:
    criteria: its criteria, on all cases that have the runs.
    tables: further numbers.
  """

  criteria: tuple[Criterion, ...]
  tables: tuple[Table, ...] = ()


@dataclasses.dataclass(frozen=True)
class Finding:
  """A criterion with its statistics.

  Attributes:
    criterion: the criterion.
    estimate: mean over seeds.
    low: lower end of the 95 % interval; NaN with one seed.
    high: upper end.
    p_value: one-sided, that the mean exceeds the threshold; NaN with one seed.
    corrected: the p-value after Holm's correction.
    status: `holds`, `fails` or `open`.
  """

  criterion: Criterion
  estimate: float
  low: float
  high: float
  p_value: float
  corrected: float
  status: str


def judge(answers: Mapping[str, Answer]) -> dict[str, list[Finding]]:
  """The findings of all questions of a study, corrected together.

  Args:
    answers: answers by the name of the question.

  Returns:
    Findings by the name of the question, in the order of its criteria.
  """
  tested = {
    name: [_tested(criterion) for criterion in answer.criteria]
    for name, answer in answers.items()
  }
  p_values = [f.p_value for found in tested.values() for f in found]
  corrected = iter(holm(p_values))
  return {
    name: [
      _with_status(dataclasses.replace(f, corrected=next(corrected)))
      for f in found
    ]
    for name, found in tested.items()
  }


def verdict(findings: Sequence[Finding]) -> str:
  """The verdict on a claim."""
  found = {finding.status for finding in findings}
  if found == {HOLDS}:
    return SUPPORTED
  if HOLDS in found:
    return MIXED
  return NOT_SUPPORTED if FAILS in found else UNDECIDED


def holm(p_values: Sequence[float]) -> list[float]:
  """Corrected p-values; those that are NaN count as tests and stay NaN.

  Raises:
    ImportError: statsmodels is not installed.
  """
  try:
    from statsmodels.stats import multitest
  except ImportError as error:
    raise ImportError(
      "Studies need statsmodels; install robust_info[study]."
    ) from error
  values = np.asarray(p_values, float)
  if not len(values):
    return []
  filled = np.where(np.isnan(values), 1.0, values)
  found = multitest.multipletests(filled, method="holm")[1]
  return [float(x) for x in np.where(np.isnan(values), math.nan, found)]


def interval(values: Sequence[float]) -> tuple[float, float, float]:
  """Mean of independent values, and its 95 % interval by Student's t."""
  values = np.asarray(values, float)
  if not len(values):
    return math.nan, math.nan, math.nan
  mean = float(values.mean())
  if len(values) < 2:
    return mean, math.nan, math.nan
  if _is_point(values):
    return mean, mean, mean
  low, high = stats.ttest_1samp(values, 0.0).confidence_interval(LEVEL)
  return mean, float(low), float(high)


def _is_point(values: np.ndarray) -> bool:
  """Whether values differ by rounding only; such a sample has no t-test."""
  return np.ptp(values) <= 1e-9 * np.max(np.abs(values))


def _tested(criterion: Criterion) -> Finding:
  values = np.asarray(criterion.values, float)
  estimate, low, high = interval(values)
  p_value = math.nan
  if len(values) > 1 and np.isfinite(values).all():
    if _is_point(values):
      p_value = 0.0 if estimate > criterion.threshold else 1.0
    else:
      p_value = float(
        stats.ttest_1samp(
          values, criterion.threshold, alternative="greater"
        ).pvalue
      )
  return Finding(criterion, estimate, low, high, p_value, math.nan, OPEN)


def _with_status(finding: Finding) -> Finding:
  status = OPEN
  if finding.corrected < 1 - LEVEL:
    status = HOLDS
  elif finding.high < finding.criterion.threshold:
    status = FAILS
  return dataclasses.replace(finding, status=status)
