"""A directory of checkpoints on one process; the only file that uses Orbax.

See `checkpoints` for the guarantees. This file uses the current API of Orbax,
and so setup.cfg requires orbax-checkpoint below 1.0. With 1.0 the top level of
that package becomes another API, `v1`, which is still called experimental in
0.11.25, the oldest supported version.
"""

import contextlib
import copy
import dataclasses
import itertools
import math
import os
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from robust_info.runtime import files, streams
from robust_info.training import _manifest as manifest_lib

LAST, BEST = "last", "best"
# Name of the directory, next to the checkpoints, for damaged checkpoints.
DAMAGED = "damaged"
_MANIFEST = "metadata"
# Orbax must not wait for processes that do not take part.
_FIRST_ALONE = ocp.options.MultiprocessingOptions(
  primary_host=0, active_processes={0}, barrier_sync_key_prefix="first"
)


class CheckpointError(RuntimeError):
  """A checkpoint cannot be saved or restored; one line."""


class MismatchError(CheckpointError):
  """An intact checkpoint of another model or optimiser; one line."""


def score(metrics: Mapping[str, float]) -> tuple[float, float]:
  """The score of a checkpoint: robust accuracy, then clean accuracy.

  Args:
    metrics: metrics of the validation split, with `robust_accuracy` and
      `accuracy`. NaN counts as minus infinity. Among equal scores the newest
      checkpoint is the best.
  """
  values = (metrics["robust_accuracy"], metrics["accuracy"])
  robust, clean = (-math.inf if math.isnan(v) else v for v in values)
  return robust, clean


class Directory:
  """The work of `checkpoints.Store`, on the first process only."""

  def __init__(
    self, path: str | os.PathLike[str], *, keep_last: int, read_only: bool
  ):
    """Opens a directory; arguments and errors of `checkpoints.Store`."""
    # Orbax wants an absolute path.
    self._path = pathlib.Path(path).absolute()
    self._read_only = read_only
    self._scores: dict[int, tuple[float, float]] = {}
    self._interim: set[int] = set()
    # Checkpoints with a damaged manifest; their scores are unknown.
    self._damaged: dict[int, str] = {}
    self._saving: int | None = None
    self._manager = None
    with _one_line("open", self._path):
      if not read_only:
        self._path.mkdir(parents=True, exist_ok=True)
      if not files.exists(self._path):
        return
      self._manager = self._make_manager(keep_last)
      # Orbax skips a checkpoint that it cannot look up.
      for name in os.listdir(self._path):
        self._is_there(name)
    for step in self.steps():
      try:
        manifest = self._manifest(step)
      except files.DamageError as error:
        # Reported when a checkpoint is restored.
        if self._is_there(step):
          self._damaged[step] = str(error)
      else:
        self._note(step, manifest["metrics"], manifest["interim"])

  def _make_manager(self, keep_last: int) -> ocp.CheckpointManager:
    return ocp.CheckpointManager(
      self._path,
      options=ocp.CheckpointManagerOptions(
        preservation_policy=policies.AnyPreservationPolicy(
          [
            policies.LatestN(1),
            _Latest(keep_last, self._interim),
            _Best(self._scores),
          ]
        ),
        # Orbax does not create a directory for a subset of the processes.
        create=False,
        cleanup_tmp_directories=not self._read_only,
        multiprocessing_options=_FIRST_ALONE,
      ),
      item_handlers={
        "state": _Arrays(multiprocessing_options=_FIRST_ALONE),
        "manifest": ocp.JsonCheckpointHandler(
          filename=_MANIFEST, multiprocessing_options=_FIRST_ALONE
        ),
      },
    )

  def steps(self) -> list[int]:
    """The steps of all complete checkpoints, in increasing order."""
    return [] if self._manager is None else sorted(self._manager.all_steps())

  def best_steps(self) -> list[int]:
    """The steps of checkpoints with metrics, the best first."""
    return _ranked(self._scores, self.steps())

  def save(
    self,
    step: int,
    state: Any,
    *,
    progress: Any,
    metrics: Mapping[str, float] | None,
    interim: bool,
  ) -> None:
    """Saves in the background."""
    # Copies, because the caller continues to use both while they are written.
    host = jax.tree.map(
      lambda leaf: np.array(manifest_lib.key_data(leaf)), state
    )
    manifest = {
      "progress": copy.deepcopy(progress),
      "metrics": None if metrics is None else dict(metrics),
      "interim": interim,
      "leaves": manifest_lib.describe(host),
    }
    self.wait()
    newest = max(self.steps(), default=None)
    if newest is not None and step <= newest:
      raise CheckpointError(
        f"Could not save checkpoint {self._of(step)}: checkpoint "
        f"{newest} is there already, and steps only grow; what was saved "
        "before is untouched."
      )
    self._note(step, metrics, interim)
    with _one_line("save", self._of(step)):
      saves = self._manager.save(
        step,
        args=ocp.args.Composite(
          state=_SaveArrays(host),
          manifest=ocp.args.JsonSave(files.seal(manifest)),
        ),
        # Orbax must not skip this save.
        force=True,
      )
      if not saves:
        raise RuntimeError("Orbax skipped it")
    self._saving = step

  def wait(self) -> None:
    """Returns when the last save is complete."""
    if self._manager is None:
      return
    step, self._saving = self._saving, None
    with _one_line("save", self._path if step is None else self._of(step)):
      self._manager.wait_until_finished()
      # Orbax may skip saves after a save that failed.
      if step is not None and not self._is_there(step):
        raise RuntimeError("it is not there after its save")

  def drop_interim(self) -> None:
    """Removes interim checkpoints."""
    self.wait()
    with _one_line("remove", self._path):
      for step in self._interim & {*self.steps()}:
        self._manager.delete(step)

  def close(self) -> None:
    """Waits for the current save and closes."""
    if self._manager is not None:
      self.wait()
      with _one_line("close", self._path):
        self._manager.close()

  def restore(self, abstract: Any, which: str) -> tuple[int, Any, Any] | None:
    """Step, arrays and progress of the checkpoint; None without one."""
    if which == BEST:
      steps = self.best_steps()
      # Each of these may have been the best.
      damaged = dict(self._damaged)
    else:
      steps, damaged = self.steps()[::-1], {}
    for step in steps:
      try:
        host, progress = self._read(step, abstract)
      except files.DamageError as error:
        # A training that is still running removes checkpoints.
        if self._is_there(step):
          damaged[step] = str(error)
        continue
      if not self._read_only:
        # Move these too: the next save removes checkpoints of unknown score.
        damaged = {**self._damaged, **damaged}
      self._set_aside(damaged, instead=step)
      return step, host, progress
    if steps or damaged:
      raise CheckpointError(self._none_left(which, damaged))
    return None

  def _none_left(self, which: str, damaged: Mapping[int, str]) -> str:
    if not damaged:
      return (
        f"Every checkpoint in {self._path} was removed while it was read; "
        "try again."
      )
    kind = " that may be the best" if which == BEST else ""
    reasons = ", ".join(
      f"step {step}: {reason}" for step, reason in sorted(damaged.items())
    )
    return (
      f"Every checkpoint{kind} in {self._path} is damaged ({reasons}); "
      "bring back a copy of one, or start again in another workdir."
    )

  def _manifest(self, step: int) -> dict[str, Any]:
    path = self._of(step)
    with _one_line("read", path):
      return manifest_lib.read(path / "manifest" / _MANIFEST)

  def _of(self, step: int | str) -> pathlib.Path:
    return self._path / str(step)

  def _is_there(self, step: int | str) -> bool:
    with _one_line("read", self._of(step)):
      return files.exists(self._of(step))

  def _note(
    self, step: int, metrics: Mapping[str, float] | None, interim: bool
  ) -> None:
    if interim:
      self._interim.add(step)
    else:
      self._interim.discard(step)
    self._scores.pop(step, None)
    if metrics is not None:
      self._scores[step] = score(metrics)

  def _read(self, step: int, abstract: Any) -> tuple[Any, Any]:
    path = self._of(step)
    manifest = self._manifest(step)
    problem = manifest_lib.difference(manifest["leaves"], abstract)
    if problem is not None:
      raise MismatchError(
        f"Checkpoint {path} is of another model or optimiser: {problem}; "
        "restore it with the configuration it was trained with."
      )
    with _one_line("read", path):
      try:
        host = self._manager.restore(
          step,
          args=ocp.args.Composite(state=_RestoreArrays(abstract)),
        ).state
      # A damaged file can raise any exception.
      except Exception as error:
        manifest_lib.require_damage(path / "state", error)
        raise files.DamageError(_short(error)) from error
      manifest_lib.require_saved(host, manifest["leaves"])
    return host, manifest["progress"]

  def _set_aside(self, damaged: Mapping[int, str], *, instead: int) -> None:
    """Reports damaged checkpoints and, unless `read_only`, moves them away."""
    shelf = self._path.parent / DAMAGED
    for step, reason in sorted(damaged.items()):
      path = self._of(step)
      streams.note(
        f"Warning: checkpoint {path} is damaged ({reason}); taking checkpoint "
        f"{instead} instead."
      )
      if not self._read_only:
        with _one_line("set aside", path):
          shelf.mkdir(exist_ok=True)
          place = next(
            place
            for number in itertools.count()
            if not files.exists(place := shelf / f"{step}-{number}")
          )
          path.rename(place)
        self._damaged.pop(step, None)
    if damaged and not self._read_only:
      self._manager.reload()


class _Arrays(ocp.StandardCheckpointHandler):
  """Writes arrays, and a list of their files with checksums."""

  def finalize(self, directory: Any) -> None:
    """Called by Orbax after the arrays are written, before the renaming."""
    super().finalize(directory)
    manifest_lib.list_files(pathlib.Path(directory))


@ocp.args.register_with_handler(_Arrays, for_save=True)
class _SaveArrays(ocp.args.StandardSave):
  """Arguments of saving with `_Arrays`."""


@ocp.args.register_with_handler(_Arrays, for_restore=True)
class _RestoreArrays(ocp.args.StandardRestore):
  """Arguments of restoring with `_Arrays`."""


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


def _ranked(
  scores: Mapping[int, tuple[float, float]], steps: Sequence[int]
) -> list[int]:
  known = [step for step in steps if step in scores]
  return sorted(known, key=lambda step: (scores[step], step), reverse=True)


def _short(error: BaseException) -> str:
  """An error on one line; its end, with the system's reason, is kept."""
  text = " ".join(f"{type(error).__name__}: {error}".split())
  # TensorStore ends with places in its own source.
  text = re.sub(r" ?\[source locations=[^]]*]?", "", text)
  return text if len(text) <= 200 else f"{text[:60]} ... {text[-130:]}"


def _system_error(error: BaseException) -> int | None:
  """The `errno` behind an exception, which TensorStore has as text."""
  link: BaseException | None = error
  while link is not None:
    if isinstance(link, OSError) and link.errno is not None:
      return link.errno
    if found := re.search(r"os_error_code='(\d+)'", str(link)):
      return int(found[1])
    link = link.__cause__ or link.__context__
  return None


@contextlib.contextmanager
def _one_line(verb: str, path: pathlib.Path) -> Iterator[None]:
  """Turns an exception of Orbax into one line."""
  try:
    yield
  except (CheckpointError, files.DamageError):
    raise
  except Exception as error:
    fix = files.remedy(_system_error(error))
    raise CheckpointError(
      f"Could not {verb} checkpoint {path}: {_short(error)}; what was "
      f"saved before is untouched{fix and f'; {fix}'}."
    ) from error
