"""The description of the code behind a number."""

import contextlib
import pathlib
import shutil
import sys

import jax
import pytest
from absl import app

from robust_info.runtime import command_line, environment
from robust_info.study import __main__ as study_command

PACKAGE = pathlib.Path(environment.__file__).parents[1]


def test_an_edit_in_any_folder_of_the_package_changes_the_digest(
  tmp_path, monkeypatch
):
  copy = tmp_path / "robust_info"
  shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
  monkeypatch.setattr(
    environment, "__file__", str(copy / "runtime" / "environment.py")
  )
  digest = environment.code_digest.__wrapped__
  seen = [digest()]
  assert seen == [environment.code_digest()]
  for path in {p.parent: p for p in sorted(copy.rglob("*.py"))}.values():
    with open(path, "a") as file:
      file.write("\n")
    seen.append(digest())
  assert len(seen) > 16
  assert len(set(seen)) == len(seen)


@pytest.fixture
def no_device(monkeypatch):
  """JAX as with a platform whose plugin is not installed, or unknown."""

  def fail_with(error):
    def devices():
      raise error

    monkeypatch.setattr(jax, "devices", devices)

  before = jax.config.jax_platforms
  jax.config.update("jax_platforms", "junk")
  yield fail_with
  jax.config.update("jax_platforms", before)


@pytest.mark.parametrize(
  ("error", "reason"),
  [
    (RuntimeError("No backend 'junk'.\nSee the list."), "No backend 'junk'. "),
    (AssertionError(), "it is not installed"),
  ],
)
def test_a_platform_without_devices_is_one_line_with_the_fix(
  no_device, error, reason
):
  no_device(error)
  with pytest.raises(environment.DeviceError) as raised:
    environment.require_device()
  line = str(raised.value)
  assert "\n" not in line
  assert reason in line
  assert "with JAX_PLATFORMS=junk (" in line
  assert line.endswith(
    "unset it, or set JAX_PLATFORMS=cpu to compute on the processor."
  )


def test_command_lines_need_a_device(no_device, monkeypatch, capsys):
  no_device(RuntimeError("none"))
  monkeypatch.setattr(sys, "argv", ["study", "none.py", "--output=none"])
  # What absl does with the flags is not of interest.
  monkeypatch.setattr(app, "run", lambda main, **_: main(["train.py"]))
  monkeypatch.setattr(command_line, "_join", lambda: None)
  # Not of this process, in which other threads may be at work.
  monkeypatch.setattr(
    command_line.streams, "prompt_exit", contextlib.nullcontext
  )
  monkeypatch.setattr(command_line.interruption, "raise_stopped", lambda: None)
  for run in (
    study_command.main,
    lambda: command_line.run(lambda: None, groups={}),
  ):
    with pytest.raises(SystemExit) as raised:
      run()
    assert raised.value.code == 1
    assert "Error: JAX has no device" in capsys.readouterr().err
