r"""Reports on one or several runs, side by side, on the whole test split.

  python evaluate.py --workdir=runs/digits-standard --workdir=runs/digits-pgd \
    --output=runs/digits-report

Prints a table, and writes it, report.json and figures to --output. A report
that was stopped goes on where it was when it is started again.

  python evaluate.py --workdir=runs/digits-pgd --output=runs/digits-strong \
    --attack=autoattack --norm=linf --epsilon=0.1 --num_examples=1000

Every robust accuracy comes with checks that tell whether it can be believed.
"""

import dataclasses
import math
import pathlib

from absl import flags

from robust_info import (
  checkpoints,
  command_line,
  data,
  processes,
  report,
  tables,
  training,
  workdir,
)
from robust_info import config as config_lib

_WORKDIR = flags.DEFINE_multi_string(
  "workdir", None, "Directory of a run; repeat it to compare several."
)
_OUTPUT = flags.DEFINE_string("output", None, "Directory of the report.")
_CHECKPOINT = flags.DEFINE_enum(
  "checkpoint",
  "last",
  ["last", "best", "both"],
  "Which checkpoint: the last, or the best by robust validation accuracy.",
)
_DATA_DIR = flags.DEFINE_string(
  "data_dir", None, "Where the data lies, if elsewhere than in training."
)
# Of a key without 64-bit types only 32 bits of the seed count.
_SEED = flags.DEFINE_integer(
  "seed", 0, "Seed of attacks and pairs.", 0, 2**32 - 1
)
_NUM_EXAMPLES = flags.DEFINE_integer(
  "num_examples", None, "Only the first examples of the test split.", 1
)
# Settings of the first run's configuration that can be given anew.
_OVERRIDES = (
  flags.DEFINE_enum("norm", None, ["linf", "l2"], "Norm of the ball."),
  flags.DEFINE_float("epsilon", None, "Radius of the ball.", 0.0),
  flags.DEFINE_enum(
    "attack", None, config_lib.ATTACKS, "What attacks, beside PGD."
  ),
  flags.DEFINE_enum(
    "autoattack_version", None, ["standard", "plus"], "Of --attack=autoattack."
  ),
  flags.DEFINE_integer(
    "sanity_examples", None, "Examples of the sanity checks.", 1
  ),
  flags.DEFINE_integer("num_steps", None, "Steps of the PGD attack.", 1),
  flags.DEFINE_integer("restarts", None, "Restarts of the PGD attack.", 1),
  flags.DEFINE_integer("num_pairs", None, "Pairs of the path lens.", 1),
  flags.DEFINE_integer(
    "num_coarse_pairs", None, "Pairs of local and coarse path lens.", 1
  ),
  flags.DEFINE_integer("num_nodes", None, "Segments of the path lens.", 1),
  flags.DEFINE_integer("batch_size", None, "Examples a batch.", 1),
)
_GRID = flags.DEFINE_list(
  "epsilon_grid", None, "Radii of the accuracy curve, as 0.1,0.2."
)
flags.mark_flags_as_required(["workdir", "output"])


def _is_radius(value: float | str) -> bool:
  try:
    return math.isfinite(float(value)) and float(value) >= 0
  except ValueError:
    return False


flags.register_validator(
  "epsilon",
  lambda value: value is None or _is_radius(value),
  message="Expected a finite radius >= 0.",
)
flags.register_validator(
  "epsilon_grid",
  lambda values: values is None or all(map(_is_radius, values)),
  message="Expected finite radii >= 0, as 0.1,0.2.",
)


def main() -> None:
  """Flags to runs to one call."""
  which = _CHECKPOINT.value
  checkpoints_wanted = ("last", "best") if which == "both" else (which,)
  runs = [
    training.restore_run(path, checkpoint=checkpoint)
    for path in _WORKDIR.value
    for checkpoint in checkpoints_wanted
  ]
  config = runs[0].config
  overrides = {
    flag.name: flag.value for flag in _OVERRIDES if flag.value is not None
  }
  if _GRID.value is not None:
    overrides["epsilon_grid"] = tuple(map(float, _GRID.value))
  source = data.load(
    config.data.name,
    data_dir=_DATA_DIR.value or config.data.data_dir,
    validation_fraction=config.data.validation_fraction,
    validation_seed=config.data.validation_seed,
    cache_dir=config.data.cache_dir,
    streaming=config.data.streaming,
    progress=processes.is_first(),
  )
  found = report.build(
    runs,
    source,
    dataclasses.replace(config.evaluation, **overrides),
    output=_OUTPUT.value,
    seed=_SEED.value,
    num_examples=_NUM_EXAMPLES.value,
  )
  if not processes.is_first():
    return
  table = tables.render(found)
  output = pathlib.Path(_OUTPUT.value)
  (output / "report.txt").write_text(table + "\n", encoding="utf-8")
  print(table)
  print(f"\nReport and figures in {output}: report.json, report.txt", end="")
  print("".join(f", {path.name}" for path in sorted(output.glob("*.png"))))


if __name__ == "__main__":
  command_line.run(
    main,
    errors=(
      checkpoints.CheckpointError,
      data.UnavailableError,
      processes.JoinError,
      workdir.WorkdirError,
    ),
  )
