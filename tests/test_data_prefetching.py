import threading

import pytest

from robust_info import data


def test_values_come_in_order_whatever_the_depth():
  for depth in (0, 1, 2, 9):
    found = list(data.ahead(lambda k: k * k, range(5), depth=depth))
    assert found == [(k, k * k) for k in range(5)]


def test_the_next_value_is_made_while_the_caller_has_one():
  made = [threading.Event() for _ in range(4)]

  def make(k):
    made[k].set()

  for k, _ in data.ahead(make, range(4), depth=1):
    if k < 3:
      assert made[k + 1].wait(timeout=30)


def test_no_more_is_made_than_may_wait():
  made = []
  values = data.ahead(made.append, range(100), depth=2)
  next(values)
  values.close()
  assert made == [0, 1, 2][: len(made)]


def test_an_error_comes_up_where_its_value_would_have():
  values = data.ahead(lambda k: 1 // (2 - k), range(5))
  assert [next(values), next(values)] == [(0, 0), (1, 1)]
  with pytest.raises(ZeroDivisionError):
    next(values)
