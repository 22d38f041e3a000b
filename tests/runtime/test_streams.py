"""Standard streams that are closed, full, gone, or of a small encoding."""

import contextlib
import gc
import io
import os
import sys
import threading
import types

import pytest

from robust_info.runtime import progress, streams


@contextlib.contextmanager
def opened(descriptor, encoding="utf-8"):
  """A stream on a file descriptor, as a program has it."""
  stream = open(descriptor, "w", encoding=encoding, closefd=False)  # noqa: SIM115
  yield stream
  with contextlib.suppress(OSError, ValueError):
    stream.close()


@pytest.fixture
def gone():
  """A pipe whose reader has left."""
  reader, writer = os.pipe()
  os.close(reader)
  yield writer
  os.close(writer)


@pytest.fixture
def full():
  device = os.open("/dev/full", os.O_WRONLY)
  yield device
  os.close(device)


@pytest.mark.parametrize("kind", ["none", "gone", "full", "closed"])
def test_progress_that_cannot_be_shown_ends_no_work(request, monkeypatch, kind):
  with contextlib.ExitStack() as held:
    stream = None
    if kind == "closed":
      stream = io.StringIO()
      stream.close()
    elif kind != "none":
      descriptor = request.getfixturevalue(kind)
      stream = held.enter_context(opened(descriptor))
    monkeypatch.setattr(sys, "stderr", stream)
    if kind == "closed":
      streams.note("one line")
    else:
      report = progress.StepProgress(start=0, num_steps=9, steps_per_epoch=3)
      report.message("one line")
    streams.settle()


def test_result_for_a_reader_that_has_left_is_no_error(monkeypatch, gone):
  with opened(gone) as stream:
    monkeypatch.setattr(sys, "stdout", stream)
    streams.say("a table")
    stream.flush()  # As at the exit.


def test_result_that_is_lost_is_an_error_that_says_so(monkeypatch, full):
  with opened(full) as stream:
    monkeypatch.setattr(sys, "stdout", stream)
    with pytest.raises(OSError, match=r"standard output: No space left .*\.$"):
      streams.say("a table")


def test_program_without_streams_gets_empty_ones(monkeypatch):
  # The descriptors of the test itself stay as they are.
  discarded, fstat = [], os.fstat
  monkeypatch.setattr(streams, "_discard", discarded.append)

  def closed(number):
    if number in (1, 2):
      raise OSError(f"{number} is closed")
    return fstat(number)

  with monkeypatch.context() as patch:
    patch.setattr(os, "fstat", closed)
    patch.setattr(sys, "stdout", None)
    patch.setattr(sys, "stderr", None)
    streams.prepare()
    print("a result")
    print("a line", file=sys.stderr)
    made = sys.stdout, sys.stderr
  for stream in made:
    assert stream.name == os.devnull
    stream.close()
  assert discarded == [1, 2]


def test_characters_that_the_encoding_lacks_are_escaped(monkeypatch, tmp_path):
  with open(tmp_path / "out", "w+", encoding="ascii") as stream:
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(io.BytesIO()))
    streams.prepare()
    streams.say("20.0 % ± 7.4")
    stream.seek(0)
    assert stream.read() == "20.0 % \\xb1 7.4\n"


def test_streams_of_a_notebook_are_taken_as_they_are(monkeypatch):
  monkeypatch.setattr(sys, "stdout", io.StringIO())
  monkeypatch.setattr(sys, "stderr", io.StringIO())
  streams.prepare()
  streams.say("a table")
  assert sys.stdout.getvalue() == "a table\n"


def test_process_that_ends_at_once_has_said_everything(monkeypatch):
  left, raw = [], io.BytesIO()
  monkeypatch.setattr(os, "_exit", left.append)
  monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw))
  sys.stdout.write("a result")
  assert not raw.getvalue()
  streams.leave(143)
  assert raw.getvalue() == b"a result"
  assert left == [143]


@pytest.mark.parametrize(
  ("code", "daemon", "left"),
  [(1, False, [1]), (143, False, [143]), (1, True, []), (0, False, [])],
)
def test_threads_of_libraries_do_not_hold_an_exit_with_an_error(
  monkeypatch, code, daemon, left
):
  others = [types.SimpleNamespace(daemon=daemon), threading.current_thread()]
  monkeypatch.setattr(threading, "enumerate", lambda: others)
  codes = []
  monkeypatch.setattr(streams, "leave", codes.append)
  with pytest.raises(SystemExit), streams.prompt_exit():
    sys.exit(code)
  assert codes == left


def test_an_exit_collects_no_garbage_among_all_objects():
  before = gc.get_freeze_count()
  kept = [[] for _ in range(10)]
  with streams.prompt_exit():
    pass
  assert gc.get_freeze_count() >= before + len(kept)
