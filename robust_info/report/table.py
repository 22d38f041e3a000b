"""A report as a text table."""

import pathlib
import textwrap
from collections.abc import Mapping
from typing import Any

from robust_info.evaluation import metrics
from robust_info.runtime import files

_LABEL_WIDTH = 34
_MIN_WIDTH = 20  # of a column; two such columns fit in 80 characters
_GAP = 2
_NOTE_WIDTH = 80


def render(report: Mapping[str, Any]) -> str:
  """The report as fixed-width text, with one column per run.

  Args:
    report: a report from `report.build` or `report.load`.

  Returns:
    Lines without spaces at the end; columns are as wide as their widest cell. A
    `±` is one standard error over examples; information is in nats; NaN is n/a.
    Below the sanity checks, the table states for each run whether its robust
    accuracies can be trusted.
  """
  names = [run["name"] for run in report["runs"]]
  sections = list(metrics.sections(report["runs"]))
  cells = [names, *(row[1] for _, rows, _ in sections for row in rows)]
  width = max(_MIN_WIDTH, *(len(cell) for row in cells for cell in row)) + _GAP
  about = report["data"]
  lines = [
    f"{about['name']} {about['split']} split, "
    f"{about['num_examples']:,} examples; information in nats;",
    "± is one standard error over examples",
    "",
    _line("", names, width),
  ]
  for title, rows, notes in sections:
    lines += ["", title]
    lines += [_line(f"  {label}", row, width) for label, row in rows]
    for note in notes:
      lines += textwrap.wrap(note, _NOTE_WIDTH)
  return "\n".join(lines)


def write(report: Mapping[str, Any], output: pathlib.Path) -> None:
  """Writes `report.txt`, the table, into the directory of a report."""
  files.write_whole(output / "report.txt", render(report) + "\n")


def _line(label: str, cells: list[str], width: int) -> str:
  return f"{label:<{_LABEL_WIDTH}}" + "".join(f"{c:>{width}}" for c in cells)
