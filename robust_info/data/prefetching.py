"""Work done ahead of its use, in another thread."""

import collections
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from typing import Any


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
