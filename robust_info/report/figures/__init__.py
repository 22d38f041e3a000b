"""Figures of a report, as PNG files.

Each function takes plain dictionaries and arrays, writes one file and returns
its path. A run has the same colour in all figures of a report.
"""

from robust_info.report.figures.bars import components
from robust_info.report.figures.curves import robust_accuracy, training_curves
from robust_info.report.figures.examples import examples
from robust_info.report.figures.matrices import cckl_matrices
from robust_info.report.figures.strengths import strength

__all__ = [
  "cckl_matrices",
  "components",
  "examples",
  "robust_accuracy",
  "strength",
  "training_curves",
]
