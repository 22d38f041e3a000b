"""Training: one loop, which also resumes an interrupted run.

Randomness and data order are functions of (seed, step), checkpoints hold the
whole state, and the log is truncated to the checkpoint from which a run
resumes. A run that is killed at any moment and started again therefore ends
with the same bits, and the same log, as an uninterrupted run. This holds on one
machine with one set of package versions.

Shape letters: N examples, C classes.
"""

import contextlib
import functools
import os
import pathlib
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, TextIO

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from robust_info import config as config_lib
from robust_info import data, models
from robust_info.runtime import interruption, memory, processes
from robust_info.runtime import progress as progress_lib
from robust_info.training import (
  agreement,
  checkpoints,
  memory_needs,
  metrics_log,
  metrics_window,
  optimizers,
  rollback,
  run,
  setup,
)
from robust_info.training import state as train_state_lib
from robust_info.training import step as train_step
from robust_info.training import workdir as workdir_lib

Run = run.Run
restore_run = run.restore_run
TrainState = train_state_lib.TrainState
Validate = Callable[[Mapping[str, Any]], Mapping[str, float]]


class NonFiniteError(RuntimeError):
  """The loss or the parameters are not finite; one line."""


class _NotFinite(Exception):  # noqa: N818
  """Numbers are not finite; the only argument is the step."""


def train(
  config: config_lib.Config,
  split: data.Split,
  validate: Validate,
  *,
  workdir: str | os.PathLike[str],
  stream: TextIO | None = None,
  init_from: str | os.PathLike[str] | None = None,
) -> TrainState:
  """Trains a run to its end, from its start or its last checkpoint.

  In a run of several processes, each calls this function with the same
  arguments; only the first uses the workdir.

  Args:
    config: resolved configuration, see `setup.resolve`.
    split: the training split.
    validate: function variables -> metrics on the validation split, which
      include `accuracy` and `robust_accuracy`, the metrics that choose the best
      checkpoint. It is pure, and called for the initial variables, after every
      `config.train.validate_every` epochs, and after the steps of
      `config.train.validate_at`.
    workdir: directory of the run; an interrupted run found there resumes.
      `config.resume` lists the fields that may have changed.
    stream: stream for progress; stderr by default.
    init_from: workdir of another run of the same model; a new run starts with
      the weights of its last checkpoint (the averaged weights, if that run
      averages).

  Returns:
    The training state after the last step.

  Raises:
    ValueError: devices times micro-batches do not divide the batch, a label is
      outside the classes, there are too many steps, or `init_from` has another
      model.
    memory.OutOfMemoryError: the settings need more memory than is available.
    processes.DisagreementError: the processes differ in settings, code or data.
    NonFiniteError: loss or parameters are not finite after some step, and
      `config.train.on_nonfinite` is `stop`, or the run has rolled back the
      maximum number of times; the last good checkpoint is kept.
    interruption.Interrupted: SIGTERM or SIGINT was received; the state after
      the current step is saved.
    workdir.WorkdirError: the directory cannot hold this run.
    checkpoints.CheckpointError: no checkpoint could be saved or restored.
  """
  # This comes first, because the steps below may differ, and fail, on a single
  # process.
  processes.require_same(
    lambda: agreement.of_training(config, split, init_from=init_from)
  )
  setup.require_trainable(config, split)
  memory_needs.require(config)
  with contextlib.ExitStack() as stack:
    stack.enter_context(
      memory.explained(lambda: memory_needs.of_training(config))
    )
    weights = init_from and _initial_weights(config, init_from, workdir)
    directory = stack.enter_context(workdir_lib.Workdir(workdir, config))
    if not processes.is_first():
      stream = stack.enter_context(open(os.devnull, "w"))
    loop = _Loop(config, split, validate, directory.path, stream, weights)
    return loop.run()


def _initial_weights(
  config: config_lib.Config, init_from: str, workdir: str
) -> Mapping[str, Any] | None:
  """The variables of another run, unless `workdir` has its own checkpoints."""
  own = pathlib.Path(workdir, "checkpoints")
  if processes.on_first(lambda: any(own.glob("[0-9]*"))):
    return None
  other = restore_run(init_from, checkpoint=checkpoints.LAST)
  setup.require_same_model(config, other.config, init_from=init_from)
  return other.variables


class _Loop:
  """The variables of `train` between steps."""

  def __init__(
    self,
    config: config_lib.Config,
    split: data.Split,
    validate: Validate,
    path: pathlib.Path,
    stream: TextIO | None,
    weights: Mapping[str, Any] | None,
  ):
    self._weights = weights
    self._config, self._split, self._path = config, split, path
    self._validate, self._stream = validate, stream
    self._steps_per_epoch = data.steps_per_epoch(
      len(split), config.train.batch_size
    )
    self._num_steps = config.train.num_epochs * self._steps_per_epoch
    self._window = metrics_window.Window()
    self._poll = processes.Poll()
    self._rollbacks = 0
    # Opened in `run`, and again after every rollback.
    self._watch: interruption.Watch | None = None
    self._store: checkpoints.Store | None = None
    self._log: metrics_log.MetricsWriter | None = None
    self._report: progress_lib.StepProgress | None = None
    self._learning_rates: Sequence[float] = ()
    self._began = time.monotonic()
    self._rollback_records: list[rollback.Record] = []

  def run(self) -> TrainState:
    config = self._config
    model = models.from_config(config.model)
    optimizer = optimizers.create(config.train, self._num_steps)
    step_fn = setup.step(config, model, optimizer, num_steps=self._num_steps)
    like = setup.abstract_state(config, model)
    with (
      interruption.Watch() as watch,
      checkpoints.Store(
        self._path / "checkpoints", keep_last=config.train.keep_last
      ) as store,
    ):
      self._watch, self._store = watch, store
      restored = self._store.restore(like)
      if restored is None:
        processes.on_first(
          lambda: workdir_lib.require_fresh(self._path),
          errors=(workdir_lib.WorkdirError,),
        )
      seconds = 0.0 if restored is None else restored.progress["seconds"]
      self._began = time.monotonic() - seconds
      while True:
        try:
          return self._train_from(restored, model, optimizer, step_fn)
        except _NotFinite as failure:
          (step,) = failure.args
          restored = self._roll_back(step, like)

  def _train_from(
    self,
    restored: checkpoints.Restored | None,
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    step_fn: train_step.TrainStep,
  ) -> TrainState:
    """Trains to the end from a checkpoint, or from the start."""
    if restored is None:
      start, state = (
        0,
        setup.initial_state(
          self._config, model, optimizer, weights=self._weights
        ),
      )
    else:
      start, state = restored.step, restored.state
      self._window = metrics_window.Window(restored.progress["sums"])
    self._rollbacks = int(state.rollbacks)
    self._learning_rates = optimizers.tabulate(
      self._config.train,
      self._num_steps,
      factor=train_step.learning_rate_factor(self._rollbacks),
    )
    self._report = progress_lib.StepProgress(
      start=start,
      num_steps=self._num_steps,
      steps_per_epoch=self._steps_per_epoch,
      stream=self._stream,
    )
    after_step = None if restored is None else start
    with (
      metrics_log.MetricsWriter(self._path, after_step=after_step)
      if processes.is_first()
      else contextlib.nullcontext()
    ) as log:
      self._log = log
      for record in self._rollback_records:
        if record.step > start:
          self._write("rollback", record.step, record.values)
      if restored is not None:
        self._report.message(f"Resumed at step {start:,}.")
      return self._steps(step_fn, state, start, is_new=restored is None)

  def _roll_back(self, failed: int, like: TrainState) -> checkpoints.Restored:
    """The last regular checkpoint, diverted; training continues from it.

    Interim checkpoints are not used, because not every run of this
    configuration has them.
    """
    config = self._config.train
    self._store.wait()
    rollbacks = self._rollbacks + 1
    if config.on_nonfinite == "stop" or rollbacks > config.max_rollbacks:
      raise NonFiniteError(
        setup.nonfinite_line(
          config, failed, self._store.steps()[-1], self._rollbacks, self._path
        )
      )
    self._store.drop_interim()
    restored, record = rollback.divert(
      self._store.restore(like), failed_step=failed, rollbacks=rollbacks
    )
    self._rollback_records.append(record)
    self._report.message(
      f"Not finite after step {failed:,}: back to step {restored.step:,} with "
      f"{record.values['learning_rate_factor']:g} of the learning rate."
    )
    return restored

  def _steps(
    self,
    step_fn: train_step.TrainStep,
    state: TrainState,
    start: int,
    *,
    is_new: bool,
  ) -> TrainState:
    """Dispatches each step before it reads the metrics of the previous step.

    The initial variables are validated after the first step, so that a user
    sees within seconds whether the network trains at all.
    """
    config = self._config.train
    pending = None
    # Copy, because a step donates the memory of its argument.
    initial = _copied(state) if is_new else None
    steps = range(start + 1, self._num_steps + 1)
    depth = data.batches_ahead(self._split)
    batch_of = functools.partial(setup.batch, self._config, self._split)
    for step, batch in data.ahead(batch_of, steps, depth=depth):
      state, metrics = step_fn(state, batch)
      if initial is not None:
        self._report.message(f"First step: loss {_loss(metrics.read()):.4f}.")
        self._validate_and_save(0, initial)
        # So a log past step 0 always has a checkpoint to resume from.
        self._store.wait()
        initial = None
      if pending is not None:
        self._read(*pending)
      pending = (step, metrics)
      validates = (
        step == self._num_steps
        or step % (config.validate_every * self._steps_per_epoch) == 0
        or step in config.validate_at
      )
      saves = config.checkpoint_every and step % config.checkpoint_every == 0
      if validates or saves:
        # Read first: no checkpoint may hold numbers that are not finite.
        self._read(*pending)
        pending = None
        if validates:
          self._validate_and_save(step, state)
        else:
          self._save(step, state, None)
      received = self._poll(self._watch.received or 0)
      if received and step < self._num_steps:
        if pending is not None:
          self._read(*pending)
          self._save(step, state, None, interim=True)
        self._stop(step, received)
    self._store.wait()
    best = self._store.best_steps()[0]
    self._report.message(
      f"Finished at step {self._num_steps:,}; the best checkpoint is of step "
      f"{best:,}, in {self._path}."
    )
    return state

  def _stop(self, step: int, received: int) -> NoReturn:
    """Ends the run; its state after `step` is saved or being saved."""
    self._store.wait()
    raise interruption.Interrupted(
      f"Stopped by {signal.Signals(received).name} after step {step:,}, which "
      f"is saved in {self._path}; the same command goes on from there.",
      received,
    )

  def _read(self, step: int, metrics: train_step.StepMetrics) -> None:
    """Adds the metrics of a step to the window, and logs a full window."""
    values = metrics.read()
    if not values.pop("finite"):
      raise _NotFinite(step)
    self._window.add(values)
    self._report.step(step, _loss(values))
    if step % self._config.train.log_every == 0:
      self._log_window(step)

  def _log_window(self, step: int) -> None:
    if means := self._window.take_means():
      learning_rate = float(self._learning_rates[step - 1])
      self._write("train", step, {**means, "learning_rate": learning_rate})

  def _validate_and_save(self, step: int, state: TrainState) -> None:
    self._log_window(step)
    metrics = {k: float(v) for k, v in self._validate(state.evaluated).items()}
    row = self._write("validation", step, metrics)
    self._report.validation(step, row)
    self._save(step, state, metrics)

  def _save(
    self,
    step: int,
    state: TrainState,
    metrics: Mapping[str, float] | None,
    *,
    interim: bool = False,
  ) -> None:
    if self._log is not None:
      self._log.flush()
    progress = {"sums": self._window.sums, "seconds": self._elapsed()}
    self._store.save(
      step, state, progress=progress, metrics=metrics, interim=interim
    )

  def _write(
    self, kind: str, step: int, values: Mapping[str, float]
  ) -> metrics_log.Row:
    row = {
      "kind": kind,
      "step": step,
      "epoch": step / self._steps_per_epoch,
      **values,
      "seconds": self._elapsed(),
    }
    if self._log is not None:
      self._log.write(row)
    return row

  def _elapsed(self) -> float:
    """Wall-clock seconds, summed over all starts."""
    return round(time.monotonic() - self._began, 3)


@jax.jit
def _copied(state: TrainState) -> TrainState:
  return jax.tree.map(jnp.copy, state)


def _loss(values: Mapping[str, float]) -> float:
  """The mean loss of a step, from its metrics on the host."""
  return values["loss"] / max(values["count"], 1.0)
