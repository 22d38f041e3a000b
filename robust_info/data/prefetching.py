"""Work done ahead of its use, in another thread."""

import collections
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from typing import Any

import jax
import numpy as np

from robust_info.data import source


def batches_ahead(split: source.Split) -> int:
  """How many batches of a split another thread makes ready while a step runs.

  None on a CPU, but for images that are decoded: the thread would take its time
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
    fn: called in one other thread, for one argument after the other.
    arguments: iterated over in the caller's thread.
    depth: how many values may wait for the caller; 0 for no other thread, each
      value computed when it is asked for.

  Returns:
    An iterator. An error of `fn` comes up where its value would have. Work
    that nobody waits for any more is dropped when the iterator is closed.
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
