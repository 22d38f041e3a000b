import os
import pathlib
import random
import subprocess
import sys

import jax
import numpy as np
import pytest
import training_process

from robust_info import training
from robust_info.training import metrics_log

PROGRAM = pathlib.Path(training_process.__file__)


# In the order of their steps: each process gets past the event before.
EVENTS = (
  # Before the first checkpoint; half a row at the end of the log.
  "line:0", "saving:0", "line:4",
  # Checkpoints without a validation, and within epochs.
  "batch:7", "rows:10",
  # Checkpoints with a validation.
  "validate:13", "saving:13", "full:26", "rows:26",
  "epoch:0.03", "saving:39",
)  # fmt: skip


@pytest.fixture(scope="module")
def killed_run(tmp_path_factory):
  """Workdirs of an undisturbed run, and of one killed at every event."""
  # The first process compiles and the others read: compiled programs are
  # bit-identical, and the test takes a third of the time.
  cache = {
    "JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("programs")),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
  }

  def run(*events):
    paths = [tmp_path_factory.mktemp(name) for name in ("undisturbed", "run")]
    done = subprocess.run(
      [sys.executable, str(PROGRAM), *map(str, paths), *events],
      stderr=subprocess.PIPE,
      text=True,
      timeout=1200,
      check=False,
      env={**os.environ, **cache},
    )
    assert done.returncode == 0, done.stderr
    return paths

  return run


@pytest.fixture(scope="module")
def runs(killed_run):
  return killed_run(*EVENTS)


def without_clock(path):
  return [
    {k: v for k, v in row.items() if k not in metrics_log.WALL_CLOCK_FIELDS}
    for row in metrics_log.read_rows(path / "metrics.jsonl")
  ]


def assert_same_run(one, two):
  for checkpoint in ("last", "best"):
    a = training.restore_run(one, checkpoint=checkpoint)
    b = training.restore_run(two, checkpoint=checkpoint)
    assert a.step == b.step
    jax.tree.map(np.testing.assert_array_equal, a.variables, b.variables)
  assert without_clock(one) == without_clock(two)


def test_undisturbed_run_is_worth_comparing(runs):
  undisturbed, _ = runs
  last = training.restore_run(undisturbed, checkpoint="last")
  best = training.restore_run(undisturbed, checkpoint="best")
  assert last.step == 39
  assert best.step > 0
  rows = without_clock(undisturbed)
  assert [r["step"] for r in rows if r["kind"] == "validation"] == [
    0, 13, 26, 39,
  ]  # fmt: skip
  # Windows end every four steps and at validations.
  assert [r["step"] for r in rows if r["kind"] == "train"] == [
    4, 8, 12, 13, 16, 20, 24, 26, 28, 32, 36, 39,
  ]  # fmt: skip


def test_killed_run_ends_with_the_bits_of_an_undisturbed_one(runs):
  undisturbed, killed = runs
  # With a full disk a process exits normally, with all that was saved.
  kills = sum(not event.startswith("full") for event in EVENTS)
  assert int((killed / "kills").read_text()) == kills
  assert_same_run(undisturbed, killed)


@pytest.mark.skipif(
  "ROBUST_INFO_KILLS" not in os.environ, reason="ROBUST_INFO_KILLS is not set"
)
def test_run_killed_at_many_random_moments_ends_with_the_same_bits(killed_run):
  wanted = int(os.environ["ROBUST_INFO_KILLS"])
  # A process trains about five epochs before it is killed.
  length = f"epochs:{10 * wanted}"
  rng = random.Random(0)
  # Within the first steps after a start, or at any time since the start.
  events = [
    f"moment:{rng.uniform(0.2, 6.0):.3f}"
    if number % 2
    else f"seconds:{rng.uniform(0.0, 0.4):.3f}"
    for number in range(wanted)
  ]
  undisturbed, path = killed_run(length, *events)
  assert int((path / "kills").read_text()) == wanted
  assert_same_run(undisturbed, path)
