"""Progress of long jobs, on a terminal or in a log file.

`StepProgress` follows a training run, `CountProgress` any job that can be
counted. On a terminal both rewrite one line in place; elsewhere they write a
plain line from time to time. `TimeLeft` estimates the time of several jobs of
known work.
"""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TextIO

from robust_info.runtime import streams

# (done, total): called after each part of a long measurement.
Tick = Callable[..., None]
# The label of a measurement -> its progress, None where nothing is shown.
Ticks = Callable[[str], Tick | None]

_TERMINAL_INTERVAL = 0.2
_STEP_INTERVAL = 20.0
_COUNT_INTERVAL = 5.0
_SILENCE = 1.0  # Faster counts write nothing.
_BAR_WIDTH = 20
# Metrics shown in a validation line, with their short names.
_SHOWN = {
  "accuracy": "clean",
  "robust_accuracy": "robust",
  "cckl": "CCKL",
  "mutual_information": "I(X;Y^)",
}


class _Line:
  """The stream of the lines, and the time of the next progress line."""

  def __init__(
    self,
    stream: TextIO | None,
    clock: Callable[[], float],
    *,
    plain_interval: float,
    silence: float = 0.0,
  ):
    self._stream = sys.stderr if stream is None else stream
    self.is_terminal = self._stream is not None and self._stream.isatty()
    self._interval = _TERMINAL_INTERVAL if self.is_terminal else plain_interval
    self._next = clock() + max(self._interval, silence)

  def is_due(self, now: float) -> bool:
    """Whether a progress line is due now; if so, schedules the next one."""
    if now < self._next:
      return False
    self._next = now + self._interval
    return True

  def write(self, text: str, *, lasting: bool) -> None:
    """Replaces the current line; the next one replaces it, unless `lasting`."""
    if self.is_terminal:
      text = f"\r\033[K{text}"
    end = "\n" if lasting or not self.is_terminal else ""
    streams.write(text + end, self._stream)


class StepProgress:
  """Steps of a training run, steps per second, and the time left.

  Without a terminal, writes a line every twenty seconds. Each validation always
  gets a line of its own.
  """

  def __init__(
    self,
    *,
    start: int,
    num_steps: int,
    steps_per_epoch: int,
    stream: TextIO | None = None,
    clock: Callable[[], float] = time.monotonic,
  ):
    """Starts the clock.

    Args:
      start: number of steps done before; not 0 in a resumed run.
      num_steps: total number of steps.
      steps_per_epoch: number of steps per epoch.
      stream: where to; stderr unless given.
      clock: seconds.
    """
    self._num_steps = num_steps
    self._steps_per_epoch = steps_per_epoch
    self._clock = clock
    self._line = _Line(stream, clock, plain_interval=_STEP_INTERVAL)
    # Rates exclude the first step, which compiles.
    self._since = (start + 1, clock())
    self._first = start + 1

  def step(self, step: int, loss: float) -> None:
    """Counts a finished step, and reports it if a line is due."""
    now = self._clock()
    if step <= self._first:
      self._since = (step, now)
    if not self._line.is_due(now):
      return
    filled = _BAR_WIDTH * step // self._num_steps
    bar = "#" * filled + "-" * (_BAR_WIDTH - filled)
    epochs = -(-self._num_steps // self._steps_per_epoch)
    epoch = min(step // self._steps_per_epoch + 1, epochs)
    line = f"epoch {epoch}/{epochs} [{bar}] step {step:,}/{self._num_steps:,}"
    line += f"  loss {loss:.4f}{self._rate(step, now)}"
    self._line.write(line, lasting=False)

  def validation(self, step: int, row: Mapping[str, Any]) -> None:
    """Reports a validation on a line of its own."""
    epochs = -(-self._num_steps // self._steps_per_epoch)
    numbers = "  ".join(
      f"{short} {row[name]:.4g}"
      for name, short in _SHOWN.items()
      if name in row
    )
    epoch = step / self._steps_per_epoch
    line = f"epoch {epoch:g}/{epochs}  validation: {numbers}"
    self._line.write(line + self._rate(step, self._clock()), lasting=True)

  def message(self, text: str) -> None:
    """Writes a line unchanged."""
    self._line.write(text, lasting=True)

  def _rate(self, step: int, now: float) -> str:
    first, since = self._since
    if step <= first or now <= since:
      return ""
    rate = (step - first) / (now - since)
    left = round((self._num_steps - step) / rate)
    return f"  {rate:.4g} steps/s  {left // 60}:{left % 60:02d} left"


class CountProgress:
  """A count towards a total, its rate and the time left.

  Without a terminal, writes a line every five seconds. Jobs of less than a
  second write nothing.
  """

  def __init__(
    self,
    label: str,
    total: int,
    *,
    unit: str,
    start: int = 0,
    stream: TextIO | None = None,
    clock: Callable[[], float] = time.monotonic,
  ):
    """Starts the clock.

    Args:
      label: name of the job, for example "decoding mnist train".
      total: final count.
      unit: name of the counted items, for example "images".
      start: count done before, in a resumed job.
      stream: where to; stderr unless given.
      clock: seconds.
    """
    self._label = label
    self._total = total
    self._unit = unit
    self._clock = clock
    self._line = _Line(
      stream, clock, plain_interval=_COUNT_INTERVAL, silence=_SILENCE
    )
    self._start = clock()
    self._first = self._count = start
    self._note = ""
    self._shown = False

  def advance(
    self, count: int, *, under_way: float = 0.0, note: str = ""
  ) -> None:
    """Adds to the count, and reports it if a line is due.

    Args:
      count: number of items done since the last call.
      under_way: work done on unfinished items, in counts; it improves the
        estimate of the time left where many items finish together.
      note: text at the end of the line.
    """
    self._count += count
    self._note = note
    now = self._clock()
    if self._line.is_due(now):
      done = self._count - self._first + under_way
      left = "? s left"
      if done:
        ahead = self._total - self._first - done
        seconds = ahead * (now - self._start) / done
        left = f"{seconds:.0f} s left"
      self._write(left, now, lasting=False)

  def close(self) -> None:
    """Writes the last line, with the total time."""
    now = self._clock()
    if self._shown or now - self._start >= _SILENCE:
      self._write(f"in {now - self._start:.1f} s", now, lasting=True)

  def _write(self, tail: str, now: float, *, lasting: bool) -> None:
    rate = (self._count - self._first) / max(now - self._start, 1e-9)
    line = (
      f"{self._label}: {self._count:,}/{self._total:,} {self._unit}, "
      f"{rate:,.{0 if rate >= 10 else 1}f} {self._unit}/s, {tail}"
    )
    if self._note:
      line += f", {self._note}"
    self._line.write(line, lasting=lasting)
    self._shown = True


class Work(NamedTuple):
  """A measurement of known work.

  Attributes:
    label: name of the measurement, as in `Ticks`.
    count: number of items.
    passes: forward passes per item; a backward pass counts as one more.
    unit: name of the items.
    of_survivors: whether the items are those that earlier measurements left, so
      that `count` is an upper bound.
  """

  label: str
  count: int
  passes: float
  unit: str = "examples"
  of_survivors: bool = False


class TimeLeft:
  """Time left in a series of equal jobs, each of the same measurements.

  The measurement under way goes on at its own speed. Of the others, all passes
  count as equally long, and later jobs as what the current one is.
  Measurements that are skipped, because an earlier process made them, count
  neither as work nor as time.
  """

  def __init__(
    self,
    measurements: Sequence[Work],
    jobs: int,
    clock: Callable[[], float] = time.monotonic,
  ):
    """Starts the clock.

    Args:
      measurements: measurements of a job, in order.
      jobs: number of jobs.
      clock: seconds.
    """
    self._plan = {work.label: work for work in measurements}
    self._counts = {work.label: work.count for work in measurements}
    self._jobs_left = jobs
    self._clock, self._began = clock, clock()
    self._label_began = self._began
    self._made = 0.0  # Passes of finished measurements.
    self._current = 0.0  # Passes of the measurement under way.
    self._behind = 0.0  # Passes of this job up to the end of this measurement.
    self._own = 0.0  # Seconds left in the measurement under way.

  def unit(self, label: str) -> str:
    """The unit of a measurement; "examples" for an unknown one."""
    return self._plan[label].unit if label in self._plan else "examples"

  def at(self, label: str, done: float, total: int, resumed: int = 0) -> None:
    """Notes how far a measurement is.

    Args:
      label: name of the measurement; an unknown one changes nothing.
      done: number of items done, with parts of items.
      total: number of items.
      resumed: number of these that an earlier process did.
    """
    if label not in self._plan:
      return
    names = list(self._plan)
    place = names.index(label)
    for name in names[place:]:
      work = self._plan[name]
      if name == label or work.of_survivors:
        self._counts[name] = min(work.count, total)
    now = self._clock()
    self._current = self._plan[label].passes * (done - resumed)
    self._behind = sum(map(self._passes, names[: place + 1]))
    self._own = 0.0
    if done > resumed:
      speed = (now - self._label_began) / (done - resumed)
      self._own = (total - done) * speed
    if done >= total:
      self._made += self._current
      self._current = 0.0
      self._label_began = now

  def finish_job(self) -> None:
    """Notes the end of a job."""
    self._jobs_left -= 1
    self._behind = 0.0

  def seconds(self) -> float | None:
    """The time left; None before any work."""
    made = self._made + self._current
    if not made:
      return None
    whole = sum(map(self._passes, self._plan))
    others = max(self._jobs_left * whole - self._behind, 0.0)
    return self._own + others * (self._clock() - self._began) / made

  def _passes(self, name: str) -> float:
    return self._counts[name] * self._plan[name].passes


def duration(seconds: float) -> str:
  """A rough duration, for example "40 s", "12 min" or "3.5 h"."""
  if seconds < 90:
    return f"{seconds:.0f} s"
  if seconds < 5400:
    return f"{seconds / 60:.0f} min"
  return f"{seconds / 3600:.1f} h"
