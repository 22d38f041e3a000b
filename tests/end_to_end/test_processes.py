"""Two processes compute and write the same as one."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import process_pair
import pytest
import sharded_problem

import robust_info as ri
from robust_info import config as config_lib
from robust_info import report, training
from robust_info.runtime import environment, processes
from robust_info.training import agreement, metrics_log


def run_pair(directory, programs, *arguments):
  """Runs process_pair.py, which leaves its results in the directory."""
  environment = {
    **os.environ,
    "JAX_PLATFORMS": "cpu",
    # The last flag counts: one device per process.
    "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} "
    "--xla_force_host_platform_device_count=1",
    "JAX_COMPILATION_CACHE_DIR": str(programs),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
  }
  program = pathlib.Path(process_pair.__file__)
  result = subprocess.run(
    [sys.executable, str(program), str(directory), *arguments],
    env=environment,
    capture_output=True,
    text=True,
    timeout=300,
    check=False,
  )
  assert result.returncode == 0, result.stderr[-3000:]
  return directory


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
  return run_pair(
    tmp_path_factory.mktemp("pair"), tmp_path_factory.mktemp("programs")
  )


def without_clock(path):
  return [
    {k: v for k, v in row.items() if k not in metrics_log.WALL_CLOCK_FIELDS}
    for row in metrics_log.read_rows(path / "metrics.jsonl")
  ]


def test_two_processes_train_like_one(pair, tmp_path):
  process_pair.train(tmp_path)
  for checkpoint in ("last", "best"):
    two = training.restore_run(pair / "undisturbed", checkpoint=checkpoint)
    one = training.restore_run(tmp_path, checkpoint=checkpoint)
    assert two.step == one.step
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-5),
      two.variables,
      one.variables,
    )
  for a, b in zip(
    without_clock(pair / "undisturbed"), without_clock(tmp_path), strict=True
  ):
    assert a.keys() == b.keys()
    for name in a.keys() - {"kind"}:
      assert a[name] == pytest.approx(b[name], rel=1e-3, abs=1e-5), name


def test_pair_killed_or_stopped_and_started_again_ends_with_the_same_bits(
  pair,
):
  for checkpoint in ("last", "best"):
    a = training.restore_run(pair / "undisturbed", checkpoint=checkpoint)
    b = training.restore_run(pair / "killed", checkpoint=checkpoint)
    assert a.step == b.step
    jax.tree.map(np.testing.assert_array_equal, a.variables, b.variables)
  assert len(b.environment) == 3
  assert b.environment[0]["num_processes"] == 2
  assert without_clock(pair / "undisturbed") == without_clock(pair / "killed")


def test_a_signal_to_one_process_stops_both_at_the_same_step(pair):
  first, second = ((pair / f"stopped-{k}.txt").read_text() for k in range(2))
  assert first.startswith("Stopped by SIGTERM after step ")
  assert first.split(",")[0] == second.split(",")[0]


def test_two_processes_measure_like_one_and_alike(pair):
  logits, labels = process_pair.statistics_input()
  expected = {"merged_cckl": ri.cckl(logits, labels)}
  for path, leaf in jax.tree_util.tree_leaves_with_path(
    sharded_problem.evaluate()
  ):
    expected[jax.tree_util.keystr(path)] = leaf
  for number in range(2):
    with np.load(pair / f"measured-{number}.npz") as found:
      assert set(found) == set(expected)
      for name, value in expected.items():
        np.testing.assert_allclose(
          found[name], value, rtol=1e-4, atol=1e-5, err_msg=name
        )


def test_the_first_process_alone_reads_and_writes_files(pair):
  names = {path.name for path in pair.iterdir()}
  assert names == {
    "cache-0",
    "killed",
    "measured-0.npz",
    "measured-1.npz",
    "said-0.json",
    "said-1.json",
    "stopped-0.txt",
    "stopped-1.txt",
    "undisturbed",
  }
  for number in range(2):
    said = json.loads((pair / f"said-{number}.json").read_text())
    # The second value comes from the file that process 0 wrote.
    assert said["values"] == [[number, None], [0, None]]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:apgd-t. 3 targets")
def test_two_processes_make_the_report_of_one(tmp_path):
  run_pair(tmp_path, tmp_path / "programs", "report")
  process_pair.make_report(tmp_path / "reported", tmp_path / "of-one")
  two, one = (
    report.load(tmp_path / name / "report.json")
    for name in ("report", "of-one")
  )
  assert one.pop("software").keys() == two.pop("software").keys()
  found, expected = map(jax.tree.leaves_with_path, (two, one))
  assert len(expected) > 200
  for (path, value), (other_path, wanted) in zip(found, expected, strict=True):
    assert path == other_path
    if isinstance(wanted, float):
      wanted = pytest.approx(wanted, rel=1e-3, abs=1e-5, nan_ok=True)
    assert value == wanted, jax.tree_util.keystr(path)
  # The second process wrote nothing, there or elsewhere.
  for name in ("report", "of-one"):
    assert (tmp_path / name / "components.png").exists()
  assert {path.name for path in tmp_path.iterdir()} == {
    "of-one",
    "programs",
    "report",
    "reported",
  }


def test_both_processes_are_told_why_a_workdir_is_refused(pair):
  for number in range(2):
    said = json.loads((pair / f"said-{number}.json").read_text())
    assert said["refusal"].startswith("WorkdirError: Workdir ")
    assert "seed: 0, now 1" in said["refusal"]


def test_processes_started_otherwise_say_in_which_fields_and_end(pair):
  first, second = (
    json.loads((pair / f"said-{number}.json").read_text())["disagreement"]
    for number in range(2)
  )
  assert second.startswith("Process 1 was started otherwise than process 0: ")
  assert "config.train.learning_rate = 0.015 instead of 0.03" in second
  assert "config.seed = 1 instead of 0" in second
  assert second.count(" instead of ") == 2
  assert first.startswith("Process 0: process 1 was started otherwise")
  assert "\n" not in first + second
  # The processes end before they write anything.
  assert not (pair / "disagreed").exists()


def agree(monkeypatch, settings, first):
  """Calls `require_same` as process 1 of two; process 0 has `first`."""
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  monkeypatch.setattr(jax, "process_index", lambda: 1)
  monkeypatch.setattr(processes, "_spread_text", lambda text: json.dumps(first))
  monkeypatch.setattr(
    processes.multihost_utils,
    "process_allgather",
    lambda own: np.stack([np.zeros_like(own), own]),
  )
  processes.require_same(lambda: settings)


def test_equal_settings_agree_also_as_json_has_them(monkeypatch):
  agree(monkeypatch, {"a": (1, 2), "b": None}, {"a": [1, 2], "b": None})


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    ({"a": 1, "b": "x"}, "0: b = 'x' instead of 'y'; start every"),
    ({"a": 1}, "0: b = None instead of 'y'; start every"),
    ({"a": 1, "b": "y", "c": 0.5}, "0: c = 0.5 instead of None; start every"),
  ],
)
def test_differing_settings_are_named(monkeypatch, settings, message):
  with pytest.raises(processes.DisagreementError) as error:
    agree(monkeypatch, settings, {"a": 1, "b": "y"})
  assert message in str(error.value)


def test_many_differing_settings_are_counted(monkeypatch):
  settings = {f"s{number}": number for number in range(9)}
  with pytest.raises(
    processes.DisagreementError, match=r"s4 = 4 .* and 4 more"
  ):
    agree(monkeypatch, settings, {})


def test_description_of_a_training_has_every_field_but_places():
  config, split = (
    process_pair.run_config(),
    process_pair.training_process.split(),
  )
  found = agreement.of_training(config, split, init_from=None)
  fields = {name for name in found if name.startswith("config.")}
  places = {f"config.{name}" for name in config_lib.LOCATION_FIELDS}
  expected = {f"config.{name}" for name in config_lib.flatten(config)}
  assert fields == expected - places
  json.dumps(found)
  for change in ("images", "labels"):
    array = getattr(split, change).copy()
    array[3] ^= 1
    other = dataclasses.replace(split, **{change: array})
    assert agreement.data_digest(other) != found["training data"]
  assert len(environment.code_digest()) == 64


@pytest.mark.parametrize("missing", ["coordinator", "num_processes"])
def test_processes_started_by_hand_need_all_three_settings(missing):
  settings = {
    "coordinator": "localhost:1",
    "num_processes": 2,
    "process_id": 0,
    missing: None,
  }
  with pytest.raises(ValueError, match=f"{missing}=None"):
    processes.join(**settings)


def test_one_process_is_the_first_and_asks_nobody():
  assert processes.is_first()
  assert not processes.is_joined()
  assert processes.on_first(lambda: (1, {2: 3})) == (1, {2: 3})
  value = np.array([-0.0, np.nan])
  assert processes.from_first(value) is value
