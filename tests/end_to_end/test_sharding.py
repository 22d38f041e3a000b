"""Eight devices compute the same values as one."""

import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
import sharded_problem
import training_process

from robust_info import training
from robust_info.runtime import sharding


def on_eight_devices(*command):
  environment = {
    **os.environ,
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} "
    "--xla_force_host_platform_device_count=8",
  }
  return subprocess.run(
    [sys.executable, *command],
    env=environment,
    capture_output=True,
    text=True,
    timeout=300,
    check=False,
  )


def test_eight_devices_train_and_evaluate_like_one(tmp_path):
  program = str(pathlib.Path(sharded_problem.__file__))
  result = on_eight_devices(program, str(tmp_path / "eight.npz"))
  assert result.returncode == 0, result.stderr[-2000:]
  one = sharded_problem.measure()
  with np.load(tmp_path / "eight.npz") as eight:
    assert set(eight) == set(one)
    for name, value in one.items():
      np.testing.assert_allclose(
        eight[name], value, rtol=1e-3, atol=2e-5, err_msg=name
      )


def test_batch_is_divided_by_devices_and_micro_batches(monkeypatch):
  monkeypatch.setattr(sharding, "num_devices", lambda: 3)
  sharding.require_batch_size(12, accumulate=4)
  with pytest.raises(ValueError, match="accumulate=4, got 18; try 24"):
    sharding.require_batch_size(18, accumulate=4)


def test_batch_that_devices_do_not_divide_is_one_line(tmp_path, monkeypatch):
  monkeypatch.setattr(sharding, "num_devices", lambda: 3)
  with pytest.raises(ValueError, match="multiple of the 3") as error:
    training.train(
      training_process.run_config(),
      training_process.split(),
      lambda variables: {},
      workdir=tmp_path / "run",
    )
  assert str(error.value) == (
    "Expected config.train.batch_size to be a multiple of the 3 devices, got "
    "8; try 9."
  )
  assert not (tmp_path / "run").exists()


def test_copies_on_a_device_are_fresh_memory():
  host = {"x": np.arange(4.0, dtype=np.float32)}
  like = jax.tree.map(jax.numpy.asarray, host)
  placed = sharding.replicate(host, like)
  donated = jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree))
  jax.block_until_ready(donated(placed))
  host["x"][:] = -1
  np.testing.assert_array_equal(placed["x"], np.arange(4.0))


def test_rows_of_a_batch_reach_compiled_functions_in_order():
  rows = np.arange(16)
  by_rows = sharding.by_rows()
  same = jax.jit(lambda tree: tree, in_shardings=by_rows, out_shardings=by_rows)
  placed = same(sharding.split_rows({"x": rows}))["x"]
  assert placed.sharding == by_rows
  np.testing.assert_array_equal(placed, rows)
