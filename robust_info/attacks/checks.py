"""What a check of an evaluation is, and a report of several."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Check:
  """One rule, with its number.

  Attributes:
    name: short.
    passed: whether the rule holds.
    value: what was measured.
    limit: the largest value that passes.
    meaning: what a failure says, and what to do.
  """

  name: str
  passed: bool
  value: float
  limit: float
  meaning: str


@dataclasses.dataclass(frozen=True)
class SanityReport:
  """All checks of one model and threat model.

  Attributes:
    checks: in the order they were run.
    accuracies: of the sample under the attacks used, by name.
  """

  checks: tuple[Check, ...]
  accuracies: dict[str, float]

  @property
  def trustworthy(self) -> bool:
    """Whether every check passed."""
    return all(check.passed for check in self.checks)

  @property
  def verdict(self) -> str:
    """One line: "trustworthy", or what failed."""
    failed = [check.name for check in self.checks if not check.passed]
    return "not trustworthy: " + ", ".join(failed) if failed else "trustworthy"

  def __str__(self) -> str:
    """A table, a line a check, and the verdict."""
    lines = [
      f"{'pass' if check.passed else 'FAIL'}  {check.name:<22} "
      f"{check.value:>9.4g}  (limit {check.limit:.4g})"
      + ("" if check.passed else f"  {check.meaning}")
      for check in self.checks
    ]
    return "\n".join([*lines, self.verdict])


def at_most(name: str, value: float, limit: float, meaning: str) -> Check:
  """A check that passes up to the limit; NaN fails."""
  return Check(name, bool(value <= limit), float(value), limit, meaning)
