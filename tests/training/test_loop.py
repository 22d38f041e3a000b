import dataclasses
import io
import math

import chex
import jax
import numpy as np
import pytest
import training_process

from robust_info import config as config_lib
from robust_info import data, models, training
from robust_info.training import (
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
    train=dataclasses.replace(config.train, checkpoint_every=0, **train),
  )


def scripted(scores):
  """A validation whose robust accuracy follows a script."""
  scores = iter(scores)
  return lambda variables: {"accuracy": 0.5, "robust_accuracy": next(scores)}


def train(path, config=None, validate=None, **kwargs):
  return training.train(
    config or run_config(),
    training_process.split(),
    validate or scripted([0.1, 0.2, 0.3, 0.4]),
    workdir=path,
    stream=kwargs.pop("stream", io.StringIO()),
    **kwargs,
  )


def rows(path, kind):
  log = metrics_log.read_rows(path / "metrics.jsonl")
  return [row for row in log if row["kind"] == kind]


def test_training_learns(tmp_path):
  train(tmp_path, run_config(num_epochs=5), training_process.make_validate())
  accuracy = [row["accuracy"] for row in rows(tmp_path, "validation")]
  assert accuracy[0] < 0.6
  assert accuracy[-1] > 0.95


def test_logged_means_weigh_every_example_the_same(tmp_path):
  # At learning rate (almost) 0 the network does not change.
  config = run_config(learning_rate=1e-30, log_every=1000, num_epochs=1)
  train(tmp_path, config, scripted([0.0] * 2))
  run = training.restore_run(tmp_path)
  split = training_process.split()
  logits = models.apply_fn(run.model)(
    run.variables, data.to_float(split.images)
  )
  log_p = jax.nn.log_softmax(logits)[np.arange(len(split)), split.labels]
  (row,) = rows(tmp_path, "train")
  np.testing.assert_allclose(row["loss"], -np.mean(log_p), rtol=1e-5)


def test_initial_variables_are_validated_and_every_few_epochs(tmp_path):
  config = run_config(num_epochs=5, validate_every=2, validate_at=(13, 26, 99))
  train(tmp_path, config, scripted([0.1] * 5))
  found = [(r["step"], r["epoch"]) for r in rows(tmp_path, "validation")]
  assert found == [(0, 0.0), (13, 1.0), (26, 2.0), (52, 4.0), (65, 5.0)]


def test_the_first_step_is_seen_before_the_initial_validation(tmp_path):
  config = run_config(num_epochs=1, log_every=1)
  stream, seen = io.StringIO(), []

  def validate(variables):
    seen.append((stream.getvalue(), jax.device_get(variables)))
    return {"accuracy": 0.5, "robust_accuracy": 0.5 - 0.1 * len(seen)}

  train(tmp_path, config, validate, stream=stream)
  text, variables = seen[0]
  assert text.startswith("First step: loss ")
  # Even so, it validates and saves the state before that step.
  state = setup.initial_state(
    config,
    models.from_config(config.model),
    optimizers.create(config.train, 13),
  )
  chex.assert_trees_all_equal(variables, state.evaluated)
  run = training.restore_run(tmp_path, checkpoint="best")
  assert run.step == 0
  chex.assert_trees_all_equal(run.variables, state.evaluated)
  log = metrics_log.read_rows(tmp_path / "metrics.jsonl")
  assert [(row["kind"], row["step"]) for row in log[:3]] == [
    ("validation", 0),
    ("train", 1),
    ("train", 2),
  ]


def test_best_and_last_are_restored_as_they_were(tmp_path):
  seen = {}

  def validate(variables):
    seen[len(seen) * 13] = jax.tree.map(np.array, variables)
    return {
      "accuracy": 0.5,
      "robust_accuracy": [0.1, 0.4, 0.2, 0.3][len(seen) - 1],
    }

  train(tmp_path, validate=validate)
  for checkpoint, step in (("best", 13), ("last", 39)):
    run = training.restore_run(tmp_path, checkpoint=checkpoint)
    assert (run.step, run.checkpoint) == (step, checkpoint)
    jax.tree.map(np.testing.assert_array_equal, run.variables, seen[step])
    assert run.config == run_config()
    assert run.history == metrics_log.read_rows(tmp_path / "metrics.jsonl")
    assert len(run.environment) == 1
  # evaluate.py restores a run in this way.
  assert training.restore_run(tmp_path).step == 39


def test_finished_run_is_not_trained_again(tmp_path):
  state = train(tmp_path)
  before = (tmp_path / "metrics.jsonl").read_text()
  again = train(tmp_path, validate=scripted([]))
  jax.tree.map(np.testing.assert_array_equal, state.params, again.params)
  assert (tmp_path / "metrics.jsonl").read_text() == before
  assert len(training.restore_run(tmp_path).environment) == 2


def test_run_interrupted_by_an_error_resumes(tmp_path):
  whole = train(tmp_path / "whole", validate=scripted([0.1, 0.2, 0.3, 0.4]))
  with pytest.raises(StopIteration):
    train(tmp_path / "cut", validate=scripted([0.1, 0.2]))
  resumed = train(tmp_path / "cut", validate=scripted([0.3, 0.4]))
  jax.tree.map(np.testing.assert_array_equal, whole.params, resumed.params)


def test_same_seed_same_bits_other_seed_other_bits(tmp_path):
  config = run_config(num_epochs=1)
  other = dataclasses.replace(config, seed=1)
  kernels = [
    np.asarray(jax.tree.leaves(train(tmp_path / name, c).params)[1])
    for name, c in (("a", config), ("b", config), ("c", other))
  ]
  np.testing.assert_array_equal(kernels[0], kernels[1])
  assert not np.array_equal(kernels[0], kernels[2])


def test_divergence_stops_naming_the_step_and_keeps_the_last_good_state(
  tmp_path,
):
  config = run_config(optimizer="sgd", learning_rate=1e20, warmup=0.5)
  with pytest.raises(training.NonFiniteError) as error:
    train(tmp_path, config)
  message = str(error.value)
  assert "not finite after step" in message
  assert "config.train.learning_rate=1e+20" in message
  assert "\n" not in message
  run = training.restore_run(tmp_path, checkpoint="last")
  assert f"checkpoint {run.step} in" in message
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(run.variables))


def test_other_configuration_is_refused_naming_the_fields(tmp_path):
  train(tmp_path, run_config(num_epochs=1))
  with pytest.raises(workdir.WorkdirError) as error:
    train(tmp_path, run_config(num_epochs=2, learning_rate=0.5))
  message = str(error.value)
  assert "train.num_epochs: 1, now 2" in message
  assert "train.learning_rate: 0.03, now 0.5" in message
  assert "\n" not in message


def test_data_may_move_between_starts(tmp_path):
  config = run_config(num_epochs=1)
  train(tmp_path, config)
  moved = dataclasses.replace(
    config, data=dataclasses.replace(config.data, data_dir="elsewhere")
  )
  train(tmp_path, moved, scripted([]))


@pytest.mark.parametrize("checkpoint", ["best", "last"])
def test_no_run_to_restore_is_one_line(tmp_path, checkpoint):
  with pytest.raises(workdir.WorkdirError, match="No run in workdir"):
    training.restore_run(tmp_path, checkpoint=checkpoint)


def test_unknown_checkpoint_is_named(tmp_path):
  with pytest.raises(ValueError, match="Expected checkpoint to be one of"):
    training.restore_run(tmp_path, checkpoint="newest")


def test_run_without_a_checkpoint_is_one_line(tmp_path):
  (tmp_path / "config.json").write_text(config_lib.to_json(run_config()))
  with pytest.raises(checkpoints.CheckpointError, match="No checkpoint"):
    training.restore_run(tmp_path)


def test_checkpoint_of_another_model_is_one_line(tmp_path):
  train(tmp_path, run_config(num_epochs=1))
  config = run_config(num_epochs=1)
  other = dataclasses.replace(
    config, model=dataclasses.replace(config.model, hidden_sizes=(9,))
  )
  (tmp_path / "config.json").write_text(config_lib.to_json(other))
  with pytest.raises(checkpoints.MismatchError, match=r"\[8\].*\[9\]"):
    training.restore_run(tmp_path)


def test_restoring_leaves_the_workdir_as_it_is(tmp_path):
  train(tmp_path, run_config(num_epochs=1))

  def contents():
    return {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}

  before = contents()
  training.restore_run(tmp_path)
  assert contents() == before


def test_plain_output_has_a_line_a_validation(tmp_path):
  stream = io.StringIO()
  train(tmp_path, stream=stream)
  lines = stream.getvalue().splitlines()
  assert sum("validation:" in line for line in lines) == 4
  assert "epoch 3/3" in lines[-2]
  assert lines[-1].startswith("Finished at step 39")
  assert "\r" not in stream.getvalue()


def test_validation_metric_that_is_nan_is_logged_and_never_the_best(tmp_path):
  train(tmp_path, validate=scripted([0.1, 0.2, math.nan, math.nan]))
  assert training.restore_run(tmp_path, checkpoint="best").step == 13
  assert math.isnan(rows(tmp_path, "validation")[-1]["robust_accuracy"])
