"""Computes values ahead of their use, in another thread."""

import collections
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from typing import Any

import jax
import numpy as np

from robust_info.data import source


def batches_ahead(split: source.Split) -> int:
  """Number of batches of a split that another thread prepares during a step.

  0 on a CPU, except for images that must be decoded: the thread would take time
  from the step (measured: a tenth of that of the small CNN). Steps are
  dispatched without waiting for the one before, so that batches are made while
  a step runs in any case.
  """
  in_memory = isinstance(split.images, np.ndarray)
  return 0 if in_memory and jax.default_backend() == "cpu" else 2


def ahead(
  fn: Callable[[Any], Any], arguments: Iterable[Any], *, depth: int = 2
) -> Iterator[tuple[Any, Any]]:
  """(argument, fn(argument)) in order, computed while the caller works.

  Args:
    fn: function that one other thread calls for one argument after the other.
    arguments: arguments of `fn`, iterated over in the caller's thread.
    depth: maximum number of values that wait for the caller; 0 uses no other
      thread and computes each value on request.

  Returns:
    An iterator. It raises an error of `fn` in place of the value. Closing the
    iterator drops the remaining work.
  """
  if not depth:
    for argument in arguments:
      yield argument, fn(argument)
    return
  with futures.ThreadPoolExecutor(1, "ahead") as executor:
    waiting: collections.deque = collections.deque()
    try:
      for argument in arguments:
        waiting.append((argument, executor.submit(fn, argument)))
        if len(waiting) > depth:
          argument, future = waiting.popleft()
          yield argument, future.result()
      while waiting:
        argument, future = waiting.popleft()
        yield argument, future.result()
    finally:
      executor.shutdown(cancel_futures=True)
