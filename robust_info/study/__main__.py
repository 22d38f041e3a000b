r"""Runs a study and writes its results.

    python -m robust_info.study configs/study/digits.py --output=runs/study

trains the runs that are missing, measures those that are not measured, and
writes study.json, tables and figures. A study that was stopped or killed goes
on when started again; once finished, the command only writes the same files.
"""

import argparse
import functools
import pathlib
import re
import sys

from robust_info import data, training
from robust_info.config import file as file_lib
from robust_info.runtime import environment, files, interruption, streams
from robust_info.study import jobs, page, plan, render
from robust_info.training import checkpoints, workdir

_ERRORS = (
  ValueError,
  TypeError,
  OSError,
  ImportError,
  checkpoints.CheckpointError,
  data.UnavailableError,
  environment.DeviceError,
  file_lib.FileError,
  jobs.FailedRunsError,
  training.NonFiniteError,
  workdir.WorkdirError,
)


def main() -> None:
  """Runs the command line; errors that a user can act on are one line."""
  streams.prepare()
  options = _parser().parse_args()
  interruption.raise_stopped()
  try:
    _run(options)
  except _ERRORS as error:
    _fail(error, 1)
  except interruption.Interrupted as error:
    _fail(error, error.exit_code)
  except interruption.Stopped as error:
    streams.note(f"Error: {error}")
    # Beside threads of JAX at work a regular exit may crash.
    streams.leave(error.exit_code)
  finally:
    streams.settle()


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog="python -m robust_info.study",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("study", type=pathlib.Path, help="study file")
  parser.add_argument(
    "--output", type=pathlib.Path, required=True, help="directory of results"
  )
  parser.add_argument(
    "--only",
    choices=("runs", "render"),
    help="make the missing runs, or write the results of those that exist",
  )
  parser.add_argument(
    "--page",
    type=pathlib.Path,
    metavar="FILE",
    help="page in Markdown that gets the tables between its lines "
    "`<!-- study: NAME -->` and `<!-- study: end -->`",
  )
  parser.add_argument(
    "--case", action="append", default=[], help="only the runs of this case"
  )
  parser.add_argument(
    "--executor",
    choices=jobs.EXECUTORS,
    default="here",
    help="where runs are made: in this process, or through submitit",
  )
  parser.add_argument(
    "--jobs", type=int, help="runs at a time through submitit, 2 unless given"
  )
  parser.add_argument(
    "--parameter",
    action="append",
    default=[],
    metavar="NAME=VALUE",
    help="parameter of the executor, for example slurm_partition=gpu",
  )
  return parser


def _run(options: argparse.Namespace) -> None:
  environment.require_device()
  study = plan.load(options.study)
  for name in options.case:
    study.case(name)
  if options.page and options.only == "runs":
    raise ValueError("Expected no --page with --only=runs, which writes none.")
  if options.executor == "here" and (options.jobs or options.parameter):
    raise ValueError(
      "Expected --executor=local or --executor=slurm with --jobs or "
      "--parameter; runs in this process have no use for them."
    )
  if options.jobs is not None and options.jobs < 1:
    raise ValueError(f"Expected --jobs >= 1, got {options.jobs}.")
  output = options.output
  found = render.collect(study, output)
  wanted = [*plan.jobs(study, options.case)]
  missing = [job for job in wanted if found.get(*job) is None]
  if options.page:
    # A page without slots fails before the runs, not after them.
    page.fill(_read(options.page), render.judge(study, found).tables)
  if options.only != "render" and missing:
    _make(options, study, wanted, missing, found)
    found = render.collect(study, output)
  if options.only == "runs":
    return
  now = environment.agreed_versions()
  if others := sum(record.about.get("software") != now for record in found):
    print(
      f"{others} of {len(found)} runs were measured by other versions of the "
      "code or of libraries; remove study.json and their files in records/ to "
      "measure again."
    )
  results = render.judge(study, found)
  render.write(study, found, results, output)
  if options.page:
    files.write_whole(
      options.page, page.fill(_read(options.page), results.tables)
    )
  absent = sum(found.get(*job) is None for job in plan.jobs(study))
  if absent:
    print(f"{absent} runs are missing; the verdicts are of the others.")
  for question in study.questions:
    print(f"{question.title} {results.verdicts[question.name]}")
  print(f"\nOpen {output / 'tables' / 'verdicts.md'} first.")


def _read(path: pathlib.Path) -> str:
  return path.read_text(encoding="utf-8")


def _make(options, study, wanted, missing, found) -> None:
  output = options.output
  parameters = _parameters(options.parameter)
  at_most = options.jobs or 2
  progress = jobs.Progress(len(wanted), missing, [*found])
  streams.note(f"{len(wanted) - len(missing)} of {len(wanted)} runs exist.")
  if options.executor == "here":
    jobs.make_here(study, output, missing, progress)
    return
  progress.at_a_time(at_most)
  jobs.make_elsewhere(
    options.study,
    output,
    missing,
    progress,
    record_of=functools.partial(plan.record_of, study, output),
    executor=options.executor,
    at_most=at_most,
    parameters=parameters,
  )


def _parameters(given: list[str]) -> dict[str, object]:
  found = {}
  for text in given:
    name, equals, value = text.partition("=")
    if not equals:
      raise ValueError(f"Expected --parameter=NAME=VALUE, got {text!r}.")
    number = re.fullmatch(r"(0|[1-9]\d*)(\.\d+)?", value, re.ASCII)
    if number:
      found[name] = float(value) if number[2] else int(value)
    else:
      found[name] = value
  return found


def _fail(error: BaseException, code: int) -> None:
  streams.note(f"Error: {files.one_line(error)}")
  sys.exit(code)


if __name__ == "__main__":
  with streams.prompt_exit():
    main()
