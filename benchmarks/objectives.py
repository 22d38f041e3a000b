r"""Every objective under one roof: trained, evaluated, in one table over seeds.

    python -m benchmarks.objectives run FOLDER --case digits --seeds 5
    python -m benchmarks.objectives run FOLDER --case mnist --data_dir DIR
    python -m benchmarks.objectives table FOLDER

`run` trains each recipe with each seed, all recipes of a seed before the next
seed, and evaluates the last checkpoint. FOLDER/CASE/seed-S/RECIPE is the
workdir of a run; its report, as evaluate.py writes it, lies in `report/`. Runs
that have a report are skipped and stopped runs are resumed, so the same command
completes a killed one. `table` prints, in Markdown, means and standard
deviations over the seeds for which every recipe has a report.

With JAX_COMPILATION_CACHE_DIR=DIR, the programs of a recipe are compiled only
for its first seed (TF_CPP_MIN_LOG_LEVEL=3 keeps XLA from remarking on it).
"""

import argparse
import dataclasses
import itertools
import math
import pathlib
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ml_collections import config_dict

from configs import digits, mnist
from robust_info import config as config_lib
from robust_info import data, report, training
from robust_info.evaluation import validation
from robust_info.runtime import interruption
from robust_info.training import checkpoints, setup, workdir

Report = Mapping[str, Any]
# (title, function that reads one number from the only run of a report)
Column = tuple[str, Callable[[Mapping[str, Any]], float]]

# Title -> the fields that define the recipe.
Recipes = Mapping[str, Mapping[str, Any]]
EVERY: Recipes = {
  **{name: {"objective.name": name} for name in config_lib.OBJECTIVES},
  "pgd_awp_ema": {
    "objective.name": "pgd",
    "objective.awp_gamma": 5e-3,
    "train.ema_decay": 0.95,
  },
}
# The two lens objectives at other settings.
LENSES: Recipes = {
  "pair_non_robust=10": {
    "objective.name": "pair_lens",
    "objective.pair_non_robust": 10.0,
  },
  "pair_reward=1": {
    "objective.name": "pair_lens",
    "objective.pair_reward": 1.0,
  },
  "pair_non_robust=pair_reward=10": {
    "objective.name": "pair_lens",
    "objective.pair_non_robust": 10.0,
    "objective.pair_reward": 10.0,
  },
  "lens_quantity=label_information": {
    "objective.name": "epsilon_lens",
    "objective.lens_quantity": "label_information",
  },
  "lens_quantity=cckl": {
    "objective.name": "epsilon_lens",
    "objective.lens_quantity": "cckl",
    "objective.lens_coefficient": 0.3,
  },
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
  """Data, threat, lengths, and recipes of one group of runs.

  Attributes:
    base: function that returns the configuration to start from.
    changes: fields that differ from `base`. Runs are reported at their last
      checkpoint, so validation only serves the log.
    num_examples: number of examples, from the start of the test split, on which
      all runs are reported.
    recipes: recipes to train, by title.
  """

  base: Callable[[], config_dict.ConfigDict]
  changes: Mapping[str, Any]
  num_examples: int
  recipes: Recipes


_DIGITS = Case(
  base=digits.get_config,
  changes={
    "train.validate_every": 40,
    "evaluation.attack": "apgd",
    "evaluation.batch_size": 125,
    "evaluation.epsilon_grid": (0.0, 0.15),
    "evaluation.num_pairs": 2048,
  },
  num_examples=500,
  recipes=EVERY,
)
CASES = {
  "digits": _DIGITS,
  "digits-lenses": dataclasses.replace(_DIGITS, recipes=LENSES),
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
    recipes=EVERY,
  ),
}


def configuration(
  case: Case, recipe: str, seed: int, data_dir: str | None = None
) -> config_lib.Config:
  """The checked configuration of a run, before `setup.resolve`."""
  config = case.base()
  config.seed = seed
  changes = {**case.changes, **case.recipes[recipe]}
  read = config_lib.ARGUMENTS[changes.get("objective.name", "standard")]
  # Settings of attacks in a case apply only to recipes that attack.
  unread = {
    f"objective.{field}"
    for arguments in config_lib.ARGUMENTS.values()
    for field in {*arguments.values()} - {*read.values()}
  }
  own = {k: v for k, v in case.changes.items() if k not in unread}
  config.update_from_flattened_dict({**own, **case.recipes[recipe]})
  if data_dir is not None:
    config.data.data_dir = data_dir
  return config_lib.from_config_dict(config)


def report_path(
  folder: pathlib.Path, case: str, seed: int, recipe: str
) -> pathlib.Path:
  """Path of the report of a run, below the workdir of the run."""
  return folder / case / f"seed-{seed}" / recipe / "report" / "report.json"


def missing(
  folder: pathlib.Path, case: str, seeds: int
) -> list[tuple[int, str]]:
  """(seed, recipe) of every run without a report, one seed after the other."""
  return [
    (seed, recipe)
    for seed in range(seeds)
    for recipe in CASES[case].recipes
    if not report_path(folder, case, seed, recipe).exists()
  ]


def train_and_report(
  config: config_lib.Config,
  source: data.DataSource,
  path: pathlib.Path,
  *,
  num_examples: int,
) -> None:
  """Trains a run to its end and writes its report, as the entry points do.

  Args:
    config: configuration of the run.
    source: the data.
    path: path of the report to write.
    num_examples: number of examples, from the start of the test split, for the
      report.
  """
  output, directory = path.parent, path.parents[1]
  config = setup.resolve(config, source)
  validate = validation.of_run(config, source)
  training.train(config, source.train, validate, workdir=directory)
  report.build(
    [training.restore_run(directory, checkpoint=checkpoints.LAST)],
    source,
    config.evaluation,
    output=output,
    num_examples=num_examples,
  )


def run(
  folder: pathlib.Path, case: str, *, seeds: int, data_dir: str | None = None
) -> None:
  """Makes every report that is missing."""
  if seeds < 1:
    raise ValueError(f"Expected seeds >= 1, got {seeds}.")
  settings = CASES[case]
  tasks = missing(folder, case, seeds)
  total = seeds * len(settings.recipes)
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
  begin = time.monotonic()
  for number, (seed, recipe) in enumerate(tasks, 1):
    train_and_report(
      configuration(settings, recipe, seed, data_dir),
      source,
      report_path(folder, case, seed, recipe),
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
    ValueError: two reports were made with different settings.
  """
  recipes, seeds, settings = CASES[case].recipes, [], None
  for seed in itertools.count():
    if not (folder / case / f"seed-{seed}").exists():
      break
    paths = [report_path(folder, case, seed, recipe) for recipe in recipes]
    if not all(path.exists() for path in paths):
      continue
    seeds.append([report.load(path) for path in paths])
    settings = settings or seeds[0][0]["settings"]
    for path, found in zip(paths, seeds[-1], strict=True):
      if found["settings"] != settings:
        raise ValueError(
          f"Expected the settings of the other reports in {path}, got others; "
          "remove it."
        )
  return {
    recipe: [row[number] for row in seeds]
    for number, recipe in enumerate(recipes if seeds else ())
  }


def spread(values: Sequence[float]) -> str:
  """Mean ± standard deviation (n - 1), to two digits of the latter.

  A single value is shown without a deviation; n/a where a value is not finite.
  """
  mean = statistics.fmean(values)
  if not math.isfinite(mean):
    return "n/a"
  deviation = statistics.stdev(values) if len(values) > 1 else 0.0
  if not deviation:
    return f"{mean:.3g}" + " ± 0" * (len(values) > 1)
  digits_after = max(0, 1 - math.floor(math.log10(deviation)))
  return f"{mean:.{digits_after}f} ± {deviation:.{digits_after}f}"


def _strongest(run: Mapping[str, Any]) -> Mapping[str, Any]:
  """The epsilon lens under all attacks: the least that is left."""
  return run["strength_curve"][-1]


def _fisher(title: str, norm: str, statistic: str) -> Column:
  return f"{title} {statistic}", lambda r: r["fisher"][norm][statistic]


COLUMNS: tuple[Column, ...] = (
  ("clean %", lambda r: 100 * r["performance"]["accuracy"]),
  ("robust %", lambda r: 100 * r["robustness"]["accuracy"]),
  ("CCKL", lambda r: r["information"]["cckl"]),
  _fisher("λmax(F)", "spectral_norm", "mean"),
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
  _fisher("λmax(F)", "spectral_norm", "median"),
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
  """Lines of a Markdown table, one row per recipe."""
  yield "| | " + " | ".join(title for title, _ in columns) + " |"
  yield "|---" * (len(columns) + 1) + "|"
  for recipe, found in reports.items():
    cells = [
      spread([read(entry["runs"][0]) for entry in found]) for _, read in columns
    ]
    yield f"| `{recipe}` | " + " | ".join(cells) + " |"


def table(folder: pathlib.Path) -> str:
  """Two Markdown tables per case, over its complete seeds.

  Raises:
    ValueError: no seed of any case is complete, or reports differ in settings.
  """
  lines = []
  for case in CASES:
    reports = complete(folder, case)
    if not reports:
      continue
    entries = [entry for found in reports.values() for entry in found]
    first, seeds = entries[0], len(entries) // len(reports)
    robustness = first["runs"][0]["robustness"]
    doubts = [
      f"{recipe}: {entry['runs'][0]['robustness']['sanity']['verdict']}"
      for recipe, found in reports.items()
      for entry in found
      if not entry["runs"][0]["robustness"]["sanity"]["trustworthy"]
    ]
    lines += [
      f"### {case}: {seeds} seed{'s' * (seeds > 1)}, "
      f"{first['data']['num_examples']} test images, {robustness['attack']} "
      f"at {robustness['norm']} {robustness['epsilon']:g}",
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
  """Runs one action; errors that a user can act on are one line."""
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
