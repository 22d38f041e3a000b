"""Checkpoints of training: saved in the background, found again whole.

A checkpoint is a directory named by its step, written under another name and
renamed when complete, so that a process killed in the middle of a save leaves
the checkpoints before it as they were. It holds

- `state`: the arrays of a pytree (PRNG keys as their data), and a list of its
  files with their CRC-32;
- `manifest`: JSON, with the caller's `progress` and validation metrics, with
  shape, dtype and CRC-32 of every array, and with a CRC-32 of its own.

So a checkpoint of another model, one damaged on the disk, and one that cannot
be read now are told from a good one and from each other. Damaged is only a
checkpoint whose content is not what was saved. One that cannot be read (no
permission, a failing disk, too many open files, no memory) ends the call with
its reason, and nothing is moved, removed or skipped. Checkpoints of older
versions, without list and CRC-32 of the manifest, are read too.

Kept are the newest few and the best by `score`. An *interim* checkpoint, saved
out of turn because a process is about to end, is kept until the next one.

Of a training of several processes the first alone touches the directory: each
process has the whole state, so one copy is all there is to write, and the
others need no shared file system. What is restored they get from the first.
"""

import dataclasses
import os
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from robust_info.runtime import processes, sharding
from robust_info.training import _manifest, checkpoint_directory

LAST, BEST = checkpoint_directory.LAST, checkpoint_directory.BEST
CheckpointError = checkpoint_directory.CheckpointError
MismatchError = checkpoint_directory.MismatchError
score = checkpoint_directory.score


@dataclasses.dataclass(frozen=True)
class Restored:
  """What came out of a checkpoint.

  Attributes:
    step: the step it was saved at.
    state: a pytree like the one asked for, on every device.
    progress: the JSON value saved beside it.
  """

  step: int
  state: Any
  progress: Any


class Store:
  """The checkpoints of one run.

  Use as a context manager; leaving it waits for the save under way. Not
  thread-safe. With several processes all make the same calls in the same
  order, and get the same values or errors; only leaving is for each alone.
  """

  def __init__(
    self,
    directory: str | os.PathLike[str],
    *,
    keep_last: int = 2,
    read_only: bool = False,
  ):
    """Opens a directory of checkpoints.

    Args:
      directory: made when missing, unless `read_only`.
      keep_last: how many of the newest are kept beside the best.
      read_only: nothing is written, moved or removed; a missing directory has
        no checkpoints. What another process saves later is not seen.

    Raises:
      CheckpointError: the directory or a manifest in it cannot be read.
    """
    self._local: checkpoint_directory.Directory | None = None

    def open_here() -> None:
      self._local = checkpoint_directory.Directory(
        directory, keep_last=keep_last, read_only=read_only
      )

    _on_first(open_here)

  def steps(self) -> list[int]:
    """The steps of all complete checkpoints, ascending."""
    return _on_first(lambda: self._local.steps())

  def best_steps(self) -> list[int]:
    """The steps of checkpoints with metrics, the best first."""
    return _on_first(lambda: self._local.best_steps())

  def save(
    self,
    step: int,
    state: Any,
    *,
    progress: Any = None,
    metrics: Mapping[str, float] | None = None,
    interim: bool = False,
  ) -> None:
    """Saves in the background; returns when `state` may be donated.

    Waits first for the save before this one. Checkpoints no longer to be kept
    are removed once this one is complete.

    Args:
      step: larger than the step of every checkpoint there is.
      state: a pytree of arrays; PRNG keys are welcome.
      progress: any JSON value.
      metrics: validation metrics with the keys `score` reads, if this
        checkpoint may become the best.
      interim: not one of the newest to be kept, and gone after the next.

    Raises:
      CheckpointError: there is a checkpoint of this or a later step; or this or
        the previous save failed, for example on a full disk. What was saved
        before is untouched, and the next save is made as if there had been no
        failure.
    """
    _on_first(
      lambda: self._local.save(
        step, state, progress=progress, metrics=metrics, interim=interim
      )
    )

  def wait(self) -> None:
    """Returns when the last save is complete.

    Raises:
      CheckpointError: it failed.
    """
    _on_first(lambda: self._local.wait())

  def drop_interim(self) -> None:
    """Removes interim checkpoints, so that their steps can be saved again.

    Raises:
      CheckpointError: that, or the save under way, failed.
    """
    _on_first(lambda: self._local.drop_interim())

  def restore(self, like: Any, *, which: str = LAST) -> Restored | None:
    """Restores the newest or the best checkpoint that is whole.

    A checkpoint with damaged content costs one line on stderr that names it
    and the one restored in its place: the one before it, or the next best.
    Unless `read_only`, it is moved to `damaged/` beside the directory, so that
    its step can be saved again. This happens only once a whole one is found.

    Args:
      like: a pytree of arrays or `jax.ShapeDtypeStruct`, the structure to
        give back.
      which: `last` or `best`.

    Returns:
      The checkpoint, or None when there is none at all.

    Raises:
      MismatchError: the checkpoint is of another model or optimiser.
      CheckpointError: there are checkpoints, but all are damaged; or one of
        them cannot be read. All are left where they are.
    """
    abstract = jax.tree.map(_manifest.abstract, like)
    host = None

    def find() -> tuple[int, Any] | None:
      nonlocal host
      found = self._local.restore(abstract, which)
      if found is None:
        return None
      step, host, progress = found
      return step, progress

    found = _on_first(find)
    if found is None:
      return None
    if host is None:
      host = jax.tree.map(
        lambda leaf: np.zeros(leaf.shape, leaf.dtype), abstract
      )
    step, progress = found
    state = sharding.replicate(processes.from_first(host), like)
    return Restored(step, state, progress)

  def close(self) -> None:
    """Waits for the save under way and closes."""
    if self._local is not None:
      self._local.close()

  def __enter__(self) -> "Store":
    return self

  def __exit__(self, *exception: Any) -> None:
    self.close()


def _on_first(fn: Callable[[], Any]) -> Any:
  return processes.on_first(fn, errors=(MismatchError, CheckpointError))
