"""Makes the missing runs of a study: in this process, or in others."""

import pathlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from robust_info import training
from robust_info.runtime import locks, streams
from robust_info.study import plan, records, work
from robust_info.training import checkpoints, workdir

EXECUTORS = ("here", "local", "slurm")
# How often a run is started in processes of its own before it counts as failed.
_ATTEMPTS = 3
_POLL_SECONDS = 1.0
# How often Slurm is asked for jobs that died; submitit asks every ten minutes.
_STATE_SECONDS = 60.0
# How long a run that another command makes is not started again, unless its
# record appears: a job per minute for hours would fill a queue.
_BUSY_SECONDS = 600.0
# Time limit of a process, unless the parameters name one; a run that it ends
# counts as one that died. submitit's own is five minutes.
_MINUTES = 24 * 60
# Failures of one run, which do not stop the others.
_OF_A_RUN = (
  ValueError,
  training.NonFiniteError,
  checkpoints.CheckpointError,
  workdir.WorkdirError,
)


class FailedRunsError(RuntimeError):
  """Some runs could not be made; one line."""


def make_here(
  study: plan.Study,
  output: pathlib.Path,
  missing: Sequence[plan.Job],
  done: Callable[[plan.Job, records.Record], None],
) -> None:
  """Makes runs one after the other in this process.

  They share data and compiled programs, so this is the fastest way on a
  machine that one run keeps busy. Other processes may make runs of the same
  study in the same directory: each run is made by one of them.

  Args:
    study: the study.
    output: directory of the results.
    missing: the runs to make.
    done: function called after each run, also after those of other processes.

  Raises:
    FailedRunsError: runs failed; the others were made.
    interruption.Interrupted: a signal arrived; the state is saved.
  """
  work.store_programs()
  place, waiting, failures = work.Workplace(study, output), [*missing], {}
  busy = set()
  while waiting:
    job = waiting.pop(0)
    try:
      record = plan.record_of(study, output, job) or place.make(job)
    except locks.BusyError as error:
      waiting.append(job)
      if job not in busy:
        _tell(f"{error}.")
      busy.add(job)
      if busy.issuperset(waiting):
        time.sleep(_POLL_SECONDS)
      continue
    except _OF_A_RUN as error:
      failures[job] = error
      _tell(f"{job} failed: {error}")
      continue
    done(job, record)
  _require_none(failures)


def make_elsewhere(
  file: pathlib.Path,
  output: pathlib.Path,
  missing: Sequence[plan.Job],
  done: Callable[[plan.Job, records.Record], None],
  *,
  record_of: Callable[[plan.Job], records.Record | None],
  executor: str,
  at_most: int,
  parameters: Mapping[str, Any] = {},
) -> None:
  """Makes runs in processes of their own, through submitit.

  A process that dies, for example because it was killed, is started again,
  and its run goes on from its last checkpoint. See `make_here` for others that
  make runs of the same study.

  Args:
    file: the study file.
    output: directory of the results, which all processes can write.
    missing: the runs to make.
    done: function called after each run, also after those of others.
    record_of: function that returns the record of a run, see `plan.record_of`.
    executor: `local`, processes on this machine; or `slurm`.
    at_most: number of runs at a time.
    parameters: those of `submitit.AutoExecutor`, for example `timeout_min`,
      `gpus_per_node` or `slurm_partition`.

  Raises:
    FailedRunsError: runs failed; the others were made. Or a run was refused.
    ValueError: a parameter is unknown or of another executor, or there is no
      Slurm here.
    ImportError: submitit is not installed.
    interruption.Stopped: a signal arrived; the processes are stopped.
  """
  pool = _executor(executor, output, parameters)
  waiting, running, failures = [*missing], {}, {}
  attempts = dict.fromkeys(missing, 0)
  # Runs that others make -> when to start them again.
  busy: dict[plan.Job, float] = {}
  ask_at = time.monotonic() + _STATE_SECONDS
  try:
    while waiting or running:
      for job in [*waiting]:
        if len(running) >= at_most and job not in busy:
          continue
        if record := record_of(job):
          waiting.remove(job)
          done(job, record)
        elif len(running) < at_most and time.monotonic() >= busy.get(job, 0):
          waiting.remove(job)
          running[job] = _submit(pool, str(file), str(output), *job)
      time.sleep(_POLL_SECONDS)
      if running and time.monotonic() > ask_at:
        # Of one job; the answer has the state of all.
        next(iter(running.values())).done(force_check=True)
        ask_at = time.monotonic() + _STATE_SECONDS
      for job in [job for job, task in running.items() if task.done()]:
        holder, error = _outcome(running.pop(job))
        if holder:
          waiting.append(job)
          if job not in busy:
            _tell(f"{holder}.")
          busy[job] = time.monotonic() + _BUSY_SECONDS
          continue
        attempts[job] += 1
        record = record_of(job)
        if error is None and record is not None:
          done(job, record)
        elif attempts[job] < _ATTEMPTS:
          _tell(f"{job} ended early and starts again.")
          waiting.insert(0, job)
        else:
          failures[job] = error
          _tell(f"{job} failed {_ATTEMPTS} times: {error}")
  finally:
    for task in running.values():
      task.cancel()
  _require_none(failures)


def _executor(name: str, output: pathlib.Path, parameters: Mapping[str, Any]):
  try:
    import submitit
  except ImportError as error:
    raise ImportError(
      f"--executor={name} needs submitit; install robust_info[study]."
    ) from error
  for parameter in parameters:
    other = parameter.split("_")[0]
    if other in EXECUTORS and other != name:
      raise ValueError(
        f"Expected parameters of --executor={name}, got {parameter}, which is "
        f"one of {other}."
      )
  try:
    found = submitit.AutoExecutor(folder=output / "jobs" / "%j", cluster=name)
  except RuntimeError as error:  # Its programs are not on the PATH.
    raise ValueError(
      f"Expected a machine with {name} for --executor={name}: {error}"
    ) from error
  try:
    found.update_parameters(**{"timeout_min": _MINUTES, **parameters})
  except (AssertionError, NameError) as error:
    known = ", ".join(submitit.AutoExecutor._typed_parameters())
    raise ValueError(
      f"Expected --parameter to be one of {known}, or {name}_ before a name "
      f"that {name} knows, got: {str(error).splitlines()[0]}"
    ) from error
  return found


def _submit(pool: Any, *arguments: Any) -> Any:
  """A task in a process of its own.

  Raises:
    FailedRunsError: the executor refuses it, for example an unknown partition.
  """
  from submitit.core import utils

  try:
    return pool.submit(work.make, *arguments)
  except (utils.FailedJobError, utils.FailedSubmissionError) as error:
    lines = [line for line in str(error).splitlines() if line.strip()]
    raise FailedRunsError(f"A run was not accepted: {lines[-1]}") from error


def _outcome(task: Any) -> tuple[str | None, str | None]:
  """What a task returned, and its failure in one line or None."""
  try:
    return task.result(), None
  # Whatever the process raised, or a sign that it died.
  except Exception as error:
    lines = [line for line in str(error).splitlines() if line.strip()]
    lines = lines or [type(error).__name__]
    # The traceback of the task stands between two lines of dashes.
    rules = [i for i, line in enumerate(lines) if not line.strip("-")]
    if len(rules) > 1:
      return None, _last_of_traceback(lines[: rules[-1]])
    if len(lines) > 1 and "state: " in lines[1]:
      # No result: the state of the job, and the end of its log if it has one.
      log = f": {lines[-1]}" if rules else ""
      return None, f"job {task.job_id} {lines[1]}{log}"
    return None, lines[0]


def _last_of_traceback(lines: Sequence[str]) -> str:
  """The error itself; JAX may add a line of dashes and a note on its frames."""
  lines = [*lines]
  while len(lines) > 1 and (
    not lines[-1].strip("-") or lines[-1].startswith("For simplicity, JAX")
  ):
    lines.pop()
  return lines[-1]


def _require_none(failures: Mapping[plan.Job, Any]) -> None:
  if failures:
    first, reason = next(iter(failures.items()))
    others = f" and {len(failures) - 1} more" if len(failures) > 1 else ""
    raise FailedRunsError(f"{first}{others} failed: {reason}")


def _tell(text: str) -> None:
  streams.note(" ".join(text.split()))


class Progress:
  """Tells how many runs are done, and the time left."""

  def __init__(
    self, total: int, missing: Sequence[plan.Job], known: Iterator | Sequence
  ):
    """Starts to count.

    Args:
      total: number of all runs.
      missing: the runs to make.
      known: records of runs that exist; their seconds predict the others.
    """
    self._total, self._left = total, [*missing]
    self._at_a_time = 1
    self._seconds: dict[tuple[str, str], list[float]] = {}
    for record in known:
      self._learn(record)

  def at_a_time(self, number: int) -> None:
    """Sets how many runs are made at a time."""
    self._at_a_time = number

  def __call__(self, job: plan.Job, record: records.Record) -> None:
    """Counts a run, and prints one line."""
    self._left.remove(job)
    self._learn(record)
    _tell(
      f"{job}: {record.seconds:.0f} s; {self._total - len(self._left)} of "
      f"{self._total} runs{self._time_left()}"
    )

  def _learn(self, record: records.Record) -> None:
    key = (record.case, record.recipe)
    if record.seconds is not None:
      self._seconds.setdefault(key, []).append(record.seconds)

  def _time_left(self) -> str:
    if not self._left:
      return ""
    minutes = sum(map(self._expected, self._left)) / 60 / self._at_a_time
    return f", about {minutes:.0f} min left"

  def _expected(self, job: plan.Job) -> float:
    """Seconds of a run: of its recipe, or of its case, or of any."""
    exact = self._seconds.get((job.case, job.recipe))
    of_case = [
      s for (case, _), found in self._seconds.items()
      if case == job.case for s in found
    ]  # fmt: skip
    every = [s for found in self._seconds.values() for s in found]
    known = exact or of_case or every
    return sum(known) / len(known)
