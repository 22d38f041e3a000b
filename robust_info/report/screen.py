"""Progress of a report on stderr, or none."""

import time
from collections.abc import Callable, Sequence

from robust_info.runtime import processes, progress, streams


class Silent:
  """No progress."""

  def __init__(self, work: Sequence[progress.Work], num_networks: int):
    """Same arguments as `Shown`."""
    del work, num_networks

  def ticks(self, name: str) -> progress.Ticks:
    """No progress of any measurement."""
    del name
    return lambda label: None

  def measured(self, number: int, total: int) -> None:
    """Says nothing."""


class Shown:
  """Progress of each measurement, and the time left for the whole report."""

  def __init__(
    self,
    work: Sequence[progress.Work],
    num_networks: int,
    clock: Callable[[], float] = time.monotonic,
  ):
    """Starts the clock.

    Args:
      work: measurements of a network, in order.
      num_networks: number of networks.
      clock: seconds.
    """
    self._left = progress.TimeLeft(work, num_networks, clock)
    self._clock = clock

  def measured(self, number: int, total: int) -> None:
    """Says how long the networks after this one will take."""
    self._left.finish_job()
    if number == total or not processes.is_first():
      return
    line = f"{number} of {total} networks measured"
    if (seconds := self._left.seconds()) is not None:
      line += f", about {progress.duration(seconds)} left"
    streams.note(line)

  def ticks(self, name: str) -> progress.Ticks:
    """Progress of each measurement of a network."""

    def start(label: str) -> progress.Tick | None:
      if not processes.is_first():
        return None
      shown = None
      before = 0

      def tick(
        done: int,
        total: int,
        *,
        resumed: int = 0,
        under_way: float = 0.0,
        note: str = "",
      ) -> None:
        nonlocal shown, before
        if shown is None:
          shown = progress.CountProgress(
            f"{name}: {label}",
            total,
            unit=self._left.unit(label),
            start=resumed,
            clock=self._clock,
          )
          before = resumed
        self._left.at(label, done + under_way, total, resumed)
        shown.advance(
          done - before, under_way=under_way, note=self._with_time_left(note)
        )
        before = done
        if done == total:
          shown.close()

      return tick

    return start

  def _with_time_left(self, note: str) -> str:
    seconds = self._left.seconds()
    if seconds is None:
      return note
    left = f"whole report about {progress.duration(seconds)} left"
    return f"{note}, {left}" if note else left
