"""An append-only record of a long evaluation on disk.

There is one file per part, written under another name and then renamed, so a
process killed at any point leaves only whole parts. A header identifies the
evaluation, and the clean logits are stored next to it; a folder of another
network or with another header is refused. Shape letters: N examples, C classes.
"""

import hashlib
import json
import os
import pathlib
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from robust_info.attacks.autoattack import pool, standing
from robust_info.runtime import files

_HEADER = "header.json"
_CLEAN = "clean.npy"
# Largest difference between the clean logits of one network on two machines or
# with two batch sizes, relative to the largest logit.
_ROUNDING = 1e-3
_PART = "part-{:06d}.npz"
# The next part is due this many seconds after the last, even if it is small.
_SECONDS_PER_PART = 10.0


def _digest(*arrays: Any) -> str:
  """Checksum of shapes, types and values, to the last bit."""
  found = hashlib.sha256()
  for leaf in arrays:
    if isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(
      leaf.dtype, jax.dtypes.prng_key
    ):
      leaf = jax.random.key_data(leaf)
    array = np.ascontiguousarray(leaf)
    found.update(f"{array.dtype}{array.shape}".encode())
    found.update(array.tobytes())
  return found.hexdigest()[:16]


def header(
  logits_fn: jax.tree_util.Partial,
  clean: np.ndarray,
  data: standing.Data,
  key: jax.Array,
  settings: dict[str, Any],
) -> dict[str, Any]:
  """Identifies an evaluation by its settings and checksums of its inputs.

  A network is identified by its parameters, the leaves of the `Partial`, so
  that the evaluation may resume on another machine or with another batch size.
  A function without leaves shows only its outputs, so its clean logits have to
  agree to the last bit.

  Args:
    logits_fn: network.
    clean: [N, C] clean logits.
    data: data set to attack.
    key: PRNG key of the evaluation.
    settings: other settings of the evaluation, JSON values by name.

  Returns:
    JSON values by name.
  """
  leaves = jax.tree.leaves(logits_fn)
  radii = np.unique(data.epsilon)
  return {
    "network": _digest(*leaves) if leaves else _digest(clean),
    "inputs": _digest(data.x),
    "labels": _digest(data.y),
    "mask": _digest(data.where),
    "example_ids": _digest(data.ids),
    "key": _digest(key),
    "epsilon": float(radii[0]) if len(radii) == 1 else _digest(data.epsilon),
    **settings,
  }


class Journal:
  """Parts of one evaluation, in the order they were written.

  Args:
    folder: folder of the parts, made if missing.
    header: identity of the evaluation, JSON values by name. It has to be the
      folder's.
    clean: [N, C] clean logits. They have to be the folder's up to rounding, a
      thousandth of the largest, because equal parameters do not imply an equal
      network.

  Attributes:
    clean: [N, C] clean logits of the folder. A resumed evaluation uses the
      logits with which it began, or it could differ in a last digit.

  Raises:
    ValueError: the folder belongs to another evaluation.
  """

  def __init__(
    self,
    folder: str | os.PathLike[str],
    header: dict[str, Any],
    clean: np.ndarray,
  ):
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
      self.clean = np.load(self._folder / _CLEAN)
      size = np.max(np.abs(clean), where=np.isfinite(clean), initial=0)
      if clean.shape != self.clean.shape or not np.allclose(
        clean, self.clean, rtol=0, atol=_ROUNDING * size, equal_nan=True
      ):
        raise ValueError(
          f"Expected state_dir to hold this evaluation, got {self._folder} "
          "with other clean logits: the parameters are the same, the function "
          "is not; remove the folder or choose another."
        )
    else:
      # Write the header last, so that a folder with a header is complete.
      self.clean = clean
      with files.replacing(self._folder / _CLEAN) as file:
        np.save(file, clean)
      files.write_whole(path, json.dumps(header, indent=1))
    self._next = len(list(self._parts()))

  def _parts(self) -> Iterator[pathlib.Path]:
    number = 0
    while (path := self._folder / _PART.format(number)).exists():
      yield path
      number += 1

  def append(self, **arrays: np.ndarray) -> None:
    """Adds a part, which is on disk when this method returns."""
    with files.replacing(self._folder / _PART.format(self._next)) as file:
      np.savez(file, **arrays)
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
  """Passes every look on and records its examples, one part at a time.

  Fewer than `batch_size` examples have been passed on and are not yet on disk
  at any time.
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
