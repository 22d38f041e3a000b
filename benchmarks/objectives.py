r"""Every objective under one roof: trained, evaluated, in one table over seeds.

    python -m benchmarks.objectives run FOLDER --case digits --seeds 5
    python -m benchmarks.objectives run FOLDER --case mnist --data_dir DIR
    python -m benchmarks.objectives table FOLDER

`run` trains each recipe with each seed, all recipes of a seed before the next
seed, and evaluates the last checkpoint: FOLDER/CASE/seed-S/RECIPE/report.json,
as evaluate.py writes it. What has its report is skipped and what was stopped
goes on, so the same command ends what a killed one began. `table` prints, in
Markdown, means and standard deviations over the seeds of which every recipe
has its report.
"""

import argparse
import dataclasses
import math
import pathlib
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
from ml_collections import config_dict

from configs import digits, mnist
from robust_info import (
  checkpoints,
  data,
  interruption,
  models,
  report,
  resolution,
  training,
  validation,
  workdir,
)
from robust_info import config as config_lib

Report = Mapping[str, Any]
# (title, one number of a report's only run)
Column = tuple[str, Callable[[Mapping[str, Any]], float]]

# Title -> what it changes in the configuration of a case.
RECIPES = {
  **{name: {"objective.name": name} for name in config_lib.OBJECTIVES},
  "pgd_awp_ema": {
    "objective.name": "pgd",
    "objective.awp_gamma": 5e-3,
    "train.ema_decay": 0.95,
  },
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
  """Data, threat and lengths.

  Attributes:
    base: gives the configuration to start from.
    changes: fields set anew. Runs are reported at their last checkpoint, so
      validation is for the log alone, once at the end.
    num_examples: the first of the test split, which all runs are reported on.
  """

  base: Callable[[], config_dict.ConfigDict]
  changes: Mapping[str, Any]
  num_examples: int


CASES = {
  "digits": Case(
    base=digits.get_config,
    changes={
      "train.validate_every": 40,
      "evaluation.attack": "apgd",
      "evaluation.batch_size": 125,
      "evaluation.epsilon_grid": (0.0, 0.15),
      "evaluation.num_pairs": 2048,
    },
    num_examples=500,
  ),
  "mnist": Case(
    base=mnist.get_config,
    changes={
      "objective.num_steps": 5,
      "objective.step_size": 0.4,
      "train.num_epochs": 1,
      "evaluation.attack": "apgd",
      "evaluation.batch_size": 125,
      "evaluation.epsilon_grid": (0.0, 0.1),
      "evaluation.num_pairs": 2048,
      "evaluation.validation_examples": 250,
    },
    num_examples=250,
  ),
}


def configuration(
  case: Case, recipe: str, seed: int, data_dir: str | None = None
) -> config_lib.Config:
  """The checked configuration of a run, before it is resolved."""
  config = case.base()
  config.seed = seed
  config.update_from_flattened_dict({**case.changes, **RECIPES[recipe]})
  if data_dir is not None:
    config.data.data_dir = data_dir
  return config_lib.from_config_dict(config)


def home(folder: pathlib.Path, case: str, seed: int, recipe: str):
  """Where a run and its report lie."""
  return folder / case / f"seed-{seed}" / recipe


def missing(
  folder: pathlib.Path, case: str, seeds: int
) -> list[tuple[int, str]]:
  """(seed, recipe) of what has no report yet, a seed after the other."""
  return [
    (seed, recipe)
    for seed in range(seeds)
    for recipe in RECIPES
    if not (home(folder, case, seed, recipe) / "report.json").exists()
  ]


def train_and_report(
  config: config_lib.Config,
  source: data.DataSource,
  folder: pathlib.Path,
  *,
  num_examples: int,
) -> None:
  """One run from wherever it stands to its report, as the entry points do."""
  config = resolution.resolve(config, source)
  validate = validation.Validator(
    models.apply_fn(training.create_model(config.model)),
    source.validation,
    num_classes=source.num_classes,
    settings=config.evaluation,
    seed=config.seed,
  )
  training.train(config, source.train, validate, workdir=folder / "run")
  report.build(
    [training.restore_run(folder / "run", checkpoint=checkpoints.LAST)],
    source,
    config.evaluation,
    output=folder,
    num_examples=num_examples,
  )


def run(
  folder: pathlib.Path, case: str, *, seeds: int, data_dir: str | None = None
) -> None:
  """Makes every report that is missing."""
  settings = CASES[case]
  tasks = missing(folder, case, seeds)
  total = seeds * len(RECIPES)
  print(f"{case}: {total - len(tasks)} of {total} reports exist", flush=True)
  if not tasks:
    return
  data_config = configuration(settings, *reversed(tasks[0]), data_dir).data
  source = data.load(
    data_config.name,
    data_dir=data_config.data_dir,
    validation_fraction=data_config.validation_fraction,
    validation_seed=data_config.validation_seed,
    cache_dir=data_config.cache_dir,
    progress=True,
  )
  # The programs of a recipe are those of its next seed.
  jax.config.update("jax_compilation_cache_dir", str(folder / "programs"))
  begin = time.monotonic()
  for number, (seed, recipe) in enumerate(tasks, 1):
    train_and_report(
      configuration(settings, recipe, seed, data_dir),
      source,
      home(folder, case, seed, recipe),
      num_examples=settings.num_examples,
    )
    spent = time.monotonic() - begin
    left = spent / number * (len(tasks) - number)
    print(
      f"{case}: {recipe}, seed {seed}: {total - len(tasks) + number} of "
      f"{total}, about {left / 60:.0f} min left",
      flush=True,
    )


def complete(folder: pathlib.Path, case: str) -> dict[str, list[Report]]:
  """The reports of each recipe, over the seeds that every recipe has.

  Raises:
    ValueError: two of them were not measured alike.
  """
  seeds = []
  for path in sorted(
    (folder / case).glob("seed-*"), key=lambda p: int(p.name[5:])
  ):
    seed = int(path.name.removeprefix("seed-"))
    paths = [home(folder, case, seed, recipe) for recipe in RECIPES]
    if all((path / "report.json").exists() for path in paths):
      seeds.append([report.load(path / "report.json") for path in paths])
  for found in [report_ for row in seeds for report_ in row]:
    if found["settings"] != seeds[0][0]["settings"]:
      raise ValueError(
        f"Expected reports with the same settings in {folder / case}, got "
        f"others in that of {found['runs'][0]['name']}; remove it."
      )
  return {
    recipe: [row[number] for row in seeds]
    for number, recipe in enumerate(RECIPES if seeds else ())
  }


def spread(values: Sequence[float]) -> str:
  """Mean ± standard deviation (n - 1) as text; of one value it alone."""
  mean = statistics.fmean(values)
  if not math.isfinite(mean):
    return "n/a"
  text = f"{mean:.3g}"
  if len(values) == 1:
    return text
  return f"{text} ± {statistics.stdev(values):.2g}"


def _strongest(run: Mapping[str, Any]) -> Mapping[str, Any]:
  """The epsilon lens under all attacks: the least that is left."""
  return run["strength_curve"][-1]


def _fisher(title: str, norm: str, statistic: str) -> Column:
  return f"{title} {statistic}", lambda r: r["fisher"][norm][statistic]


COLUMNS: tuple[Column, ...] = (
  ("clean %", lambda r: 100 * r["performance"]["accuracy"]),
  ("robust %", lambda r: 100 * r["robustness"]["accuracy"]),
  ("CCKL", lambda r: r["information"]["cckl"]),
  _fisher("λmax(F)", "spectral", "mean"),
  ("local share %", lambda r: 100 * r["local_lens"]["non_robust_share"]),
  ("path share %", lambda r: 100 * r["path_lens"]["non_robust_share"]),
  (
    "CCKL taken %",
    lambda r: 100 * _strongest(r)["cckl"]["non_robust_share"],
  ),
  ("I(K;Y^) left", lambda r: _strongest(r)["label_information"]["robust"]),
)
FURTHER: tuple[Column, ...] = (
  ("PGD-20 %", lambda r: 100 * r["robustness"]["steps"][0]["accuracy"]),
  _fisher("λmax(F)", "spectral", "median"),
  _fisher("‖F‖", "frobenius", "mean"),
  _fisher("‖F‖", "frobenius", "median"),
  _fisher("tr F", "trace", "mean"),
  _fisher("tr F", "trace", "median"),
  ("I(K;Y^) clean", lambda r: r["information"]["label_information"]),
  ("CCKL left", lambda r: _strongest(r)["cckl"]["robust"]),
)


def rows(
  reports: Mapping[str, Sequence[Report]], columns: Sequence[Column]
) -> Iterator[str]:
  """Lines of a Markdown table, a recipe a row."""
  yield "| | " + " | ".join(title for title, _ in columns) + " |"
  yield "|---" * (len(columns) + 1) + "|"
  for recipe, found in reports.items():
    cells = [
      spread([read(entry["runs"][0]) for entry in found]) for _, read in columns
    ]
    yield f"| `{recipe}` | " + " | ".join(cells) + " |"


def table(folder: pathlib.Path) -> str:
  """Two Markdown tables for each case, of its complete seeds.

  Raises:
    ValueError: no seed of any case is complete, or reports do not fit.
  """
  lines = []
  for case in CASES:
    reports = complete(folder, case)
    if not reports:
      continue
    entries = [entry for found in reports.values() for entry in found]
    first, seeds = entries[0], len(reports["standard"])
    robustness = first["runs"][0]["robustness"]
    doubts = [
      f"{recipe}: {entry['runs'][0]['robustness']['sanity']['verdict']}"
      for recipe, found in reports.items()
      for entry in found
      if not entry["runs"][0]["robustness"]["sanity"]["trustworthy"]
    ]
    lines += [
      f"### {case}: {seeds} seeds, {first['data']['num_examples']} test images,"
      f" {robustness['attack']} at {robustness['norm']} "
      f"{robustness['epsilon']:g}",
      "",
      *rows(reports, COLUMNS),
      "",
      *rows(reports, FURTHER),
      "",
      f"Sanity checks that fail: {'; '.join(doubts) or 'none'}.",
      "",
    ]
  if not lines:
    raise ValueError(
      f"Expected a seed with a report of every recipe in {folder}, got none; "
      "`run` makes them."
    )
  return "\n".join(lines)


def main() -> None:
  """One action; what a user can act on is one line."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("action", choices=("run", "table"))
  parser.add_argument("folder", type=pathlib.Path)
  parser.add_argument("--case", choices=CASES, default="digits")
  parser.add_argument("--seeds", type=int, default=3)
  parser.add_argument("--data_dir", help="where prepared TFDS data lies")
  options = parser.parse_args()
  try:
    if options.action == "table":
      print(table(options.folder))
    else:
      run(
        options.folder,
        options.case,
        seeds=options.seeds,
        data_dir=options.data_dir,
      )
  except (
    ValueError,
    OSError,
    checkpoints.CheckpointError,
    data.UnavailableError,
    training.NonFiniteError,
    workdir.WorkdirError,
  ) as error:
    sys.exit(f"Error: {error}")
  except interruption.Interrupted as error:
    print(f"Error: {error}", file=sys.stderr)
    sys.exit(error.exit_code)


if __name__ == "__main__":
  main()
