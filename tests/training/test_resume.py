"""Changes that a resumed run accepts, and starts from the weights of a run."""

import dataclasses
import os
import shutil

import jax
import numpy as np
import pytest
import training_process

from robust_info import config as config_lib
from robust_info import data, training
from robust_info.training import metrics_log, workdir

VALIDATED = []


def run_config(**train):
  """One epoch of 13 steps at a constant learning rate."""
  config = training_process.run_config()
  constant = {"schedule": "constant", "num_epochs": 1, "checkpoint_every": 0}
  return dataclasses.replace(
    config,
    data=config_lib.DataConfig(),
    objective=config_lib.ObjectiveConfig(),
    train=dataclasses.replace(config.train, **{**constant, **train}),
  )


def validate(variables):
  VALIDATED.append(jax.device_get(variables))
  return {"accuracy": 0.5, "robust_accuracy": 0.5}


def train(path, config, *, split=None, **kwargs):
  with open(os.devnull, "w") as silence:
    return training.train(
      config,
      training_process.split() if split is None else split,
      validate,
      workdir=path,
      stream=silence,
      **kwargs,
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  path = tmp_path_factory.mktemp("run")
  train(path, run_config())
  return path


@pytest.fixture
def old(finished, tmp_path):
  """A copy of a finished run."""
  return shutil.copytree(finished, tmp_path / "old")


def assert_equal(one, two):
  jax.tree.map(np.testing.assert_array_equal, one, two)


def test_finished_run_with_more_epochs_ends_as_one_that_had_them_at_once(
  old, tmp_path
):
  longer = run_config(num_epochs=2, keep_last=5, log_every=4)
  assert_equal(
    train(old, longer).evaluated, train(tmp_path / "new", longer).evaluated
  )
  rows = [
    [
      {k: v for k, v in row.items() if k not in metrics_log.WALL_CLOCK_FIELDS}
      for row in metrics_log.read_rows(path / "metrics.jsonl")
    ]
    for path in (old, tmp_path / "new")
  ]
  # Epochs of both have the same steps, so the rows are the same too.
  assert rows[0] == rows[1]
  assert workdir.read_config(old) == longer


@pytest.mark.parametrize(
  "changes",
  [
    {"train": {"keep_last": 7, "log_every": 3}},
    {"train": {"validate_every": 3, "checkpoint_every": 2}},
    {"train": {"on_nonfinite": "rollback", "max_rollbacks": 9}},
    {"evaluation": {"num_pairs": 3, "attack": "apgd", "epsilon_grid": (0.3,)}},
    {"data": {"data_dir": "a", "cache_dir": "b", "streaming": True}},
    {"train": {"num_epochs": 5}},
    # Without an effect under a constant learning rate.
    {"train": {"decay_factor": 0.3}},
  ],
)
def test_field_that_leaves_the_steps_so_far_may_change(changes):
  assert config_lib.refused_changes(run_config(), altered(changes)) == []


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"train": {"learning_rate": 0.5}}, "train.learning_rate: 0.03, now 0.5"),
    ({"train": {"accumulate": 2}}, "train.accumulate: 1, now 2"),
    ({"train": {"ema_decay": 0.0}}, "train.ema_decay"),
    ({"data": {"augment": "crop_flip"}}, "data.augment"),
    ({"model": {"dtype": "bfloat16"}}, "model.dtype"),
    (
      {"evaluation": {"epsilon": 0.3}},
      "evaluation.epsilon: 0.1, now 0.3 (scores of checkpoints depend on it)",
    ),
  ],
)
def test_field_that_counted_for_steps_or_scores_may_not(changes, message):
  (found,) = config_lib.refused_changes(run_config(), altered(changes))
  assert found.startswith(message)


@pytest.mark.parametrize(
  ("section", "field", "value"),
  [
    ("train", "schedule", "cosine"),
    ("train", "warmup", 0.2),
    ("objective", "epsilon_ramp", 0.5),
    ("objective", "awp_warmup", 0.5),
  ],
)
def test_epochs_may_not_grow_where_a_share_of_training_counts(
  section, field, value
):
  before = run_config()
  before = dataclasses.replace(
    before, objective=config_lib.ObjectiveConfig(name="pgd", awp_gamma=0.1)
  )
  part = dataclasses.replace(getattr(before, section), **{field: value})
  before = dataclasses.replace(before, **{section: part})
  after = dataclasses.replace(
    before, train=dataclasses.replace(before.train, num_epochs=9)
  )
  (found,) = config_lib.refused_changes(before, after)
  assert found.startswith("train.num_epochs: 1, now 9 (")
  assert f"{section}.{field} = {value!r}" in found


def test_epochs_may_not_shrink():
  (found,) = config_lib.refused_changes(
    run_config(num_epochs=3), run_config(num_epochs=2)
  )
  assert "it may only grow" in found


def altered(changes):
  config = run_config()
  for section, fields in changes.items():
    part = dataclasses.replace(getattr(config, section), **fields)
    config = dataclasses.replace(config, **{section: part})
  return config


def test_refused_change_can_be_made_from_the_weights_as_the_line_says(
  old, tmp_path
):
  faster = run_config(learning_rate=0.5)
  with pytest.raises(workdir.WorkdirError, match=f"--init_from={old}"):
    train(old, faster)
  VALIDATED.clear()
  state = train(tmp_path / "new", faster, init_from=old)
  # The new run starts from the averaged weights.
  started = training.restore_run(old, checkpoint="last").variables
  assert_equal(VALIDATED[0], started)
  assert int(state.step) == 13
  assert not np.array_equal(
    jax.tree.leaves(state.params)[1], jax.tree.leaves(started)[1]
  )


def test_run_that_resumes_does_without_the_other(old, tmp_path):
  new = tmp_path / "new"
  first = train(new, run_config(), init_from=old)
  shutil.rmtree(old)
  assert_equal(first.params, train(new, run_config(), init_from=old).params)


def test_weights_of_another_model_are_refused_and_nothing_is_made(
  old, tmp_path
):
  other = run_config()
  other = dataclasses.replace(
    other, model=dataclasses.replace(other.model, hidden_sizes=(9,))
  )
  with pytest.raises(ValueError, match=r"hidden_sizes: \(8,\), now \(9,\)"):
    train(tmp_path / "new", other, init_from=old)
  assert not (tmp_path / "new").exists()


def test_weights_of_no_run_are_refused_and_nothing_is_made(tmp_path):
  with pytest.raises(workdir.WorkdirError, match="No run in workdir"):
    train(tmp_path / "new", run_config(), init_from=tmp_path / "nowhere")
  assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
  ("shift", "message"),
  [
    (-1, r"in \[0, 4\), got -1 in row 0 .*labels start at -1: add 1"),
    (1, r"in \[0, 4\), got 4 in row 3 .*labels start at 1: subtract 1"),
    (7, r"got 7 in row 0 \(100 of 100 rows"),
  ],
)
def test_label_of_no_class_is_named_with_its_row_before_anything_is_made(
  tmp_path, shift, message
):
  split = training_process.split()
  split = data.Split(split.images, split.labels + np.int32(shift))
  with pytest.raises(ValueError, match=message) as error:
    train(tmp_path / "new", run_config(), split=split)
  assert "\n" not in str(error.value)
  assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("role", ["train", "validation", "test"])
def test_label_of_no_class_is_refused_in_every_split_of_a_source(role):
  good = training_process.split()
  labels = good.labels.copy()
  labels[5] = -1
  splits = dict.fromkeys(("train", "validation", "test"), good)
  splits[role] = data.Split(good.images, labels)
  with pytest.raises(ValueError, match=f"the {role} split .* got -1 in row 5"):
    data.DataSource(
      name="toy",
      version="1.0.0",
      num_classes=4,
      image_shape=(4, 4, 1),
      label_names=tuple("abcd"),
      **splits,
    )


def test_more_steps_than_can_be_counted_are_refused(tmp_path):
  with pytest.raises(ValueError, match=r"config.train.num_epochs = 10000000"):
    train(tmp_path / "new", run_config(num_epochs=10**7))
  assert not (tmp_path / "new").exists()


def test_seed_of_more_than_32_bits_is_refused_also_without_a_file(tmp_path):
  config = dataclasses.replace(run_config(), seed=2**32)
  with pytest.raises(ValueError, match=r"config.seed < 2\^32"):
    train(tmp_path / "new", config)
  assert not (tmp_path / "new").exists()
