"""The log of metrics: JSON lines that survive kills, and TensorBoard events.

A *row* is a flat dict with a `kind` (`train`, `validation` or `rollback`), a
`step`, and numbers. Rows are in order of steps. When a run resumes from step s,
rows past s are dropped first, and training writes them again. The file of a run
that was killed is therefore the file of an uninterrupted run, except for
wall-clock fields.
"""

import json
import math
import os
import pathlib
import time
from collections.abc import Mapping
from typing import Any

from tensorboardX import event_file_writer, summary
from tensorboardX.proto import event_pb2

from robust_info.runtime import files

Row = dict[str, Any]
# Fields that depend on the time of a row, not on the computation.
WALL_CLOCK_FIELDS = ("seconds", "steps_per_second")


def read_rows(path: str | os.PathLike[str]) -> list[Row]:
  """The rows of a JSON-lines file, oldest first.

  A last line that was truncated by a kill is left out. Numbers that were not
  finite are returned as NaN.

  Args:
    path: a file written by `MetricsWriter`; a missing file has no rows.

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


class MetricsWriter:
  """Appends rows to `metrics.jsonl` and scalars to TensorBoard.

  Use as a context manager. `flush` returns once every row is on the disk, so
  that no row before a later checkpoint can be lost.
  """

  def __init__(
    self, directory: str | os.PathLike[str], *, after_step: int | None
  ):
    """Opens the log for appending.

    Args:
      directory: directory of `metrics.jsonl` and `tensorboard/`.
      after_step: step of the checkpoint; rows past it are dropped, and hidden
        in TensorBoard. None drops all rows, for a run that starts from the
        beginning.
    """
    directory = pathlib.Path(directory)
    path = directory / "metrics.jsonl"
    rows = read_rows(path)
    kept = [
      r for r in rows if after_step is not None and r["step"] <= after_step
    ]
    files.write_whole(path, "".join(_line(row) for row in kept))
    self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115
    self._events_directory = events = directory / "tensorboard"
    events.mkdir(parents=True, exist_ok=True)
    # Names have a resolution of one second; a quick restart would overwrite the
    # previous file.
    starts = sum(1 for _ in events.glob("events.out.tfevents.*"))
    # Written by this thread and not by the thread of a `SummaryWriter`, which
    # may outlive an error and does not report its own errors.
    self._events = event_file_writer.EventsWriter(
      str(events / "events"), filename_suffix=f".{starts:05d}"
    )
    first_step = 0 if after_step is None else after_step + 1
    restart = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
    self._add_event(first_step, session_log=restart)

  def write(self, row: Mapping[str, Any]) -> None:
    """Appends one row; `kind` and `step` are required."""
    self._file.write(_line(row))
    for name, value in row.items():
      if name not in ("kind", "step"):
        scalar = summary.scalar(f"{row['kind']}/{name}", value)
        self._add_event(row["step"], summary=scalar)

  def flush(self) -> None:
    """Returns once all rows written so far are on the disk.

    Raises:
      OSError: the rows cannot be written, for example on a full disk; names the
        file, or the folder of the events.
    """
    try:
      name = self._file.name
      self._file.flush()
      os.fsync(self._file.fileno())
      name = str(self._events_directory)
      self._events.flush()
    except OSError as error:
      raise OSError(error.errno, error.strerror, name) from error

  def close(self) -> None:
    """Flushes and closes."""
    try:
      self.flush()
    finally:
      try:
        self._file.close()
      finally:
        self._events.close()

  def _add_event(self, step: int, **content: Any) -> None:
    event = event_pb2.Event(step=int(step), wall_time=time.time(), **content)
    self._events.write_event(event)

  def __enter__(self) -> "MetricsWriter":
    return self

  def __exit__(self, *exception: Any) -> None:
    self.close()


def _line(row: Mapping[str, Any]) -> str:
  finite = {
    k: None if isinstance(v, float) and not math.isfinite(v) else v
    for k, v in row.items()
  }
  return json.dumps(finite, allow_nan=False) + "\n"
