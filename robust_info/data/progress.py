"""Progress of a long, countable job on stderr."""

import sys
import time
from collections.abc import Callable
from typing import TextIO

_TERMINAL_INTERVAL = 0.2
_PLAIN_INTERVAL = 5.0
_SILENCE = 1.0  # Jobs shorter than this say nothing.


class Progress:
  """Reports a count, its rate and the time left.

  A line rewritten in place on a terminal; elsewhere a plain line every five
  seconds. Jobs of less than a second stay silent.
  """

  def __init__(
    self,
    label: str,
    total: int,
    *,
    unit: str,
    stream: TextIO | None = None,
    clock: Callable[[], float] = time.monotonic,
  ):
    """Starts the clock.

    Args:
      label: what is going on, "decoding mnist train".
      total: count at the end.
      unit: what is counted, "images".
      stream: where to; stderr unless given.
      clock: seconds.
    """
    self._label = label
    self._total = total
    self._unit = unit
    self._stream = sys.stderr if stream is None else stream
    self._clock = clock
    self._terminal = self._stream.isatty()
    self._start = clock()
    self._interval = _TERMINAL_INTERVAL if self._terminal else _PLAIN_INTERVAL
    self._next = self._start + max(self._interval, _SILENCE)
    self._count = 0
    self._shown = False

  def advance(self, count: int) -> None:
    """Counts, and reports if it is time to."""
    self._count += count
    now = self._clock()
    if now >= self._next:
      left = (self._total - self._count) * (now - self._start) / self._count
      self._write(f"{left:.0f} s left", now)
      self._next = now + self._interval

  def close(self) -> None:
    """The last line, with the total time."""
    now = self._clock()
    if self._shown or now - self._start >= _SILENCE:
      self._write(f"in {now - self._start:.1f} s", now)
      if self._terminal:
        print(file=self._stream, flush=True)

  def _write(self, tail: str, now: float) -> None:
    rate = self._count / max(now - self._start, 1e-9)
    line = (
      f"{self._label}: {self._count:,}/{self._total:,} {self._unit}, "
      f"{rate:,.0f} {self._unit}/s, {tail}"
    )
    if self._terminal:
      print(f"\r\033[K{line}", end="", file=self._stream, flush=True)
    else:
      print(line, file=self._stream, flush=True)
    self._shown = True
