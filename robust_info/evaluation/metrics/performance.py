"""Accuracy, cross-entropy and calibration of the clean predictions."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from robust_info.attacks import results
from robust_info.evaluation.metrics import rows, subject
from robust_info.information import _jackknife

_FOLLOWED = ("accuracy", "cross_entropy")


def measure(network: subject.Subject) -> dict[str, Any]:
  """`performance` and its standard errors."""
  clean = network.clean
  summary, errors = clean.jackknife.estimate, clean.jackknife.standard_error
  deleted = clean.calibration_error_deleted
  accuracy = float(clean.correct.mean())
  return {
    "performance": {
      "accuracy": accuracy,
      "cross_entropy": float(summary.cross_entropy),
      "calibration_error": clean.calibration_error,
    },
    "standard_errors": {
      "performance": {
        "accuracy": results.share_error(accuracy, len(clean.correct)),
        "cross_entropy": float(errors.cross_entropy),
        "calibration_error": float(_jackknife.standard_error(deleted)),
      }
    },
  }


def sections(runs: Sequence[rows.Run]) -> Iterator[rows.Section]:
  """The part of the table, with the identity of the runs."""

  def cell(show, name):
    return lambda run: show(*rows.pair(run, name, "performance"))

  yield rows.section(
    "Performance",
    runs,
    [
      ("objective, model", origin),
      ("checkpoint", checkpoint),
      ("accuracy", cell(rows.percent, "accuracy")),
      ("cross-entropy", cell(rows.number, "cross_entropy")),
      ("calibration error", cell(rows.percent, "calibration_error")),
    ],
  )


def origin(run: rows.Run) -> str:
  """Objective and model; a network that is not of a run has no objective."""
  return ", ".join(filter(None, (run["objective"], run["model"])))


def checkpoint(run: rows.Run) -> str:
  """Checkpoint and step of a run; "n/a" for any other network."""
  if run["checkpoint"] is None:
    return "n/a"
  return f"{run['checkpoint']}, step {run['step']:,}"


def follow(network: subject.Followed) -> Mapping[str, float]:
  """The numbers of validation."""
  summary = network.summary
  return {name: float(getattr(summary, name)) for name in _FOLLOWED}
