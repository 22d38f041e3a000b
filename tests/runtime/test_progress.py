"""Progress: plain lines off a terminal, one rewritten line on it."""

import io

import pytest

from robust_info.runtime import progress


class Terminal(io.StringIO):
  def isatty(self):
    return True


class Clock:
  def __init__(self):
    self.now = 0.0

  def __call__(self):
    return self.now


def make(stream, start=0):
  clock = Clock()
  report = progress.StepProgress(
    start=start, num_steps=100, steps_per_epoch=10, stream=stream, clock=clock
  )
  return report, clock


def test_rate_and_time_left_leave_out_the_first_step():
  stream = io.StringIO()
  report, clock = make(stream)
  clock.now = 30.0  # Compilation takes this time.
  report.step(1, 2.0)
  clock.now = 55.0
  report.step(51, 1.5)
  assert stream.getvalue().splitlines()[-1] == (
    "epoch 6/10 [##########----------] step 51/100  loss 1.5000  "
    "2 steps/s  0:24 left"
  )


def test_resumed_run_counts_its_own_steps():
  stream = io.StringIO()
  report, clock = make(stream, start=50)
  clock.now = 1.0
  report.step(51, 2.0)
  clock.now = 25.5
  report.step(100, 2.0)
  assert stream.getvalue().endswith("2 steps/s  0:00 left\n")


def test_plain_lines_are_rare_and_a_terminal_line_is_rewritten():
  for stream, lasting in ((io.StringIO(), True), (Terminal(), False)):
    report, clock = make(stream)
    for step in range(1, 100):
      clock.now += 0.5
      report.step(step, 1.0)
    text = stream.getvalue()
    if lasting:
      assert len(text.splitlines()) == 2
      assert "\r" not in text
    else:
      assert "\n" not in text
      assert text.count("\r\033[K") > 50


def test_validation_and_messages_always_get_a_line():
  for stream in (io.StringIO(), Terminal()):
    report, _ = make(stream)
    report.validation(
      20, {"accuracy": 0.5, "robust_accuracy": 0.25, "other": 1.0}
    )
    report.message("Done.")
    lines = stream.getvalue().strip("\n").split("\n")
    assert "epoch 2/10  validation: clean 0.5  robust 0.25" in lines[-2]
    assert "other" not in lines[-2]
    assert lines[-1].endswith("Done.")


def count(stream, *, steps, seconds):
  clock = Clock()
  meter = progress.CountProgress(
    "decoding x", steps * 100, unit="images", stream=stream, clock=clock
  )
  for _ in range(steps):
    clock.now += seconds
    meter.advance(100)
  meter.close()
  return stream.getvalue()


def test_plain_counts_are_seldom_and_tell_rate_and_time_left():
  lines = count(io.StringIO(), steps=12, seconds=1.0).splitlines()
  assert lines == [
    "decoding x: 500/1,200 images, 100 images/s, 7 s left",
    "decoding x: 1,000/1,200 images, 100 images/s, 2 s left",
    "decoding x: 1,200/1,200 images, 100 images/s, in 12.0 s",
  ]


def test_the_rate_of_a_resumed_count_is_its_own_and_notes_come_last():
  stream, clock = io.StringIO(), Clock()
  meter = progress.CountProgress(
    "x", 1000, unit="rows", start=900, stream=stream, clock=clock
  )
  for seconds, count, under_way, note in (
    (6, 0, 0.0, "a"),
    (12, 0, 4.0, "b"),
    (18, 20, 16.0, "c"),
    (50, 80, 0.0, "d"),
  ):
    clock.now = seconds
    meter.advance(count, under_way=under_way, note=note)
  meter.close()
  assert stream.getvalue().splitlines() == [
    "x: 900/1,000 rows, 0.0 rows/s, ? s left, a",
    "x: 900/1,000 rows, 0.0 rows/s, 288 s left, b",
    "x: 920/1,000 rows, 1.1 rows/s, 32 s left, c",
    "x: 1,000/1,000 rows, 2.0 rows/s, 0 s left, d",
    "x: 1,000/1,000 rows, 2.0 rows/s, in 50.0 s, d",
  ]


def test_a_count_on_a_terminal_is_one_line_rewritten():
  text = count(Terminal(), steps=12, seconds=1.0)
  assert text.count("\n") == 1
  assert text.count("\r") == 13
  assert text.endswith("in 12.0 s\n")


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_short_counts_say_nothing(stream):
  assert count(stream(), steps=9, seconds=0.1) == ""


def test_time_left_covers_all_jobs_and_learns_how_many_are_left():
  clock = Clock()
  left = progress.TimeLeft(
    [
      progress.Work("norms", 10, 4.0),
      progress.Work("first attack", 10, 6.0, of_survivors=True),
      progress.Work("second attack", 10, 20.0, of_survivors=True),
    ],
    jobs=2,
    clock=clock,
  )
  assert left.seconds() is None
  clock.now = 2.0
  left.at("norms", 5, 10)
  assert left.seconds() == pytest.approx(2 * (600 - 20) / 20)
  clock.now = 4.0
  left.at("norms", 10, 10)
  # Half of the examples are wrong without an attack: no attack gets them.
  left.at("first attack", 2.5, 5)
  assert left.seconds() == pytest.approx(4 * (2 * 170 - 70) / 55)
  clock.now = 5.0
  left.at("first attack", 5, 5)
  # The second attack was made by an earlier process.
  left.finish_job()
  assert left.seconds() == pytest.approx(5 * 170 / 70)
  # So were the norms of the second job, and an example of the first attack,
  # which gets more examples here.
  clock.now = 6.0
  left.at("first attack", 2, 8, resumed=1)
  assert left.seconds() == pytest.approx(6 + 6 * 160 / 76)
  left.at("an unknown one", 1, 2)
  assert left.seconds() == pytest.approx(6 + 6 * 160 / 76)
  left.at("first attack", 8, 8, resumed=1)
  left.at("second attack", 8, 8)
  left.finish_job()
  assert left.seconds() == 0


@pytest.mark.parametrize(
  ("seconds", "text"), [(89.4, "89 s"), (100, "2 min"), (6000, "1.7 h")]
)
def test_durations_are_rough(seconds, text):
  assert progress.duration(seconds) == text
