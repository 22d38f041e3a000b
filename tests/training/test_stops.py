"""Signals and numbers that are not finite, in the middle of a run."""

import dataclasses
import functools
import os
import shutil
import signal
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import training_process

from robust_info import config as config_lib
from robust_info import data, objectives, training
from robust_info.runtime import interruption
from robust_info.training import (
  _manifest,
  checkpoints,
  metrics_log,
  optimizers,
  setup,
  workdir,
)


def run_config(**train):
  config = training_process.run_config()
  return dataclasses.replace(
    config,
    data=config_lib.DataConfig(),
    objective=config_lib.ObjectiveConfig(),
    train=dataclasses.replace(
      config.train, checkpoint_every=0, keep_last=1, **train
    ),
  )


@pytest.fixture(autouse=True, scope="module")
def steps_traced_once():
  """Runs with equal settings share one step, traced and compiled once."""
  make, steps = setup.step, {}

  def step(config, *args, **kwargs):
    # A test may replace the objective.
    key = (objectives.create, config)
    if key not in steps:
      steps[key] = make(config, *args, **kwargs)
    return steps[key]

  abstract_state = functools.cache(setup.abstract_state)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(setup, "step", step)
    patch.setattr(setup, "abstract_state", abstract_state)
    yield


ROLLBACK = {"on_nonfinite": "rollback", "max_rollbacks": 2}


def validate(variables):
  size = sum(
    float(np.sum(w**2)) for w in map(np.array, jax.tree.leaves(variables))
  )
  return {"accuracy": 0.5, "robust_accuracy": size}


def train(path, **kwargs):
  with open(os.devnull, "w") as silence:
    return training.train(
      run_config(**kwargs),
      training_process.split(),
      validate,
      workdir=path,
      stream=silence,
    )


def signalled(monkeypatch, number, step):
  """Sends a signal to this process when the batch of a step is asked for."""
  train_batch = data.train_batch

  def noisy(split, **kwargs):
    if kwargs["step"] == step - 1:
      os.kill(os.getpid(), number)
    return train_batch(split, **kwargs)

  # Make batches when they are asked for, not ahead in another thread.
  monkeypatch.setattr(data, "batches_ahead", lambda split: 0)
  monkeypatch.setattr(data, "train_batch", noisy)


@functools.cache
def poisoned_create(step, always):
  """Caches one objective per argument: see `steps_traced_once`."""
  run_key = jax.random.split(jax.random.key(0))[1]
  bad_key = jax.random.key_data(jax.random.fold_in(run_key, step - 1))

  def objective(network, batch, key, *, progress):
    outcome = objectives.standard(network, batch, key)
    bad = jnp.abs(progress * 39 - (step - 1)) < 0.5
    if not always:
      bad &= jnp.all(jax.random.key_data(key) == bad_key)
    return dataclasses.replace(
      outcome, loss=jnp.where(bad, jnp.nan, outcome.loss)
    )

  return lambda config: objective


def poisoned(monkeypatch, step, *, always):
  """NaN at a step; unless `always`, with the run's first key only."""
  monkeypatch.setattr(objectives, "create", poisoned_create(step, always))


def log(path):
  return [
    {k: v for k, v in row.items() if k not in metrics_log.WALL_CLOCK_FIELDS}
    for row in metrics_log.read_rows(path / "metrics.jsonl")
  ]


def assert_same_run(one, two, state_one, state_two):
  jax.tree.map(
    np.testing.assert_array_equal, state_one.evaluated, state_two.evaluated
  )
  assert log(one) == log(two)
  steps = []
  for path in (one, two):
    with checkpoints.Store(path / "checkpoints", read_only=True) as store:
      steps.append(store.steps())
  assert steps[0] == steps[1]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
  path = tmp_path_factory.mktemp("run")
  return path, train(path)


@pytest.mark.parametrize(
  ("number", "step", "code"),
  [(signal.SIGTERM, 18, 143), (signal.SIGINT, 26, 130)],
  ids=["SIGTERM within an epoch", "SIGINT at a validation"],
)
def test_signal_saves_the_step_and_the_run_goes_on_from_it(
  undisturbed, tmp_path, monkeypatch, number, step, code
):
  with monkeypatch.context() as patch:
    signalled(patch, number, step)
    with pytest.raises(interruption.Interrupted) as stopped:
      train(tmp_path)
  assert stopped.value.exit_code == code
  assert f"after step {step}, which is saved" in str(stopped.value)
  assert "\n" not in str(stopped.value)
  assert training.restore_run(tmp_path, checkpoint="last").step == step
  path, state = undisturbed
  assert_same_run(path, tmp_path, state, train(tmp_path))


def test_signal_in_the_last_step_lets_the_run_end(
  undisturbed, tmp_path, monkeypatch
):
  signalled(monkeypatch, signal.SIGTERM, 39)
  path, state = undisturbed
  assert_same_run(path, tmp_path, state, train(tmp_path))


def contents(path):
  return {p: p.is_file() and p.read_bytes() for p in path.rglob("*")}


def test_unreadable_checkpoints_cost_nothing_and_the_run_goes_on_later(
  undisturbed, tmp_path, capsys
):
  path = tmp_path / "run"
  shutil.copytree(undisturbed[0], path)
  (index,) = path.glob("checkpoints/39/state/_METADATA")
  good = index.read_bytes()
  index.unlink()
  index.symlink_to(index.name)
  before = contents(path / "checkpoints"), log(path)
  # A scheduler may start the run a second time.
  for _ in range(2):
    with pytest.raises(checkpoints.CheckpointError, match="Could not read"):
      train(path)
    assert (contents(path / "checkpoints"), log(path)) == before
    assert not (path / "damaged").exists()
  index.unlink()
  index.write_bytes(good)
  train(path)
  assert log(path) == log(undisturbed[0])
  assert "damaged" not in capsys.readouterr().err


@pytest.mark.parametrize("where", ["damaged", "nowhere"])
def test_run_that_lost_its_checkpoints_is_not_started_again(
  undisturbed, tmp_path, where
):
  path = tmp_path / "run"
  shutil.copytree(undisturbed[0], path)
  if where == "damaged":  # As older versions left it.
    (path / "damaged").mkdir()
    for step in (path / "checkpoints").iterdir():
      step.rename(path / "damaged" / f"{step.name}-0")
  else:
    shutil.rmtree(path / "checkpoints")
  before = log(path)
  for _ in range(2):
    with pytest.raises(workdir.WorkdirError, match="no usable checkpoint"):
      train(path)
    assert log(path) == before
  if where == "damaged":
    (path / "damaged" / "39-0").rename(path / "checkpoints" / "39")
    train(path)
    assert log(path) == before


def test_log_goes_past_the_beginning_only_with_a_checkpoint(
  tmp_path, monkeypatch
):
  """Holds on slow disks too; else a kill would leave a run that is refused."""
  list_files = _manifest.list_files
  monkeypatch.setattr(
    _manifest,
    "list_files",
    lambda directory: (time.sleep(0.5), list_files(directory)),
  )
  write, steps = metrics_log.MetricsWriter.write, []

  def checked_write(self, row):
    steps.append(row["step"])
    assert row["step"] == 0 or (tmp_path / "checkpoints" / "0").exists()
    write(self, row)
    if row["step"] > 0:
      raise KeyboardInterrupt

  monkeypatch.setattr(metrics_log.MetricsWriter, "write", checked_write)
  with pytest.raises(KeyboardInterrupt):
    train(tmp_path)
  assert steps == [0, 4]


def test_log_holds_the_learning_rate_of_each_step(undisturbed):
  rows = log(undisturbed[0])
  num_steps = max(row["step"] for row in rows)
  schedule = optimizers.learning_rate(run_config().train, num_steps)
  logged = {r["step"]: r["learning_rate"] for r in rows if r["kind"] == "train"}
  assert len(set(logged.values())) > 1
  for step, rate in logged.items():
    # The first step is taken at step 0 of the schedule.
    np.testing.assert_allclose(rate, schedule(step - 1), rtol=1e-5)


def test_rollback_goes_on_from_the_last_checkpoint_at_half_the_rate(
  undisturbed, tmp_path, monkeypatch
):
  poisoned(monkeypatch, 20, always=False)
  # The run stops, and continues when restarted as the message advises.
  with pytest.raises(
    training.NonFiniteError, match=r"with --config.train.on_nonfinite=rollback"
  ):
    train(tmp_path)
  state = train(tmp_path, **ROLLBACK)
  assert int(state.rollbacks) == 1
  rows = log(tmp_path)
  (rollback,) = [row for row in rows if row["kind"] == "rollback"]
  assert rollback["step"] == 14
  assert rollback["failed_step"] == 20
  before, after = (
    {r["step"]: r["learning_rate"] for r in log(p) if r["kind"] == "train"}
    for p in (undisturbed[0], tmp_path)
  )
  assert list(before) == list(after)
  for step, rate in after.items():
    assert rate == before[step] * (1.0 if step < 14 else 0.5)
  assert all(
    np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.evaluated)
  )


@pytest.fixture(scope="module")
def rolled_back(tmp_path_factory):
  path = tmp_path_factory.mktemp("whole")
  with pytest.MonkeyPatch.context() as patch:
    poisoned(patch, 20, always=False)
    return path, train(path, **ROLLBACK)


@pytest.mark.parametrize("step", [18, 22])
def test_interrupted_run_rolls_back_as_an_undisturbed_one(
  rolled_back, tmp_path, monkeypatch, step
):
  """Interrupted between the checkpoint and the NaN, or after the rollback."""
  poisoned(monkeypatch, 20, always=False)
  path, whole = rolled_back
  with monkeypatch.context() as patch:
    signalled(patch, signal.SIGTERM, step)
    with pytest.raises(interruption.Interrupted):
      train(tmp_path, **ROLLBACK)
  resumed = train(tmp_path, **ROLLBACK)
  assert_same_run(path, tmp_path, whole, resumed)


def test_rollbacks_are_bounded_and_all_in_the_log(tmp_path, monkeypatch):
  poisoned(monkeypatch, 20, always=True)
  with pytest.raises(training.NonFiniteError) as error:
    train(tmp_path, **ROLLBACK)
  assert "after step 20 (rolled back 2 times); checkpoint 13" in str(
    error.value
  )
  assert "\n" not in str(error.value)
  factors = [
    row["learning_rate_factor"]
    for row in log(tmp_path)
    if row["kind"] == "rollback"
  ]
  assert factors == [0.5, 0.25]
  assert training.restore_run(tmp_path, checkpoint="last").step == 13
