"""Checkpoints of training: saved in the background, verified when restored.

A checkpoint is a directory named by its step. It is written under another name
and renamed when complete, so that a process killed in the middle of a save
leaves the earlier checkpoints untouched. It holds

- `state`: the arrays of a pytree (PRNG keys as their data), and a list of its
  files with their CRC-32;
- `manifest`: JSON, with the caller's `progress` and validation metrics, with
  shape, dtype and CRC-32 of every array, and with a CRC-32 of its own.

This distinguishes a checkpoint of another model, a checkpoint damaged on the
disk, and a checkpoint that cannot be read now, from a good one and from each
other. A checkpoint is damaged only if its content differs from the content
saved. A checkpoint that cannot be read (no permission, a failing disk, too many
open files, no memory) ends the call with the reason, and nothing is moved,
removed or skipped. Checkpoints of older versions, without the list and the
CRC-32 of the manifest, can be read too.

The newest few checkpoints and the best by `score` are kept. An *interim*
checkpoint, an additional one because a process is about to end, is kept until
the next checkpoint.

In a training of several processes, only the first uses the directory. Each
process has the whole state, so that one copy is enough, and the other processes
need no shared file system. They receive a restored checkpoint from the first.
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
  """The contents of a restored checkpoint.

  Attributes:
    step: step at which it was saved.
    state: a pytree with the requested structure, on every device.
    progress: JSON value saved with it.
  """

  step: int
  state: Any
  progress: Any


class Store:
  """The checkpoints of one run.

  Use as a context manager; leaving it waits for the current save. Not
  thread-safe. With several processes, all make the same calls in the same
  order, and get the same values or errors; only leaving is not collective.
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
      directory: directory of the checkpoints; created if missing, unless
        `read_only`.
      keep_last: number of newest checkpoints to keep in addition to the best.
      read_only: whether to leave the directory unchanged: nothing is written,
        moved or removed, and a missing directory has no checkpoints. Later
        saves of other processes are not seen.

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
    """The steps of all complete checkpoints, in increasing order."""
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

    Waits for the previous save first. Checkpoints that need not be kept are
    removed once this one is complete.

    Args:
      step: number of the step, larger than the step of every existing
        checkpoint.
      state: a pytree of arrays, which may be PRNG keys.
      progress: any JSON value.
      metrics: validation metrics with the keys that `score` reads, if this
        checkpoint may become the best.
      interim: whether the checkpoint is interim: it does not count as one of
        the newest, and is removed after the next save.

    Raises:
      CheckpointError: there is a checkpoint of this or a later step; or this or
        the previous save failed, for example on a full disk. Earlier
        checkpoints are untouched, and the next save runs as if there had been
        no failure.
    """
    _on_first(
      lambda: self._local.save(
        step, state, progress=progress, metrics=metrics, interim=interim
      )
    )

  def wait(self) -> None:
    """Returns when the last save is complete.

    Raises:
      CheckpointError: the save failed.
    """
    _on_first(lambda: self._local.wait())

  def drop_interim(self) -> None:
    """Removes interim checkpoints, so that their steps can be saved again.

    Raises:
      CheckpointError: the removal or the current save failed.
    """
    _on_first(lambda: self._local.drop_interim())

  def restore(self, like: Any, *, which: str = LAST) -> Restored | None:
    """Restores the newest or the best intact checkpoint.

    A checkpoint with damaged content is reported by one line on stderr, which
    names it and the checkpoint restored instead: the one before it, or the next
    best. Unless `read_only`, it is moved to `damaged/` next to the directory,
    so that its step can be saved again. This happens only after an intact
    checkpoint is found.

    Args:
      like: a pytree of arrays or `jax.ShapeDtypeStruct`, with the structure of
        the result.
      which: choice of the checkpoint, `last` or `best`.

    Returns:
      The checkpoint, or None if there is no checkpoint at all.

    Raises:
      MismatchError: the checkpoint is of another model or optimiser.
      CheckpointError: there are checkpoints, but all are damaged; or one of
        them cannot be read. No checkpoint is moved.
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
    """Waits for the current save and closes."""
    if self._local is not None:
      self._local.close()

  def __enter__(self) -> "Store":
    return self

  def __exit__(self, *exception: Any) -> None:
    self.close()


def _on_first(fn: Callable[[], Any]) -> Any:
  return processes.on_first(fn, errors=(MismatchError, CheckpointError))
