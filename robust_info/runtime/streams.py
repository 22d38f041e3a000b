"""Standard output and standard error, which may be closed, full or gone.

Work of hours must not end because a line cannot be shown: lines on standard
error are dropped where they cannot be written. Standard output is for results.
"""

import contextlib
import gc
import io
import os
import sys
import threading
from collections.abc import Iterator
from typing import NoReturn, TextIO


def prepare() -> None:
  """Makes the streams of a program usable, however it was started.

  A program that was started without a stream (`2>&-`) gets an empty one: the
  next file that it opens would take the place of standard error, and receive
  the messages of libraries. Characters that the encoding lacks are escaped.
  """
  for number, name in ((1, "stdout"), (2, "stderr")):
    try:
      os.fstat(number)
    except OSError:
      _discard(number)
    if getattr(sys, name) is None:
      empty = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
      setattr(sys, name, empty)
    stream = getattr(sys, name)
    if isinstance(stream, io.TextIOWrapper):  # Not in a notebook.
      stream.reconfigure(errors="backslashreplace")


def write(text: str, stream: TextIO | None) -> None:
  """Writes to a stream; drops the text where the stream takes none.

  Args:
    text: the text, with its end of line.
    stream: for example `sys.stderr`, which is None in some programs.
  """
  if stream is None:
    return
  # A ValueError if it is closed.
  with contextlib.suppress(OSError, ValueError):
    stream.write(text)
    stream.flush()


def note(text: str) -> None:
  """Writes one line to standard error, if it takes one."""
  write(f"{text}\n", sys.stderr)


def say(text: str) -> None:
  """Prints a result to standard output.

  A reader that has left is no error: `head` saw enough.

  Raises:
    OSError: standard output cannot be written, for example on a full disk.
  """
  try:
    print(text, flush=True)
  except OSError as error:
    # Or the exit would try again.
    _discard(sys.stdout.fileno())
    if not isinstance(error, BrokenPipeError):
      raise OSError(
        f"Cannot write to standard output: {error.strerror}."
      ) from error


def settle() -> None:
  """Drops lines that standard error did not take, before the program exits.

  Python would end with exit code 120 because of them.
  """
  if sys.stderr is None or sys.stderr.closed:
    return
  try:
    sys.stderr.flush()
  except OSError:
    _discard(sys.stderr.fileno())


@contextlib.contextmanager
def prompt_exit() -> Iterator[None]:
  """Lets no garbage delay an exit, and no thread of a library after an error.

  Python collects garbage among all objects before it exits, which takes half a
  second once this package is imported. It also waits for threads: after a save
  that failed, threads of Orbax wait ten minutes for the rest of it. Around a
  whole program only: after an error the process may end at once.
  """
  try:
    yield
  except SystemExit as error:
    here = threading.current_thread()
    held = not all(t.daemon for t in threading.enumerate() if t is not here)
    if held and isinstance(error.code, int) and error.code:
      leave(error.code)
    raise
  finally:
    gc.freeze()


def leave(code: int) -> NoReturn:
  """Ends the process at once, without the clean-up of the interpreter."""
  for stream in (sys.stdout, sys.stderr):
    write("", stream)
  os._exit(code)


def _discard(number: int) -> None:
  """Makes a file descriptor an empty one."""
  empty = os.open(os.devnull, os.O_WRONLY)
  if empty != number:
    os.dup2(empty, number)
    os.close(empty)
