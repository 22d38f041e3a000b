import os
import signal
import sys
import threading
import time

import pytest

from robust_info.runtime import interruption


def send(number):
  os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_first_signal_is_noted_and_the_handler_comes_back(number):
  before = signal.getsignal(number)
  with interruption.Watch() as watch:
    assert watch.received is None
    send(number)
    assert watch.received == number
  assert signal.getsignal(number) is before


def test_first_signal_is_the_one_that_counts():
  with interruption.Watch() as watch:
    send(signal.SIGTERM)
    send(signal.SIGTERM)
    assert watch.received == signal.SIGTERM


def test_second_ctrl_c_is_immediate():
  with interruption.Watch() as watch:
    send(signal.SIGINT)
    assert watch.received == signal.SIGINT
    with pytest.raises(KeyboardInterrupt):
      send(signal.SIGINT)


def test_outside_the_main_thread_nothing_is_watched():
  before = signal.getsignal(signal.SIGTERM)
  seen = []

  def work():
    with interruption.Watch():
      seen.append(signal.getsignal(signal.SIGTERM))

  thread = threading.Thread(target=work)
  thread.start()
  thread.join()
  assert seen == [before]


@pytest.fixture
def stoppable(monkeypatch):
  """Signals raise `Stopped` in this test."""
  before = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)}
  monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
  interruption.raise_stopped()
  yield
  for known, handler in before.items():
    signal.signal(known, handler)


@pytest.mark.usefixtures("stoppable")
@pytest.mark.parametrize(("number", "code"), [(15, 143), (2, 130)])
def test_signal_outside_a_watch_is_no_failure_of_the_work(number, code):
  with interruption.Watch() as watch:
    send(number)
    assert watch.received == number
  with pytest.raises(interruption.Stopped, match="Stopped by SIG") as error:
    send(number)
  assert not isinstance(error.value, Exception)
  assert error.value.exit_code == code


@pytest.mark.usefixtures("stoppable")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_where_exceptions_are_dropped_stops_the_work(number):
  class Dropping:
    def __del__(self):
      send(number)

  def work():
    Dropping()
    time.sleep(2)

  with pytest.raises(interruption.Stopped) as error:
    work()
  assert error.value.number == number


@pytest.mark.usefixtures("stoppable")
def test_second_ctrl_c_where_exceptions_are_dropped_is_sent_again(capsys):
  class Dropping:
    def __del__(self):
      send(signal.SIGINT)

  def work():
    Dropping()
    time.sleep(2)

  with interruption.Watch():
    send(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
      work()
  assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("number", "code"), [(15, 143), (2, 130)])
def test_exit_code_is_that_of_shells(number, code):
  assert interruption.Interrupted("", number).exit_code == code
