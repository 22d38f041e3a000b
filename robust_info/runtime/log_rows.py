"""Rows of a log of metrics, as JSON lines that survive kills.

A *row* is a flat dict with a `kind` (`train`, `validation` or `rollback`), a
`step`, and numbers. Rows are in order of steps.
"""

import json
import math
import os
import pathlib
from typing import Any

Row = dict[str, Any]


def read_rows(path: str | os.PathLike[str]) -> list[Row]:
  """The rows of a JSON-lines file, oldest first.

  A last line that was truncated by a kill is left out. Numbers that were not
  finite are returned as NaN.

  Args:
    path: the `metrics.jsonl` of a run; a missing file has no rows.

  Raises:
    ValueError: a line is not a row, and is not a truncated last line.
    OSError: the file exists and cannot be read.
  """
  path = pathlib.Path(path)
  try:
    content = path.read_bytes()
  except FileNotFoundError:
    return []
  lines = content.splitlines()
  rows = []
  for number, line in enumerate(lines, start=1):
    try:
      row = json.loads(line.decode())
    except (ValueError, RecursionError):
      if number == len(lines):
        break
      row = None
    if not _is_row(row):
      raise ValueError(
        f"Expected line {number} of {path} to be a JSON object with kind, step "
        f"and numbers, got {line[:40].decode(errors='replace')!r}; move the "
        "file away to start a new log."
      )
    rows.append({k: math.nan if v is None else v for k, v in row.items()})
  return rows


def _is_row(row: Any) -> bool:
  return (
    isinstance(row, dict)
    and isinstance(row.get("kind"), str)
    and type(row.get("step")) is int
    and all(
      value is None or isinstance(value, int | float)
      for name, value in row.items()
      if name != "kind"
    )
  )
