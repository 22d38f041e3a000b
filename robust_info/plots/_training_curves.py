"""Metrics over training."""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from robust_info.plots import arguments
from robust_info.runtime import log_rows

if TYPE_CHECKING:
  import matplotlib.figure

_Rows = Sequence[Mapping[str, Any]]


def training_curves(
  runs: str
  | os.PathLike[str]
  | _Rows
  | Mapping[str, str | os.PathLike[str] | _Rows]
  | Mapping[str, Any],
  *,
  theme: str = "light",
) -> "matplotlib.figure.Figure":
  """Draws the metrics of each run over training.

  One panel per kind of number, one line per run: clean and attacked accuracy
  (`accuracy`, `robust_accuracy`), `cckl`, `mutual_information` and
  `label_information`, the mean Frobenius norm of the input Fisher information
  (`fisher_frobenius`) on a log scale, and the parts of the local and the path
  lens (`local_robust`, `local_non_robust`, `path_robust`, `path_non_robust`).
  Panels of which no run has a number are left out; other numbers are ignored.
  Missing values and NaN leave gaps.

  Args:
    runs: the directory of a run of `train.py`, its `metrics.jsonl`, or rows of
      one's own loop: dictionaries with `epoch` or `step` and numbers of the
      names above, for example `run.history` of `training.restore_run`. Rows of
      a `kind` other than "validation" are left out. Or a dictionary of these by
      name; or a report.
    theme: see the module docstring.

  Returns:
    The figure.

  Raises:
    ValueError: there are no rows, rows have no time, or a file is no log.
    TypeError: no path and no rows.
    FileNotFoundError: there is no such run.
    ImportError: matplotlib is not installed.
  """
  colours = arguments.theme(theme)
  draw = arguments.drawing("curves").training
  if arguments.is_report(runs):
    curves = [run["curves"] for run in runs["runs"]]
    return draw(curves, arguments.run_names(runs), colours)
  found = arguments.by_network("runs", runs)
  curves = [
    _validations(arguments.of_network("runs", name), run)
    for name, run in found.items()
  ]
  return draw(curves, [*found], colours)


def _validations(argument: str, run: Any) -> list[Mapping[str, Any]]:
  """The rows of validation, each with its time."""
  if isinstance(run, str | os.PathLike):
    run = _read(argument, pathlib.Path(run))
  is_rows = isinstance(run, Sequence) and all(
    isinstance(row, Mapping) for row in run
  )
  if not is_rows:
    raise arguments.refuse(
      argument,
      run,
      "rows or the directory of a run",
      "pass a list of dictionaries",
    )
  rows = [row for row in run if row.get("kind", "validation") == "validation"]
  if not rows:
    raise ValueError(f"Expected {argument} with rows of validation, got none.")
  for number, row in enumerate(rows):
    if "epoch" not in row and "step" not in row:
      raise ValueError(
        f"Expected {argument} with an epoch or a step in every row, got row "
        f"{number} with {', '.join(map(str, row)) or 'nothing'}."
      )
  return rows


def _read(argument: str, path: pathlib.Path) -> list[log_rows.Row]:
  file = path / "metrics.jsonl" if path.is_dir() else path
  if not file.exists():
    raise FileNotFoundError(
      f"Expected {argument} to be the directory of a run or its "
      f"metrics.jsonl, got {str(path)!r}, which holds none."
    )
  return log_rows.read_rows(file)
