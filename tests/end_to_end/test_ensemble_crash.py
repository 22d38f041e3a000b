"""auto_attack under SIGKILL: the same result, and little work lost."""

import itertools
import json
import os
import pathlib
import random
import subprocess
import sys

import numpy as np
import pytest

SUPPORT = pathlib.Path(__file__).parents[1] / "support"
PROGRAM = SUPPORT / "attack_process.py"
BATCH_SIZE = 4


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
  """Folders of an undisturbed attack, and of one killed at every event."""
  cache = {
    "JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("programs")),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
  }
  moments = random.Random(0)
  # At the first report, within and between parts, and at any time.
  events = ["report:1", "part:1", "report:6", "part:2"]
  events.append(f"seconds:{moments.uniform(0, 0.1):.3f}")
  found = [tmp_path_factory.mktemp(name) for name in ("undisturbed", "killed")]
  subprocess.run(
    [sys.executable, str(PROGRAM), *map(str, found), *events],
    check=True,
    timeout=300,
    env={**os.environ, **cache},
  )
  return found


def result(folder):
  with np.load(folder / "result.npz") as found:
    return dict(found)


def processes(folder):
  """The progress of each process, in order."""
  lines = (folder / "progress.jsonl").read_text().splitlines()
  rows = map(json.loads, lines)
  return [list(g) for _, g in itertools.groupby(rows, lambda r: r["process"])]


def test_the_undisturbed_evaluation_is_worth_comparing(folders):
  undisturbed, _ = folders
  found = result(undisturbed)
  broken = np.bincount(found["broken_by"], minlength=3)
  assert (broken[[0, 2]] > 3).all()
  [rows] = processes(undisturbed)
  assert {row["attack"] for row in rows} == {"apgd-t", "square"}
  assert all(row["resumed"] == 0 for row in rows)


def test_a_killed_evaluation_ends_like_an_undisturbed_one(folders):
  expected, found = map(result, folders)
  for name, values in expected.items():
    np.testing.assert_array_equal(found[name], values, err_msg=name)
  # Less than one batch of the work that a process had reported is repeated.
  seen = processes(folders[1])
  assert len(seen) > 4
  order = ("apgd-t", "square")
  for before, after in itertools.pairwise(seen):
    last, first = before[-1], after[0]
    places = [order.index(row["attack"]) for row in (last, first)]
    assert places[1] >= places[0]
    if places[0] == places[1]:
      assert last["finished"] - first["resumed"] < BATCH_SIZE
