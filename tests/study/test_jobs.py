"""Runs in processes of their own, some of which die."""

import pickle
import sys

import cloudpickle
import pytest
from made_records import record
from submitit.core import core

from robust_info.runtime import locks
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
    error = ValueError("a bad run")
    # As JAX does.
    error.add_note("-----\nFor simplicity, JAX has removed its frames.")
    raise error
  if recipe == "r0" and first:
    return "r0 is in use by process 7"
  target = home / f"records/{case}/{recipe}/seed-{seed}.json"
  target.parent.mkdir(parents=True, exist_ok=True)
  shutil.copy(home / f"{recipe}.json", target)


@pytest.fixture
def done(monkeypatch):
  # Other processes cannot import this file.
  cloudpickle.register_pickle_by_value(sys.modules[__name__])
  monkeypatch.setattr(work, "make", make)
  monkeypatch.setattr(jobs, "_POLL_SECONDS", 0.1)
  monkeypatch.setattr(jobs, "_BUSY_SECONDS", 0.2)
  # submitit waits so long for results on slow file systems.
  monkeypatch.setattr(core.Job, "_results_timeout_s", 1)
  return []


def records_of(output):
  return lambda job: records.read(output / "records" / f"{job.path}.json")


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
      record_of=records_of(tmp_path),
      executor="local",
      at_most=2,
    )
  assert sorted(done) == [job for job in JOBS if job.recipe != "r2"]
  again = "ended early and starts again."
  assert sorted(told) == [
    f"case, r1, seed 0 {again}",
    *[f"case, r2, seed 0 {again}"] * 2,
    "case, r2, seed 0 failed 3 times: ValueError: a bad run",
    "r0 is in use by process 7.",
  ]


def test_a_run_of_another_command_is_not_submitted_over_and_over(
  done, tmp_path, monkeypatch
):
  [job] = JOBS[:1]
  answers = iter([None] * 5)  # Then the other command has made the run.
  monkeypatch.setattr(jobs, "_BUSY_SECONDS", 1e6)
  # The states of jobs are asked for while none runs.
  monkeypatch.setattr(jobs, "_STATE_SECONDS", 0.0)
  jobs.make_elsewhere(
    "r2",
    tmp_path,
    [job],
    lambda *pair: done.append(pair),
    record_of=lambda job: next(answers, "made there"),
    executor="local",
    at_most=2,
  )
  assert done == [(job, "made there")]
  assert len([*(tmp_path / "jobs").glob("[0-9]*")]) == 1


def test_runs_of_another_process_are_awaited_and_not_made_twice(
  tmp_path, monkeypatch
):
  told, done, slept = [], [], []

  class Workplace:
    """Another process makes the first two runs, and dies in the second."""

    def __init__(self, *_):
      pass

    def make(self, job):
      if job in JOBS[:2] and not slept:
        raise locks.BusyError(f"{job} is in use by process 7")
      return f"{job.recipe} made here"

  def stored(study, output, job):
    return "r0 made there" if job == JOBS[0] and slept else None

  monkeypatch.setattr(jobs, "_tell", told.append)
  monkeypatch.setattr(work, "Workplace", Workplace)
  monkeypatch.setattr(plan, "record_of", stored)
  monkeypatch.setattr(jobs.time, "sleep", slept.append)
  jobs.make_here(None, tmp_path, JOBS, lambda *pair: done.append(pair))
  assert slept == [jobs._POLL_SECONDS]
  assert told == [f"{job} is in use by process 7." for job in JOBS[:2]]
  assert sorted(done) == [
    (JOBS[0], "r0 made there"),
    (JOBS[1], "r1 made here"),
    (JOBS[2], "r2 made here"),
  ]


def test_a_run_is_made_by_one_process_at_a_time(tmp_path):
  directory = tmp_path / "runs" / JOBS[0].path
  directory.mkdir(parents=True)
  with (
    locks.Lock(directory / "making.lock", "It"),
    pytest.raises(locks.BusyError, match=r"r0, seed 0 is in use by process"),
  ):
    work.Workplace(None, tmp_path).make(JOBS[0])


def test_progress_predicts_from_runs_of_the_recipe(capfd):
  known = [record("r0", 1, seconds=60.0), record("r1", 1, seconds=600.0)]
  progress = jobs.Progress(5, JOBS, known)
  progress(JOBS[0], record("r0", 0, seconds=60.0))
  # r1: 600 s; r2: the mean of all, 240 s.
  line = "case, r0, seed 0: 60 s; 3 of 5 runs, about 14 min left"
  assert capfd.readouterr().err.strip() == line


@pytest.fixture
def slurm(tmp_path, monkeypatch):
  """Programs of Slurm that accept every job, which then fails."""
  bin_, job = tmp_path / "bin", tmp_path / "jobs" / "7"
  bin_.mkdir()
  failure = pickle.dumps(("error", "no device"))
  (tmp_path / "failure").write_bytes(failure)
  for name, text in {
    "srun": "",
    "scancel": "",
    "sacct": "echo 'JobID|State|NodeList'; echo '7|FAILED|n1'",
    "sbatch": f"cat $1 >> {tmp_path}/sent; mkdir -p {job}; "
    f"cp {tmp_path}/failure {job}/7_0_result.pkl; "
    "echo Submitted batch job 7",
  }.items():
    (bin_ / name).write_text(f"#!/bin/sh\n{text}\n")
    (bin_ / name).chmod(0o755)
  monkeypatch.setenv("PATH", str(bin_), prepend=":")
  return bin_


def make_on_slurm(tmp_path, **parameters):
  jobs.make_elsewhere(
    "r2",
    tmp_path,
    JOBS[:1],
    lambda job, record: None,
    record_of=records_of(tmp_path),
    executor="slurm",
    at_most=2,
    parameters=parameters,
  )


def test_slurm_gets_the_parameters_and_a_time_limit(done, slurm, tmp_path):
  with pytest.raises(jobs.FailedRunsError, match=r"failed: no device"):
    make_on_slurm(tmp_path, slurm_partition="gpu", gpus_per_node=1)
  sent = (tmp_path / "sent").read_text()
  assert sent.count("#SBATCH --partition=gpu\n") == 3
  assert sent.count("#SBATCH --gpus-per-node=1\n") == 3
  assert sent.count("#SBATCH --time=1440\n") == 3


def test_slurm_is_asked_for_jobs_that_died(done, slurm, tmp_path, monkeypatch):
  # No result: submitit has only the state that sacct tells.
  (slurm / "sbatch").write_text("#!/bin/sh\necho Submitted batch job 7\n")
  monkeypatch.setattr(jobs, "_STATE_SECONDS", 0.2)
  monkeypatch.setattr(jobs, "_ATTEMPTS", 1)
  with pytest.raises(
    jobs.FailedRunsError, match=r"r0, seed 0 failed: job 7 .*FAILED"
  ):
    make_on_slurm(tmp_path)


def test_what_slurm_refuses_is_one_line(done, slurm, tmp_path):
  (slurm / "sbatch").write_text(
    "#!/bin/sh\necho 'error: invalid partition: gqu' >&2\nexit 1\n"
  )
  with pytest.raises(jobs.FailedRunsError, match=r"not accepted: .*gqu"):
    make_on_slurm(tmp_path, slurm_partition="gqu")


@pytest.mark.parametrize(
  ("parameters", "line"),
  [
    ({"gpu": 1}, "slurm_ before a name .*'gpu'"),
    ({"slurm_partitoin": "gpu"}, "slurm_ before a name .*'partitoin'"),
    ({"timeout_min": "long"}, "timeout_min.*long"),
    ({"local_setup": "x"}, "executor=slurm, got local_setup"),
  ],
)
def test_parameters_that_do_nothing_are_refused(
  slurm, tmp_path, parameters, line
):
  with pytest.raises(ValueError, match=line):
    make_on_slurm(tmp_path, **parameters)


def test_slurm_is_asked_for_where_there_is_none(tmp_path, monkeypatch):
  monkeypatch.setenv("PATH", str(tmp_path))
  with pytest.raises(ValueError, match=r"machine with slurm.*srun"):
    make_on_slurm(tmp_path)
