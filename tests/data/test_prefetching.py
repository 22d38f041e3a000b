import threading

import jax
import numpy as np
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


def test_only_what_is_decoded_is_made_ahead_on_a_cpu(monkeypatch):
  class Decoded:
    dtype, ndim, shape = np.dtype(np.uint8), 4, (2, 4, 4, 1)

  labels = np.zeros(2, np.int32)
  decoded = data.Split(Decoded(), labels)
  in_memory = data.Split(np.zeros(Decoded.shape, np.uint8), labels)
  monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
  assert data.batches_ahead(in_memory) == 0
  assert data.batches_ahead(decoded) == 2
  monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
  assert data.batches_ahead(in_memory) == 2
