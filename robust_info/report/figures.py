"""Figures of a report, as files; `plots` draws them.

Each function takes a report and the path of a file, PNG or SVG by its suffix
(without a suffix both are written), and returns the path. Missing directories
are created. A run has the same colour in all figures of a report.
"""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from robust_info import plots
from robust_info.plots.drawing import style
from robust_info.report import portrayed

__all__ = [
  "cckl_matrices",
  "components",
  "examples",
  "of_report",
  "robust_accuracy",
  "strength",
  "training_curves",
]

_Report = Mapping[str, Any]
_Path = str | os.PathLike[str]


def of_report(report: _Report) -> list[str]:
  """Names of the figures of a report, except for its examples."""
  names = ["robust_accuracy", "components"]
  runs = report["runs"]
  # Networks that train.py has not trained have no curves.
  if any(run["curves"] for run in runs):
    names.append("training_curves")
  # There are no matrices of many classes.
  if all(run["cckl_matrix"] for run in runs):
    names.append("cckl_matrices")
  # Ensembles alone have strength curves.
  if any(run["strength_curve"] for run in runs):
    names.append("strength")
  return names


def remove_others(report: _Report, folder: pathlib.Path) -> None:
  """Removes figures that an earlier report left and this one does not have.

  Args:
    report: a report.
    folder: its directory.
  """
  some = {"training_curves", "cckl_matrices", "strength"}
  for name in some - {*of_report(report)}:
    for suffix in (".png", ".svg"):
      (folder / name).with_suffix(suffix).unlink(missing_ok=True)


def training_curves(report: _Report, path: _Path) -> pathlib.Path:
  """The metrics of each run over training; see `plots.training_curves`."""
  return style.save(plots.training_curves(report), path)


def robust_accuracy(report: _Report, path: _Path) -> pathlib.Path:
  """Accuracy against epsilon; see `plots.robustness_curve`."""
  return style.save(plots.robustness_curve(report), path)


def components(report: _Report, path: _Path) -> pathlib.Path:
  """The parts of CCKL, by lens and run; see `plots.components`."""
  return style.save(plots.components(report), path)


def cckl_matrices(report: _Report, path: _Path) -> pathlib.Path:
  """The class-by-class CCKL matrix of every run; see `plots.cckl_matrix`."""
  return style.save(plots.cckl_matrix(report), path)


def strength(report: _Report, path: _Path) -> pathlib.Path:
  """What stronger and stronger attacks leave; see `plots.attack_strength`."""
  return style.save(plots.attack_strength(report), path)


def examples(
  shown: portrayed.Examples,
  path: _Path,
  *,
  label_names: Sequence[str],
  run_names: Sequence[str],
) -> pathlib.Path:
  """Single examples of every run; see `plots.examples`.

  Args:
    shown: the examples.
    path: path of the file.
    label_names: C names.
    run_names: R names, in the order of the report.

  Returns:
    The path.
  """

  def by_run(arrays):
    return dict(zip(run_names, arrays, strict=True))

  figure = plots.examples(
    shown.images,
    by_run(shown.eigenvectors),
    by_run(shown.adversarial),
    probabilities=by_run(shown.probabilities),
    attacked_probabilities=by_run(shown.adversarial_probabilities),
    labels=shown.labels,
    label_names=label_names,
    threat=shown.threat,
  )
  return style.save(figure, path)
