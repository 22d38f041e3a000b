"""The log of metrics: JSON lines that survive kills, and TensorBoard events.

`log_rows` describes the rows. When a run resumes from step s, rows past s are
dropped first, and training writes them again. The file of a run that was killed
is therefore the file of an uninterrupted run, except for wall-clock fields.
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
from robust_info.runtime.log_rows import Row, read_rows

__all__ = ["WALL_CLOCK_FIELDS", "MetricsWriter", "Row", "read_rows"]


# Fields that depend on the time of a row, not on the computation.
WALL_CLOCK_FIELDS = ("seconds", "steps_per_second")


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
    with files.naming(self._file.name):
      self._file.write(_line(row))
    with files.naming(self._events_directory):
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
    with files.naming(self._file.name):
      self._file.flush()
      os.fsync(self._file.fileno())
    with files.naming(self._events_directory):
      self._events.flush()

  def close(self) -> None:
    """Flushes and closes."""
    try:
      self.flush()
    finally:
      # They try once more to write what could not be flushed.
      try:
        with files.naming(self._file.name):
          self._file.close()
      finally:
        with files.naming(self._events_directory):
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
