"""Figures of a report, as PNG files.

Each function takes plain dictionaries and arrays, writes one file and returns
its path. A run has the same colour in all figures of a report.
"""

from collections.abc import Mapping
from typing import Any

from robust_info.report.figures.bars import components
from robust_info.report.figures.curves import robust_accuracy, training_curves
from robust_info.report.figures.examples import examples
from robust_info.report.figures.matrices import cckl_matrices
from robust_info.report.figures.strengths import strength

__all__ = [
  "cckl_matrices",
  "components",
  "examples",
  "of_report",
  "robust_accuracy",
  "strength",
  "training_curves",
]


def of_report(report: Mapping[str, Any]) -> list[str]:
  """Names of the figures of a report, except for its examples."""
  names = ["training_curves", "robust_accuracy", "components"]
  runs = report["runs"]
  # There are no matrices of many classes.
  if all(run["cckl_matrix"] for run in runs):
    names.append("cckl_matrices")
  # Ensembles alone have strength curves.
  if any(run["strength_curve"] for run in runs):
    names.append("strength")
  return names
