"""Progress of a training run on a terminal or in a log file."""

import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, TextIO

_TERMINAL_INTERVAL = 0.2
_PLAIN_INTERVAL = 20.0
_BAR_WIDTH = 20
# What a validation line shows, with its short name.
_SHOWN = {
  "accuracy": "clean",
  "robust_accuracy": "robust",
  "cckl": "CCKL",
  "mutual_information": "I(X;Y^)",
}


class Progress:
  """Steps, steps per second, and the time left.

  On a terminal one line is rewritten in place; elsewhere there is a plain
  line every twenty seconds. Each validation gets a line of its own in both.
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
      start: steps done before; not 0 in a resumed run.
      num_steps: steps at the end.
      steps_per_epoch: steps an epoch.
      stream: where to; stderr unless given.
      clock: seconds.
    """
    self._num_steps = num_steps
    self._steps_per_epoch = steps_per_epoch
    self._stream = sys.stderr if stream is None else stream
    self._clock = clock
    self._terminal = self._stream.isatty()
    self._interval = _TERMINAL_INTERVAL if self._terminal else _PLAIN_INTERVAL
    # Rates leave out the first step, which compiles.
    self._since = (start + 1, clock())
    self._first = start + 1
    self._next = clock() + self._interval

  def step(self, step: int, loss: float) -> None:
    """Notes a finished step, and reports it if it is time to."""
    now = self._clock()
    if step <= self._first:
      self._since = (step, now)
    if now < self._next:
      return
    self._next = now + self._interval
    filled = _BAR_WIDTH * step // self._num_steps
    bar = "#" * filled + "-" * (_BAR_WIDTH - filled)
    epochs = -(-self._num_steps // self._steps_per_epoch)
    epoch = min(step // self._steps_per_epoch + 1, epochs)
    line = f"epoch {epoch}/{epochs} [{bar}] step {step:,}/{self._num_steps:,}"
    line += f"  loss {loss:.4f}{self._rate(step, now)}"
    self._write(line, lasting=not self._terminal)

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
    self._write(line + self._rate(step, self._clock()), lasting=True)

  def message(self, text: str) -> None:
    """Writes a line as it is."""
    self._write(text, lasting=True)

  def _rate(self, step: int, now: float) -> str:
    first, since = self._since
    if step <= first or now <= since:
      return ""
    rate = (step - first) / (now - since)
    left = round((self._num_steps - step) / rate)
    return f"  {rate:.4g} steps/s  {left // 60}:{left % 60:02d} left"

  def _write(self, line: str, *, lasting: bool) -> None:
    if self._terminal:
      line = f"\r\033[K{line}"
    end = "\n" if lasting else ""
    print(line, end=end, file=self._stream, flush=True)
