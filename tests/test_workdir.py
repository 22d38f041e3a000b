import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys

import pytest

from robust_info import config as config_lib
from robust_info import workdir

CONFIG = config_lib.Config()


def test_directory_holds_the_configuration_and_the_environment(tmp_path):
  with workdir.Workdir(tmp_path / "a" / "b", CONFIG) as directory:
    assert workdir.read_config(directory.path) == CONFIG
    (entry,) = workdir.read_environment(directory.path)
  assert entry["versions"]["jax"]
  assert entry["command"] == sys.argv
  assert entry["device"]


def test_reopening_adds_an_entry_to_the_environment(tmp_path):
  for _ in range(2):
    with workdir.Workdir(tmp_path, CONFIG):
      pass
  assert len(workdir.read_environment(tmp_path)) == 2


def test_commit_is_that_of_the_package_or_nothing(tmp_path):
  with workdir.Workdir(tmp_path, CONFIG):
    (entry,) = workdir.read_environment(tmp_path)
  root = pathlib.Path(workdir.__file__).parents[1]
  head = subprocess.run(
    ["git", "-C", str(root), "rev-parse", "HEAD"],
    capture_output=True,
    text=True,
    check=False,
  )
  if entry["git"] is not None:
    assert entry["git"]["commit"] == head.stdout.strip()


def test_two_trainings_on_one_workdir_are_refused(tmp_path):
  with workdir.Workdir(tmp_path, CONFIG):
    with pytest.raises(workdir.WorkdirError) as error:
      workdir.Workdir(tmp_path, CONFIG)
    assert f"in use by process {os.getpid()} on" in str(error.value)
    assert "\n" not in str(error.value)
  with workdir.Workdir(tmp_path, CONFIG):
    pass


def test_lock_of_a_killed_process_does_not_block(tmp_path):
  program = (
    "import sys, time; from robust_info import config, workdir;"
    "d = workdir.Workdir(sys.argv[1], config.Config());"
    "print('locked', flush=True); time.sleep(600)"
  )
  process = subprocess.Popen(
    [sys.executable, "-c", program, str(tmp_path)],
    stdout=subprocess.PIPE,
    env={**os.environ, "JAX_PLATFORMS": "cpu"},
  )
  with process:
    assert process.stdout.readline() == b"locked\n"
    with pytest.raises(workdir.WorkdirError, match=f"process {process.pid}"):
      workdir.Workdir(tmp_path, CONFIG)
    process.send_signal(signal.SIGKILL)
  with workdir.Workdir(tmp_path, CONFIG):
    pass


def test_refused_directory_is_left_unlocked_and_unchanged(tmp_path):
  with workdir.Workdir(tmp_path, CONFIG):
    pass
  other = dataclasses.replace(CONFIG, seed=1)
  with pytest.raises(workdir.WorkdirError, match="seed: 0, now 1"):
    workdir.Workdir(tmp_path, other)
  assert workdir.read_config(tmp_path) == CONFIG
  assert len(workdir.read_environment(tmp_path)) == 1
  with workdir.Workdir(tmp_path, CONFIG):
    pass


def test_many_differences_are_counted_not_listed(tmp_path):
  with workdir.Workdir(tmp_path, CONFIG):
    pass
  other = dataclasses.replace(
    CONFIG,
    seed=1,
    objective=config_lib.ObjectiveConfig(awp_gamma=0.1),
    train=config_lib.TrainConfig(
      num_epochs=3, batch_size=3, learning_rate=3.0, momentum=0.3
    ),
  )
  with pytest.raises(workdir.WorkdirError, match="and 2 more;"):
    workdir.Workdir(tmp_path, other)


@pytest.mark.parametrize("where", ["file", "file/below"])
def test_directory_that_cannot_be_made_is_one_line(tmp_path, where):
  (tmp_path / "file").write_text("")
  with pytest.raises(workdir.WorkdirError) as error:
    workdir.Workdir(tmp_path / where, CONFIG)
  assert "Cannot write to workdir" in str(error.value)
  assert "\n" not in str(error.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_directory_is_one_line(tmp_path):
  tmp_path.chmod(0o500)
  with pytest.raises(workdir.WorkdirError, match="Permission denied"):
    workdir.Workdir(tmp_path, CONFIG)


def test_checkpoints_of_unknown_origin_are_refused(tmp_path):
  (tmp_path / "checkpoints").mkdir()
  with pytest.raises(workdir.WorkdirError, match=r"no config\.json"):
    workdir.Workdir(tmp_path, CONFIG)


@pytest.mark.parametrize(
  "text", ["{", json.dumps({"train": {"lerning_rate": 1.0}})]
)
def test_damaged_configuration_is_one_line(tmp_path, text):
  (tmp_path / "config.json").write_text(text)
  with pytest.raises(workdir.WorkdirError, match="Cannot use") as error:
    workdir.read_config(tmp_path)
  assert "\n" not in str(error.value)
