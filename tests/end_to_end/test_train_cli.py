import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import preloaded
import pytest

from robust_info import training
from robust_info.training import metrics_log

ROOT = pathlib.Path(__file__).parents[2]
SMALL = (
  "--config.model.name=logistic",
  "--config.train.num_epochs=6",
  "--config.evaluation.num_steps=1",
  "--config.evaluation.num_pairs=8",
  "--config.evaluation.num_nodes=2",
  "--config.evaluation.validation_examples=20",
)


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
  """One data cache and one cache of compiled programs for all processes."""
  return {
    **os.environ,
    "JAX_PLATFORMS": "cpu",
    "ROBUST_INFO_CACHE": str(tmp_path_factory.mktemp("data")),
    "JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("programs")),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
  }


@pytest.fixture(scope="module")
def program(environment):
  """Starts train.py without the cost of its imports."""
  with preloaded.Preloaded(
    "train.py", cwd=ROOT, environment=environment
  ) as program:
    yield program


def arguments(workdir, *flags, config="configs/digits.py"):
  return [f"--config={config}", f"--workdir={workdir}", *flags]


@pytest.fixture(scope="module")
def undisturbed(environment, tmp_path_factory):
  path = tmp_path_factory.mktemp("run")
  # As a user starts it; the other tests start it by `program`.
  result = subprocess.run(
    [sys.executable, "train.py", *arguments(path, *SMALL)],
    cwd=ROOT,
    env=environment,
    capture_output=True,
    text=True,
    timeout=300,
    check=False,
  )
  assert result.returncode == 0, result.stderr
  return path, result


def test_training_from_the_command_line_reports_and_fills_the_workdir(
  undisturbed,
):
  path, result = undisturbed
  lines = result.stderr.splitlines()
  assert lines[-1].startswith("Finished at step 60")
  assert all(
    line.startswith(
      ("First step", "epoch", "Finished", "preparing", "decoding")
    )
    for line in lines
  ), lines
  names = {entry.name for entry in path.iterdir()}
  assert names == {
    "checkpoints",
    "config.json",
    "environment.json",
    "lock",
    "metrics.jsonl",
    "tensorboard",
  }
  validations = [
    row
    for row in metrics_log.read_rows(path / "metrics.jsonl")
    if row["kind"] == "validation"
  ]
  for name in (
    "accuracy",
    "robust_accuracy",
    "cckl",
    "mutual_information",
    "label_information",
    "fisher_frobenius",
    "local_non_robust",
    "local_robust",
    "path_non_robust",
    "path_robust",
  ):
    assert all(np.isfinite(row[name]) for row in validations), name
  assert validations[-1]["accuracy"] > 2 * validations[0]["accuracy"]


def start_and_send(program, workdir, awaited, number):
  """Starts a run, and sends it a signal once its workdir has that file."""
  process = program.start(*arguments(workdir, *SMALL))
  while process.poll() is None:
    if (workdir / awaited).exists():
      process.send_signal(number)
      break
    time.sleep(0.002)
  return process.finish()


def assert_disk_is_full(result):
  """Files may have 4096 bytes, and a checkpoint is larger."""
  assert result.returncode == 1, result.stderr
  *progress, last = result.stderr.splitlines()
  assert last.startswith("Error: ")
  assert "File too large" in last
  expected = ("Resumed at step", "First step", "epoch")
  assert all(line.startswith(expected) for line in progress), result.stderr


def test_killed_from_outside_and_started_again_it_ends_with_the_same_bits(
  undisturbed, program, tmp_path
):
  # Each start gets a little further before it ends: up to its compilation,
  # which takes long enough for signals to arrive in time.
  killed = start_and_send(program, tmp_path, "config.json", signal.SIGKILL)
  assert killed.returncode == -signal.SIGKILL
  stopped = start_and_send(program, tmp_path, "checkpoints/0", signal.SIGTERM)
  assert stopped.returncode == 143, stopped.stderr
  last = stopped.stderr.splitlines()[-1]
  assert last.startswith("Error: Stopped by SIGTERM after step")
  result = program.run(*arguments(tmp_path, *SMALL), file_size=4096)
  assert_disk_is_full(result)
  result = program.run(*arguments(tmp_path, *SMALL))
  assert result.returncode == 0, result.stderr
  assert "Resumed at step" in result.stderr
  for checkpoint in ("best", "last"):
    one = training.restore_run(undisturbed[0], checkpoint=checkpoint)
    two = training.restore_run(tmp_path, checkpoint=checkpoint)
    assert one.step == two.step
    jax.tree.map(np.testing.assert_array_equal, one.variables, two.variables)
    for a, b in zip(one.history, two.history, strict=True):
      for name in {*a} - {*metrics_log.WALL_CLOCK_FIELDS}:
        assert a[name] == b[name], name


@pytest.mark.parametrize(
  ("flags", "code", "message"),
  [
    (
      ["--config.train.lerning_rate=1"],
      2,
      "did you mean config.train.learning_rate?",
    ),
    (["--config.train.learning_rate=fast"], 2, "config.train.learning_rate"),
    (
      ["--config.train.learning_rate=-1"],
      2,
      "Expected config.train.learning_rate > 0, got -1.0.",
    ),
    (["--wrokdir=x"], 2, "Did you mean: workdir"),
    (["extra"], 2, "Unexpected argument 'extra'"),
    (["--config.data.name=digist"], 1, "digits"),
    (["--config.model.num_classes=3"], 1, "config.model.num_classes = 10"),
  ],
)
def test_wrong_command_is_one_line_and_an_exit_code(
  program, tmp_path, flags, code, message
):
  result = program.run(*arguments(tmp_path / "run", *flags))
  assert result.returncode == code, result.stderr
  assert result.stderr.count("\n") == 1, result.stderr
  assert result.stderr.startswith("Error: ")
  assert message in result.stderr
  assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_missing_configuration_file_is_one_line(program, tmp_path):
  result = program.run(*arguments(tmp_path, config="configs/nope.py"))
  assert result.returncode == 2
  assert result.stderr.startswith("Error: No configuration file configs/nope")
  assert result.stderr.count("\n") == 1


def test_workdir_that_cannot_be_written_is_one_line(
  program, tmp_path, undisturbed
):
  del undisturbed  # The fixture has decoded the data, which would print lines.
  (tmp_path / "file").write_text("")
  result = program.run(*arguments(tmp_path / "file" / "run"))
  assert result.returncode == 1
  assert "Cannot write to workdir" in result.stderr
  assert result.stderr.count("\n") == 1


def test_workdir_of_another_run_is_one_line(program, undisturbed):
  path, _ = undisturbed
  flags = [*SMALL, "--config.train.learning_rate=0.5"]
  result = program.run(*arguments(path, *flags))
  assert result.returncode == 1
  assert "train.learning_rate: 0.005, now 0.5" in result.stderr
  assert result.stderr.count("\n") == 1


def test_divergence_is_one_line_and_a_failure(program, tmp_path):
  flags = [*SMALL, "--config.train.learning_rate=1e37"]
  result = program.run(*arguments(tmp_path, *flags))
  assert result.returncode == 1
  assert "not finite after step" in result.stderr.splitlines()[-1]
  assert "Traceback" not in result.stderr
  assert training.restore_run(tmp_path, checkpoint="last").step == 0
