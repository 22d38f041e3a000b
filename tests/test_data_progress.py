"""Progress: plain lines off a terminal, one line rewritten on one."""

import io

import pytest

from robust_info.data import progress


class Clock:
  def __init__(self):
    self.now = 0.0

  def __call__(self):
    return self.now


class Terminal(io.StringIO):
  def isatty(self):
    return True


def run(stream, *, steps, seconds):
  clock = Clock()
  meter = progress.Progress(
    "decoding x", steps * 100, unit="images", stream=stream, clock=clock
  )
  for _ in range(steps):
    clock.now += seconds
    meter.advance(100)
  meter.close()
  return stream.getvalue()


def test_plain_lines_are_seldom_and_tell_rate_and_time_left():
  lines = run(io.StringIO(), steps=12, seconds=1.0).splitlines()
  assert lines == [
    "decoding x: 500/1,200 images, 100 images/s, 7 s left",
    "decoding x: 1,000/1,200 images, 100 images/s, 2 s left",
    "decoding x: 1,200/1,200 images, 100 images/s, in 12.0 s",
  ]


def test_a_terminal_gets_one_line_rewritten():
  text = run(Terminal(), steps=12, seconds=1.0)
  assert text.count("\n") == 1
  assert text.count("\r") == 13
  assert text.endswith("in 12.0 s\n")


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_short_jobs_say_nothing(stream):
  assert run(stream(), steps=9, seconds=0.1) == ""
