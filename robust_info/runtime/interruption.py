"""Turns SIGTERM and Ctrl-C into a request to stop that a loop can poll."""

import functools
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_AGAIN = 0.01  # Seconds.


class Interrupted(RuntimeError):  # noqa: N818
  """Work stopped early, in good order, because of a signal; one line.

  Attributes:
    exit_code: 128 plus the number of the signal, as in shells: 143 for SIGTERM,
      130 for SIGINT.
  """

  def __init__(self, message: str, signal_number: int):
    super().__init__(message)
    self.exit_code = 128 + signal_number


class Stopped(KeyboardInterrupt):
  """SIGTERM or SIGINT arrived while nothing needed saving; one line.

  Not an Exception, so that no handler takes it for a failure of its own.

  Attributes:
    exit_code: see `Interrupted`.
    number: number of the signal.
  """

  def __init__(self, number: int):
    super().__init__(f"Stopped by {signal.Signals(number).name}.")
    self.exit_code = 128 + number
    self.number = number


def raise_stopped() -> None:
  """Makes SIGTERM and SIGINT raise `Stopped`, except in a `Watch`.

  Python drops exceptions in some places, for example in callbacks of the
  garbage collector, of which JAX has one. A signal that arrives there is sent
  again a moment later, and so is the second Ctrl-C in a `Watch`.

  Call it in the main thread of a program without handlers of its own.
  """

  def stop(number: int, frame: FrameType | None) -> None:
    del frame
    raise Stopped(number)

  for number in _SIGNALS:
    signal.signal(number, stop)
  sys.unraisablehook = functools.partial(_send_again, sys.unraisablehook)


def _send_again(otherwise: Callable[[Any], None], unraisable: Any) -> None:
  """Sends the signal of a dropped request again; a `sys.unraisablehook`.

  A dropped KeyboardInterrupt is the second Ctrl-C in a `Watch`.
  """
  error = unraisable.exc_value
  if not isinstance(error, KeyboardInterrupt):
    otherwise(unraisable)
    return
  number = error.number if isinstance(error, Stopped) else signal.SIGINT
  # Not from here: it would arrive in this hook, whose errors are dropped, too.
  timer = threading.Timer(_AGAIN, os.kill, (os.getpid(), number))
  timer.daemon = True
  timer.start()


class Watch:
  """Records the first SIGTERM or SIGINT instead of obeying it.

  Use as a context manager. A second SIGINT raises KeyboardInterrupt at once.
  Outside the main thread, where Python cannot handle signals, nothing is
  recorded.

  Attributes:
    received: number of the first signal; None before.
  """

  def __init__(self) -> None:
    self.received: int | None = None
    self._before: dict[int, Any] = {}

  def __enter__(self) -> "Watch":
    if threading.current_thread() is threading.main_thread():
      self._before = {
        number: signal.signal(number, self._note) for number in _SIGNALS
      }
    return self

  def __exit__(self, *exception: Any) -> None:
    for number, handler in self._before.items():
      signal.signal(number, handler)

  def _note(self, number: int, frame: FrameType | None) -> None:
    del frame
    if self.received is not None and number == signal.SIGINT:
      raise KeyboardInterrupt
    self.received = self.received or number
