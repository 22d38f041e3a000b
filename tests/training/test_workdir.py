import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys

import pytest

from robust_info import config as config_lib
from robust_info.training import workdir

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
  root = pathlib.Path(workdir.__file__).parents[2]
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
    "import sys, time; from robust_info import config;"
    "from robust_info.training import workdir;"
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
  assert "choose another --workdir." in str(error.value)
  assert "\n" not in str(error.value)


def test_path_that_is_not_utf8_is_refused_before_anything_is_written(tmp_path):
  path = tmp_path / os.fsdecode(b"caf\xe9")
  for use in (
    lambda: workdir.Workdir(path, CONFIG),
    lambda: workdir.read_config(path),
  ):
    with pytest.raises(workdir.WorkdirError, match=r"caf\\xe9': .* not UTF-8"):
      use()
  assert not path.exists()


@pytest.mark.parametrize(
  ("number", "fix"),
  [(27, "(ulimit -f)"), (28, "free space on that disk or choose another")],
)
def test_limit_that_another_directory_would_not_avoid_has_its_own_fix(
  tmp_path, monkeypatch, number, fix
):
  def fail(*_):
    raise OSError(number, os.strerror(number))

  monkeypatch.setattr(workdir.files, "write_sealed", fail)
  with pytest.raises(workdir.WorkdirError) as error:
    workdir.Workdir(tmp_path, CONFIG)
  assert fix in str(error.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_directory_is_one_line(tmp_path):
  tmp_path.chmod(0o500)
  with pytest.raises(workdir.WorkdirError, match="Permission denied"):
    workdir.Workdir(tmp_path, CONFIG)


def test_checkpoints_of_unknown_origin_are_refused(tmp_path):
  (tmp_path / "checkpoints").mkdir()
  with pytest.raises(workdir.WorkdirError, match=r"no config\.json"):
    workdir.Workdir(tmp_path, CONFIG)


def assert_refused(path, *parts):
  """The configuration is refused in one line, and no file changes."""
  before = {p: p.read_bytes() for p in path.iterdir()}
  for call in (
    lambda: workdir.read_config(path),
    lambda: workdir.Workdir(path, CONFIG),
  ):
    with pytest.raises(workdir.WorkdirError) as error:
      call()
    for part in ("Cannot use", "config.json", *parts):
      assert part in str(error.value)
    assert "\n" not in str(error.value)
  (path / "lock").unlink()
  assert {p: p.read_bytes() for p in path.iterdir()} == before


@pytest.mark.parametrize(
  "text",
  [
    "{",
    "",
    "null",
    "[]",
    "3",
    "{}",
    "[" * 10**5,
    json.dumps({"train": {"lerning_rate": 1.0}}),
    json.dumps({**json.loads(config_lib.to_json(CONFIG)), "model": {}}),
    json.dumps({**json.loads(config_lib.to_json(CONFIG)), "model": []}),
    json.dumps({**json.loads(config_lib.to_json(CONFIG)), "moodel": {}}),
  ],
)
def test_damaged_configuration_is_one_line(tmp_path, text):
  (tmp_path / "config.json").write_text(text)
  assert_refused(tmp_path)


@pytest.mark.parametrize(
  ("old", "new"),
  [
    ('"learning_rate": 0.001', '"learning_rate": 0.005'),
    ('"seed": 0', '"seed": 8'),
    ('"nesterov": false', '"nesterov": true'),
    ('"cnn"', '"mlp"'),
    ('  "seed": 0,', "  "),
    ('"crc32": ', '"crc32": 1'),
  ],
)
def test_another_valid_configuration_is_not_taken_for_the_stored_one(
  tmp_path, old, new
):
  with workdir.Workdir(tmp_path, CONFIG):
    pass
  (tmp_path / "lock").unlink()
  path = tmp_path / "config.json"
  assert path.read_text().count(old) == 1
  path.write_text(path.read_text().replace(old, new))
  assert_refused(tmp_path, "its checksum is wrong", "remove its member crc32")


def test_configuration_without_a_checksum_is_that_of_an_older_version(
  tmp_path,
):
  stored = json.loads(config_lib.to_json(CONFIG))
  # Versions before this field was added did not write it.
  del stored["train"]["on_nonfinite"]
  (tmp_path / "config.json").write_text(json.dumps(stored))
  assert workdir.read_config(tmp_path) == CONFIG
  with workdir.Workdir(tmp_path, CONFIG):
    pass


@pytest.mark.parametrize(
  "content", [b"", b"{", b"null", b"[]", b"3", b"[3, {}]", b"\xff", b"{}"]
)
def test_damaged_environment_blocks_nobody_and_is_kept(tmp_path, content):
  path = tmp_path / "environment.json"
  path.write_bytes(content)
  assert workdir.read_environment(tmp_path) == []
  with workdir.Workdir(tmp_path, CONFIG):
    (entry,) = workdir.read_environment(tmp_path)
  assert entry["command"] == sys.argv
  if content != b"[]":
    kept = tmp_path / "environment.json.damaged"
    assert kept.read_bytes() == content


def test_environment_that_cannot_be_read_blocks_nobody(tmp_path):
  os.symlink("environment.json", tmp_path / "environment.json")
  assert workdir.read_environment(tmp_path) == []
  with workdir.Workdir(tmp_path, CONFIG):
    assert len(workdir.read_environment(tmp_path)) == 1


def test_configuration_that_cannot_be_looked_up_is_not_written_anew(tmp_path):
  os.symlink("config.json", tmp_path / "config.json")
  with pytest.raises(workdir.WorkdirError, match="symbolic links"):
    workdir.Workdir(tmp_path, CONFIG)
  assert (tmp_path / "config.json").is_symlink()


def log(path, *steps):
  rows = [{"kind": "train", "step": step, "loss": 1.0} for step in steps]
  text = "\n".join(map(json.dumps, rows))
  (path / "metrics.jsonl").write_text(f"{text}\n")


def test_directory_that_never_had_a_checkpoint_is_fresh(tmp_path):
  workdir.require_fresh(tmp_path)
  (tmp_path / "damaged").mkdir()
  log(tmp_path, 0)
  workdir.require_fresh(tmp_path)


def test_log_past_the_beginning_without_a_checkpoint_is_refused(tmp_path):
  log(tmp_path, 0, 50, 1000)
  for call in (
    lambda: workdir.require_fresh(tmp_path),
    lambda: workdir.Workdir(tmp_path, CONFIG),
  ):
    with pytest.raises(workdir.WorkdirError) as error:
      call()
    message = str(error.value)
    assert f"{tmp_path} has no usable checkpoint, but a log up to" in message
    assert "to step 1,000; " in message
    assert "bring back a copy of checkpoints/, or choose another" in message
    assert "\n" not in message
  assert not (tmp_path / "config.json").exists()


def test_checkpoints_set_aside_and_none_left_are_refused(tmp_path):
  for name in ("5-0", "39-0", "13-0"):
    (tmp_path / "damaged" / name).mkdir(parents=True)
  with pytest.raises(workdir.WorkdirError) as error:
    workdir.require_fresh(tmp_path)
  assert "3 set aside in damaged/; move back" in str(error.value)
  assert "such as damaged/39-0 to checkpoints/39, or" in str(error.value)


@pytest.mark.parametrize("name", ["metrics.jsonl", "damaged"])
def test_what_cannot_be_read_is_not_taken_for_fresh(tmp_path, name):
  os.symlink(name, tmp_path / name)
  with pytest.raises(workdir.WorkdirError, match=r"be told: .*symbolic"):
    workdir.require_fresh(tmp_path)
