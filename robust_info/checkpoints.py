"""Checkpoints of training: saved in the background, found again whole.

The one file that knows Orbax. A checkpoint is a directory named by its step,
written under another name and renamed when complete, so that a process killed
in the middle of a save leaves the checkpoints before it as they were. It
holds

- `state`: the arrays of a pytree (PRNG keys as their data);
- `manifest`: JSON, with the caller's `progress` and validation metrics, and
  with shape, dtype and CRC-32 of every array, so that a checkpoint of another
  model, or one damaged on the disk, is told from a good one.

Kept are the newest few and the best by `score`. An *interim* checkpoint, saved
out of turn because a process is about to end, is kept until the next one.

Of a training of several processes the first alone touches the directory: each
process has the whole state, so one copy is all there is to write, and the
others need no shared file system. What is restored they get from the first.
"""

import contextlib
import copy
import dataclasses
import math
import os
import pathlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from robust_info import leaf_manifest, processes, sharding

LAST, BEST = "last", "best"
# Orbax must not wait for processes that take no part.
_FIRST_ALONE = ocp.options.MultiprocessingOptions(
  primary_host=0, active_processes={0}, barrier_sync_key_prefix="first"
)


class CheckpointError(RuntimeError):
  """A checkpoint cannot be saved or restored; one line."""


class MismatchError(CheckpointError):
  """A sound checkpoint of something else; one line."""


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


def score(metrics: Mapping[str, float]) -> tuple[float, float]:
  """What makes a checkpoint the best: robust, then clean accuracy.

  Args:
    metrics: holds `robust_accuracy` and `accuracy`, of the validation split.
      NaN counts as minus infinity. Among equals the newest is the best.
  """
  values = (metrics["robust_accuracy"], metrics["accuracy"])
  robust, clean = (-math.inf if math.isnan(v) else v for v in values)
  return robust, clean


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
    """
    # Orbax wants an absolute path.
    self._directory = pathlib.Path(directory).absolute()
    self._read_only = read_only
    self._scores: dict[int, tuple[float, float]] = {}
    self._interim: set[int] = set()
    self._manager = None
    _on_first(lambda: self._open(keep_last))

  def _open(self, keep_last: int) -> None:
    if self._read_only and not self._directory.is_dir():
      return
    with _one_line("open", self._directory):
      # Orbax makes no directory for some of the processes.
      if not self._read_only:
        self._directory.mkdir(parents=True, exist_ok=True)
      self._manager = ocp.CheckpointManager(
        self._directory,
        options=ocp.CheckpointManagerOptions(
          preservation_policy=policies.AnyPreservationPolicy(
            [
              policies.LatestN(1),
              _Latest(keep_last, self._interim),
              _Best(self._scores),
            ]
          ),
          create=False,
          cleanup_tmp_directories=not self._read_only,
          multiprocessing_options=_FIRST_ALONE,
        ),
        item_handlers={
          "state": ocp.StandardCheckpointHandler(
            multiprocessing_options=_FIRST_ALONE
          ),
          "manifest": ocp.JsonCheckpointHandler(
            multiprocessing_options=_FIRST_ALONE
          ),
        },
      )
    for step in self._steps():
      # A damaged manifest is reported when its checkpoint is restored.
      with contextlib.suppress(Exception):
        manifest = self._manifest(step)
        self._note(step, manifest["metrics"], manifest["interim"])

  def steps(self) -> list[int]:
    """The steps of all complete checkpoints, ascending."""
    return _on_first(self._steps)

  def best_steps(self) -> list[int]:
    """The steps of checkpoints with metrics, the best first."""
    return _on_first(self._best_steps)

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
      step: larger than every step saved.
      state: a pytree of arrays; PRNG keys are welcome.
      progress: any JSON value.
      metrics: validation metrics with the keys `score` reads, if this
        checkpoint may become the best.
      interim: not one of the newest to be kept, and gone after the next.

    Raises:
      CheckpointError: this or the previous save failed, for example on a full
        disk; what was saved before is untouched.
    """
    _on_first(lambda: self._save(step, state, progress, metrics, interim))

  def _save(
    self,
    step: int,
    state: Any,
    progress: Any,
    metrics: Mapping[str, float] | None,
    interim: bool,
  ) -> None:
    # Copies: the caller goes on with both while they are being written.
    host = jax.tree.map(
      lambda leaf: np.array(leaf_manifest.key_data(leaf)), state
    )
    manifest = {
      "progress": copy.deepcopy(progress),
      "metrics": None if metrics is None else dict(metrics),
      "interim": interim,
      "leaves": leaf_manifest.describe(host),
    }
    self._note(step, metrics, interim)
    with _one_line("save", self._directory / str(step)):
      self._manager.save(
        step,
        args=ocp.args.Composite(
          state=ocp.args.StandardSave(host),
          manifest=ocp.args.JsonSave(manifest),
        ),
      )

  def wait(self) -> None:
    """Returns when the last save is complete.

    Raises:
      CheckpointError: it failed.
    """
    _on_first(self._wait)

  def drop_interim(self) -> None:
    """Removes interim checkpoints, so that their steps can be saved again.

    Raises:
      CheckpointError: that, or the save under way, failed.
    """
    _on_first(self._drop_interim)

  def restore(self, like: Any, *, which: str = LAST) -> Restored | None:
    """Restores the newest or the best checkpoint that is whole.

    A truncated or otherwise damaged checkpoint costs one line on stderr, and
    the next one is tried: the one before it, or the next best. Unless
    `read_only`, the damaged one is moved to `damaged/` beside the directory,
    so that its step can be saved again.

    Args:
      like: a pytree of arrays or `jax.ShapeDtypeStruct`, the structure to
        give back.
      which: `last` or `best`.

    Returns:
      The checkpoint, or None when there is none at all.

    Raises:
      MismatchError: the checkpoint is of another model or optimiser.
      CheckpointError: there are checkpoints, but all are damaged.
    """
    abstract = jax.tree.map(leaf_manifest.abstract, like)
    host = None

    def find() -> tuple[int, Any] | None:
      nonlocal host
      found = self._restore(abstract, which)
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
    if self._manager is not None:
      self._wait()
      self._manager.close()

  def __enter__(self) -> "Store":
    return self

  def __exit__(self, *exception: Any) -> None:
    self.close()

  def _steps(self) -> list[int]:
    return [] if self._manager is None else sorted(self._manager.all_steps())

  def _best_steps(self) -> list[int]:
    return _ranked(self._scores, self._steps())

  def _wait(self) -> None:
    if self._manager is not None:
      with _one_line("save", self._directory):
        self._manager.wait_until_finished()

  def _drop_interim(self) -> None:
    self._wait()
    with _one_line("remove", self._directory):
      for step in self._interim & {*self._steps()}:
        self._manager.delete(step)

  def _restore(self, abstract: Any, which: str) -> tuple[int, Any, Any] | None:
    """Step, arrays and progress of the checkpoint, on the first process."""
    steps = self._best_steps() if which == BEST else self._steps()[::-1]
    for step in steps:
      try:
        return step, *self._read(step, abstract)
      except MismatchError:
        raise
      # Anything can come out of a damaged file.
      except Exception as error:
        print(
          f"Warning: checkpoint {self._directory / str(step)} is damaged "
          f"({_short(error)}); trying the one before it.",
          file=sys.stderr,
        )
        self._set_aside(step)
    if steps:
      raise CheckpointError(
        f"Every checkpoint in {self._directory} is damaged (steps "
        f"{', '.join(map(str, steps))}); start again in another workdir."
      )
    return None

  def _manifest(self, step: int) -> dict[str, Any]:
    return self._manager.restore(
      step, args=ocp.args.Composite(manifest=ocp.args.JsonRestore())
    ).manifest

  def _note(
    self, step: int, metrics: Mapping[str, float] | None, interim: bool
  ) -> None:
    if interim:
      self._interim.add(step)
    else:
      self._interim.discard(step)
    if metrics is not None:
      self._scores[step] = score(metrics)

  def _read(self, step: int, abstract: Any) -> tuple[Any, Any]:
    manifest = self._manifest(step)
    problem = leaf_manifest.difference(manifest["leaves"], abstract)
    if problem is not None:
      raise MismatchError(
        f"Checkpoint {self._directory / str(step)} is of another model or "
        f"optimiser: {problem}; restore it with the configuration it was "
        "trained with."
      )
    host = self._manager.restore(
      step,
      args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract)),
    ).state
    found = leaf_manifest.describe(host)
    for name, leaf in manifest["leaves"].items():
      if found[name] != leaf:
        raise CheckpointError(f"the checksum of {name} is wrong")
    return host, manifest["progress"]

  def _set_aside(self, step: int) -> None:
    if self._read_only:
      return
    shelf = self._directory.parent / "damaged"
    shelf.mkdir(exist_ok=True)
    number = sum(1 for _ in shelf.glob(f"{step}-*"))
    (self._directory / str(step)).rename(shelf / f"{step}-{number}")
    self._manager.reload()


@dataclasses.dataclass(frozen=True)
class _Latest:
  """Orbax preservation policy: the newest few that are not interim."""

  count: int
  interim: Set[int]

  def should_preserve(
    self, checkpoints: Sequence[Any], *, context: Any
  ) -> Sequence[bool]:
    del context
    steps = [checkpoint.step for checkpoint in checkpoints]
    kept = sorted(step for step in steps if step not in self.interim)
    return [step in kept[-self.count :] for step in steps]


@dataclasses.dataclass(frozen=True)
class _Best:
  """Orbax preservation policy: the checkpoint with the best score so far."""

  scores: Mapping[int, tuple[float, float]]

  def should_preserve(
    self, checkpoints: Sequence[Any], *, context: Any
  ) -> Sequence[bool]:
    del context
    steps = [checkpoint.step for checkpoint in checkpoints]
    best = _ranked(self.scores, steps)[:1]
    return [step in best for step in steps]


def _on_first(fn: Callable[[], Any]) -> Any:
  return processes.on_first(fn, errors=(MismatchError, CheckpointError))


def _ranked(
  scores: Mapping[int, tuple[float, float]], steps: Sequence[int]
) -> list[int]:
  known = [step for step in steps if step in scores]
  return sorted(known, key=lambda step: (scores[step], step), reverse=True)


def _short(error: BaseException) -> str:
  """One line; of a long one the end too, where the system's reason stands."""
  text = " ".join(f"{type(error).__name__}: {error}".split())
  return text if len(text) <= 200 else f"{text[:60]} ... {text[-130:]}"


@contextlib.contextmanager
def _one_line(verb: str, path: pathlib.Path) -> Iterator[None]:
  """Turns what Orbax raises into one line."""
  try:
    yield
  except CheckpointError:
    raise
  except Exception as error:
    raise CheckpointError(
      f"Could not {verb} checkpoint {path}: {_short(error)}; what was "
      "saved before is untouched."
    ) from error
