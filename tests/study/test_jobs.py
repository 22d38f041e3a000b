"""Runs in processes of their own, some of which die."""

import sys

import cloudpickle
import pytest
from made_records import record

from robust_info.study import jobs, plan, records, work

JOBS = [plan.Job("case", f"r{i}", 0) for i in range(3)]


def make(file, output, case, recipe, seed):
  """Stands for a run in a process without JAX; r1 is killed once."""
  import os
  import pathlib
  import shutil
  import signal

  home = pathlib.Path(output)
  began = home / f"{recipe}-began"
  first = not began.exists()
  began.touch()
  if recipe == "r1" and first:
    os.kill(os.getpid(), signal.SIGKILL)
  if recipe == file:
    raise ValueError("a bad run")
  target = home / f"records/{case}/{recipe}/seed-{seed}.json"
  target.parent.mkdir(parents=True, exist_ok=True)
  shutil.copy(home / f"{recipe}.json", target)


@pytest.fixture
def done(monkeypatch):
  # Other processes cannot import this file.
  cloudpickle.register_pickle_by_value(sys.modules[__name__])
  monkeypatch.setattr(work, "make", make)
  monkeypatch.setattr(jobs, "_POLL_SECONDS", 0.1)
  return []


def test_processes_that_die_start_again_and_failures_stop_no_other(
  done, tmp_path, monkeypatch
):
  told = []
  monkeypatch.setattr(jobs, "_tell", told.append)
  for job in JOBS:
    records.write(record(job.recipe, job.seed), tmp_path / f"{job.recipe}.json")
  with pytest.raises(jobs.FailedRunsError, match=r"r2, seed 0 failed: .*a bad"):
    jobs.make_elsewhere(
      "r2",
      tmp_path,
      JOBS,
      lambda job, record: done.append(job),
      executor="local",
      at_most=2,
    )
  assert sorted(done) == [job for job in JOBS if job.recipe != "r2"]
  again = "ended early and starts again."
  assert sorted(told) == [
    f"case, r1, seed 0 {again}",
    *[f"case, r2, seed 0 {again}"] * 2,
    "case, r2, seed 0 failed 3 times: ValueError: a bad run",
  ]


def test_progress_predicts_from_runs_of_the_recipe(capfd):
  known = [record("r0", 1, seconds=60.0), record("r1", 1, seconds=600.0)]
  progress = jobs.Progress(5, JOBS, known)
  progress(JOBS[0], record("r0", 0, seconds=60.0))
  # r1: 600 s; r2: the mean of all, 240 s.
  line = "case, r0, seed 0: 60 s; 3 of 5 runs, about 14 min left"
  assert capfd.readouterr().err.strip() == line
