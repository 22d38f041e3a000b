"""An append-only record of a long evaluation on disk.

Every part is a file of its own, written under another name and renamed, so a
process killed at any point leaves whole parts only. A header names what is
evaluated; a folder with another header is refused.
"""

import json
import os
import pathlib
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from robust_info.attacks import pool

_HEADER = "header.json"
_PART = "part-{:06d}.npz"
# A part is written at the latest this long after the last.
_SECONDS_PER_PART = 10.0


class Journal:
  """Parts of one evaluation, in the order they were written.

  Args:
    folder: made if missing.
    header: what identifies the evaluation, of JSON values. Compared with the
      folder's.

  Raises:
    ValueError: the folder belongs to another evaluation.
  """

  def __init__(self, folder: str | os.PathLike[str], header: dict[str, Any]):
    self._folder = pathlib.Path(folder)
    self._folder.mkdir(parents=True, exist_ok=True)
    path = self._folder / _HEADER
    if path.exists():
      known = json.loads(path.read_text())
      differing = sorted(
        name
        for name in known.keys() | header.keys()
        if known.get(name) != header.get(name)
      )
      if differing:
        name = differing[0]
        raise ValueError(
          f"Expected state_dir to hold this evaluation, got {self._folder} "
          f"with another {name} ({known.get(name)!r}, not "
          f"{header.get(name)!r}); remove the folder or choose another."
        )
    else:
      self._write(path, json.dumps(header, indent=1).encode())
    self._next = len(list(self._parts()))

  def _parts(self) -> Iterator[pathlib.Path]:
    number = 0
    while (path := self._folder / _PART.format(number)).exists():
      yield path
      number += 1

  def _write(self, path: pathlib.Path, content: bytes) -> None:
    waiting = path.with_name(path.name + ".waiting")
    with open(waiting, "wb") as file:
      file.write(content)
      file.flush()
      os.fsync(file.fileno())
    os.replace(waiting, path)

  def append(self, **arrays: np.ndarray) -> None:
    """Adds a part; durable when this returns."""
    path = self._folder / _PART.format(self._next)
    waiting = path.with_name(path.name + ".waiting")
    with open(waiting, "wb") as file:
      np.savez(file, **arrays)
      file.flush()
      os.fsync(file.fileno())
    os.replace(waiting, path)
    self._next += 1

  def read(self) -> Iterator[dict[str, np.ndarray]]:
    """Yields the parts written so far, oldest first."""
    for path in self._parts():
      with np.load(path) as part:
        yield dict(part)


def recorded(
  flow: Iterator[pool.Look],
  book: Journal | None,
  number: int,
  batch_size: int,
) -> Iterator[pool.Look]:
  """Passes everything on and writes it down, a part at a time.

  What was passed on and is not yet on disk are always fewer examples than
  `batch_size`.
  """
  waiting: list[pool.Finished] = []
  written = time.monotonic()

  def write():
    rows = [np.concatenate(field) for field in zip(*waiting, strict=True)]
    book.append(attack=np.array(number), **pool.Finished(*rows)._asdict())
    waiting.clear()

  for look in flow:
    if book is not None and len(look.finished.index):
      waiting.append(look.finished)
    late = time.monotonic() - written > _SECONDS_PER_PART
    full = sum(len(part.index) for part in waiting) >= batch_size
    if waiting and (late or full):
      write()
      written = time.monotonic()
    yield look
  if waiting:
    write()
