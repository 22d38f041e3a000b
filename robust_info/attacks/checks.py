"""A sanity check of a robust accuracy, and a report of several.

Shape letters: N examples, C classes.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

# AutoAttack's own limit of the accuracy that Square may take after the gradient
# attacks.
SQUARE_TOLERANCE = 0.002


@dataclasses.dataclass(frozen=True)
class Check:
  """One sanity check, with its measured value.

  Attributes:
    name: short name of the check.
    passed: whether the check holds.
    value: measured value.
    limit: largest value that passes.
    meaning: explanation of a failure, and advice.
  """

  name: str
  passed: bool
  value: float
  limit: float
  meaning: str


@dataclasses.dataclass(frozen=True)
class SanityReport:
  """All sanity checks of one model and threat model.

  Attributes:
    checks: checks in the order in which they ran.
    accuracies: accuracy of the sample under each attack, by name.
  """

  checks: tuple[Check, ...]
  accuracies: dict[str, float]

  @property
  def trustworthy(self) -> bool:
    """Whether every check passed."""
    return all(check.passed for check in self.checks)

  @property
  def verdict(self) -> str:
    """One line: "trustworthy", or the names of the failed checks."""
    failed = [check.name for check in self.checks if not check.passed]
    return "not trustworthy: " + ", ".join(failed) if failed else "trustworthy"

  def __str__(self) -> str:
    """A table with one line per check, and the verdict."""
    lines = [
      f"{'pass' if check.passed else 'FAIL'}  {check.name:<22} "
      f"{told_apart(check.value, check.limit):>9}  "
      f"(limit {check.limit:.4g})"
      + ("" if check.passed else f"  {check.meaning}")
      for check in self.checks
    ]
    return "\n".join([*lines, self.verdict])


def _general(value: float, digits: int) -> str:
  return f"{value:.{digits}g}"


def told_apart(
  value: float, limit: float, write: Callable[[float, int], str] = _general
) -> str:
  """A value with so many digits that it is not written as its limit.

  Args:
    value: the value.
    limit: its limit; the same text if they are equal.
    write: function (number, digits) -> text. Four digits are tried first, with
      which 0.0200004 is 0.02.
  """
  digits = 4
  while (
    value != limit
    and digits < 17
    and (write(value, digits) == write(limit, digits))
  ):
    digits += 1
  return write(value, digits)


def at_most(name: str, value: float, limit: float, meaning: str) -> Check:
  """Makes a check that passes up to the limit; NaN fails."""
  return Check(name, bool(value <= limit), float(value), limit, meaning)


def look_like_probabilities(logits: np.ndarray) -> bool:
  """Whether all rows [N, C] lie in [0, 1] and sum to 1."""
  return bool(
    logits.min() > -1e-5
    and logits.max() < 1 + 1e-5
    and np.all(np.abs(np.sum(logits, axis=1) - 1) < 1e-4)
  )


def largest_change(logits: np.ndarray, other: np.ndarray) -> float:
  """Largest l2 difference of two outputs [N, C], relative to rows of `logits`.

  A row that is equal in both, NaN and infinity included, differs by 0; any
  other row with NaN or infinity differs by infinity.
  """
  moved = ~((other == logits) | (np.isnan(other) & np.isnan(logits))).all(
    axis=1
  )
  logits, other = logits[moved], other[moved]
  with np.errstate(invalid="ignore"):
    scale = np.linalg.norm(logits, axis=1, keepdims=True) + 1e-10
    sizes = np.linalg.norm((other - logits) / scale, axis=1)
  return float(np.max(np.nan_to_num(sizes, nan=np.inf), initial=0))


def taken_by_square(
  names: tuple[str, ...], accuracies: dict[str, float]
) -> float:
  """Accuracy that "square" took after another attack; else 0."""
  if "square" not in names[1:]:
    return 0.0
  before = names[names.index("square") - 1]
  return accuracies[before] - accuracies["square"]
