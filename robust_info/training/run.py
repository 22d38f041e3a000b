"""A finished or interrupted run, restored from its workdir."""

import dataclasses
import os
import pathlib
from typing import Any

import jax
from flax import linen as nn

from robust_info import config as config_lib
from robust_info import data, models
from robust_info.config import file as file_lib
from robust_info.config import registry
from robust_info.runtime import processes
from robust_info.training import checkpoints, metrics_log, own_parts, setup
from robust_info.training import workdir as workdir_lib


@dataclasses.dataclass(frozen=True)
class Run:
  """A finished or interrupted run, restored from its workdir.

  Attributes:
    workdir: directory of the run.
    config: resolved configuration of the run.
    model: Flax module; `logits_fn` calls it.
    variables: variables of the restored checkpoint.
    step: step of that checkpoint.
    checkpoint: requested checkpoint, `best` or `last`.
    history: rows of the log, oldest first; see `metrics_log`.
    environment: one entry per start; see `workdir`.
  """

  workdir: pathlib.Path
  config: config_lib.Config
  model: nn.Module
  variables: dict[str, Any]
  step: int
  checkpoint: str
  history: list[metrics_log.Row]
  environment: list[dict[str, Any]]

  @property
  def logits_fn(self) -> jax.tree_util.Partial:
    """The network in evaluation mode, as every metric and attack takes it.

    It maps images [N, H, W, channels] in [0, 1] to logits [N, C]. Its leaves
    are the variables: runs of one architecture share compiled programs. For use
    elsewhere, `jax.export.export(jax.jit(run.logits_fn))` takes it along with
    its weights.
    """
    return jax.tree_util.Partial(models.apply_fn(self.model), self.variables)

  @property
  def test_data(self) -> data.Split:
    """The test split, with uint8 images; loaded at each access.

    Its place on this machine is chosen as by evaluate.py without flags; for
    another one see `data.relocated`.

    Raises:
      ValueError: the data of the run cannot be loaded here.
      data.UnavailableError: as ValueError.
    """
    located = data.relocated(self.config.data)
    return data.from_config(located, progress=False).test


def restore_run(
  workdir: str | os.PathLike[str],
  *,
  checkpoint: str = checkpoints.LAST,
  configuration: str | os.PathLike[str] | None = None,
) -> Run:
  """Restores a run for evaluation; nothing in its workdir is changed.

  A damaged checkpoint is reported by one line on stderr, which names it and the
  checkpoint used instead; `step` is the step of the latter.

  Args:
    workdir: directory of the run, which may still be training.
    checkpoint: choice of the checkpoint: `last`, the default of evaluate.py, or
      `best` (by robust validation accuracy). The choice of the last depends on
      the configuration only; the choice of the best depends on its results on
      the validation split.
    configuration: configuration file that registers the parts of one's own
      which the run uses, instead of the file stored with the run. That one is
      used only if this user trained with it; see `own_parts`.

  Raises:
    ValueError: another value of `checkpoint`, or a damaged log.
    OSError: the log cannot be read.
    workdir.WorkdirError: there is no run.
    own_parts.UnknownOriginError: `configuration` has to be given.
    config.file.FileError: the configuration file cannot be run.
    checkpoints.CheckpointError: the run has no usable checkpoint.
  """
  if checkpoint not in (checkpoints.BEST, checkpoints.LAST):
    raise ValueError(
      f"Expected checkpoint to be one of 'best', 'last', got {checkpoint!r}."
    )
  path = pathlib.Path(workdir)
  content, read = processes.on_first(
    lambda: _stored(path, configuration),
    errors=(
      workdir_lib.WorkdirError,
      own_parts.UnknownOriginError,
      file_lib.FileError,
    ),
  )
  parts = registry.active()
  if read is not None:
    parts = file_lib.parts_of(registry.Origin(*read))
  with registry.using(parts):
    config = workdir_lib.parsed(path, content)
  model = models.from_config(config.model)
  like = setup.abstract_state(config, model)
  with checkpoints.Store(path / "checkpoints", read_only=True) as store:
    restored = store.restore(like, which=checkpoint)
  if restored is None:
    raise checkpoints.CheckpointError(
      f"No checkpoint in workdir {path}; train there first."
    )
  history, environment = processes.on_first(
    lambda: (
      metrics_log.read_rows(path / "metrics.jsonl"),
      workdir_lib.read_environment(path),
    ),
    errors=(ValueError, OSError),
  )
  return Run(
    workdir=path,
    config=config,
    model=model,
    variables=restored.state.evaluated,
    step=restored.step,
    checkpoint=checkpoint,
    history=history,
    environment=environment,
  )


def _stored(
  path: pathlib.Path, configuration: str | os.PathLike[str] | None
) -> tuple[dict[str, Any], tuple[str, str] | None]:
  """The stored configuration, and the file with the parts that it uses."""
  content = workdir_lib.read_content(path)
  read = own_parts.find(path, content, configuration)
  return content, None if read is None else (read.path, read.text)
