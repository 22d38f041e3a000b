"""Makes one run of a study: trains it, measures it, and writes its record."""

import contextlib
import functools
import pathlib
import time
from collections.abc import Iterator
from typing import Any, TextIO

import jax

from robust_info import config as config_lib
from robust_info import data, evaluation, report, training
from robust_info.evaluation import validation
from robust_info.report import networks
from robust_info.runtime import environment, locks
from robust_info.study import baselines, costs, plan, records
from robust_info.training import checkpoints, metrics_log, setup, workdir

LOG = "progress.txt"


class Workplace:
  """Data and compiled programs that the runs of one process share."""

  def __init__(self, study: plan.Study, output: pathlib.Path):
    """Stores the study and the place of its results; loads nothing yet."""
    self._study, self._output = study, output
    # Data, and settings of the measurements -> evaluators by network.
    self._evaluators: dict[Any, dict[Any, evaluation.Evaluator]] = {}

  def make(self, job: plan.Job) -> records.Record:
    """Trains and measures a run, and writes its record.

    A run that was stopped goes on; finished measurements are read again.

    Raises:
      locks.BusyError: another process makes this run.
      interruption.Interrupted: a signal arrived; the state is saved.
      ValueError, training.NonFiniteError, workdir.WorkdirError,
      checkpoints.CheckpointError, data.UnavailableError: as training and
        evaluation.
    """
    directory = self._output / "runs" / job.path
    directory.mkdir(parents=True, exist_ok=True)
    # Training and measuring, which have locks of their own, as one.
    with locks.Lock(directory / "making.lock", str(job)):
      return self._make(job, directory)

  def _make(self, job: plan.Job, directory: pathlib.Path) -> records.Record:
    case = self._study.case(job.case)
    asked = plan.configuration(case, job.recipe, job.seed)
    source = _source(asked.data)
    config = setup.resolve(asked, source)
    began = time.monotonic() - _trained_seconds(directory / "run")
    with (
      _log(directory / LOG) as stream,
      _remedies_of_studies(directory),
    ):
      training.train(
        config,
        source.train,
        validation.of_run(config, source),
        workdir=directory / "run",
        stream=stream,
      )
    run = training.restore_run(directory / "run", checkpoint=checkpoints.LAST)
    found, numbers = self._measure(
      run, source, config.evaluation, case, directory
    )
    [entry] = found["runs"]
    sanity = entry["robustness"]["sanity"]
    cost = costs.gradients(config)
    record = records.Record(
      case=job.case,
      recipe=job.recipe,
      seed=job.seed,
      digest=plan.digest(case, asked),
      numbers={**records.numbers_of(entry), **numbers},
      trajectory=records.trajectory_of(run.history),
      doubts=[c["name"] for c in sanity.get("checks", ()) if not c["passed"]],
      about={
        "attack": entry["robustness"]["attack"],
        "norm": config.evaluation.norm,
        "epsilon": config.evaluation.epsilon,
        "num_examples": found["data"]["num_examples"],
        "steps": run.step,
        "gradients_per_example": cost and cost * config.train.num_epochs,
        "data_version": source.version,
        "software": environment.agreed_versions(),
        "processor": environment.device(),
      },
      seconds=time.monotonic() - began,
    )
    records.write(record, plan.record_path(self._output, job))
    return record

  def _measure(
    self,
    run: training.Run,
    source: data.DataSource,
    settings: config_lib.EvaluationConfig,
    case: plan.Case,
    directory: pathlib.Path,
  ) -> tuple[dict[str, Any], dict[str, float]]:
    """The report on a run, and the baselines."""
    # The version is that of the files, before pictures are resized.
    images = (source.name, source.version, run.config.data.image_size)
    key = (*images, settings, case.num_examples)
    evaluators = self._evaluators.setdefault(key, {})
    found = report.measure(
      [run],
      source,
      settings,
      output=directory,
      num_examples=case.num_examples,
      evaluators=evaluators,
    )
    network = networks.of_run(run)
    evaluator = evaluators[network.apply_fn]
    return found, baselines.measure(evaluator, network.variables)


@contextlib.contextmanager
def _log(path: pathlib.Path) -> Iterator[TextIO]:
  """A file for progress, whose lines are dropped where it takes none."""
  stream = path.open("a", encoding="utf-8")
  try:
    yield stream
  finally:
    with contextlib.suppress(OSError):
      stream.close()


@contextlib.contextmanager
def _remedies_of_studies(directory: pathlib.Path) -> Iterator[None]:
  """Replaces the remedies for a workdir, which are flags of train.py."""
  try:
    yield
  except workdir.WorkdirError as error:
    if not error.changes:
      text = str(error).replace("--workdir", "--output")
      raise workdir.WorkdirError(text) from error
    raise workdir.WorkdirError(
      f"{directory} holds a run of another configuration: {error.changes}; "
      "give the changed recipe or case another name, or remove this folder to "
      "train again."
    ) from error


def make(
  file: str, output: str, case: str, recipe: str, seed: int
) -> str | None:
  """Makes one run in a process of its own; see `Workplace.make`.

  Args:
    file: path of the study file.
    output: directory of the results.
    case: name of the case of the run.
    recipe: name of its recipe.
    seed: its seed.

  Returns:
    None, or a line on the process that makes this run already.
  """
  store_programs()
  study, job = plan.load(file), plan.Job(case, recipe, seed)
  try:
    Workplace(study, pathlib.Path(output)).make(job)
  except locks.BusyError as error:
    return str(error)
  return None


def store_programs() -> None:
  """Keeps compiled programs on disk, unless JAX was told where to.

  The seeds of a recipe, and its runs after a restart, have equal programs.
  """
  if jax.config.jax_compilation_cache_dir is None:
    home = environment.cache_root() / "programs"
    jax.config.update("jax_compilation_cache_dir", str(home))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


def _trained_seconds(workdir: pathlib.Path) -> float:
  """Seconds of training before this start."""
  rows = metrics_log.read_rows(workdir / "metrics.jsonl")
  return rows[-1]["seconds"] if rows else 0.0


@functools.lru_cache(maxsize=2)
def _source(config: config_lib.DataConfig) -> data.DataSource:
  return data.from_config(config, progress=False)
