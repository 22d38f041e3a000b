r"""Evaluates one or several runs on the whole test split and reports on them.

  python evaluate.py --workdir=runs/digits-standard --workdir=runs/digits-pgd \
    --output=runs/digits-report

Prints a table, and writes it, the page report.html, report.json and figures to
--output. A report that was stopped resumes when started again.

  python evaluate.py --workdir=runs/digits-pgd --output=runs/digits-strong \
    --attack=autoattack --norm=linf --epsilon=0.1 --num_examples=1000

Every robust accuracy comes with checks of whether it can be trusted.
"""

# ruff: noqa: E402
import os
import signal


def _stop(number: int, frame: object) -> None:
  """Exits at once; no work has begun during the imports."""
  os.write(2, f"Error: Stopped by signal {number}.\n".encode())
  os._exit(128 + number)


if __name__ == "__main__":
  signal.signal(signal.SIGINT, _stop)
  signal.signal(signal.SIGTERM, _stop)

import pathlib
from typing import Any

import numpy as np
from absl import flags

from robust_info import config as config_lib
from robust_info import data, report, training
from robust_info.report import table as table_lib
from robust_info.runtime import command_line, environment, memory, processes
from robust_info.training import agreement, checkpoints, memory_needs, workdir

_WORKDIR = flags.DEFINE_multi_string(
  "workdir", None, "Directory of a run; repeat it to compare several."
)
command_line.require_path("workdir")
_OUTPUT = command_line.define_directory("output", "Directory of the report.")
_CHECKPOINT = flags.DEFINE_enum(
  "checkpoint",
  "last",
  ["last", "best", "both"],
  "Which checkpoint: the last, or the best by robust validation accuracy.",
)
# The directories stored with the run belong to the machine it was trained on.
_DATA_DIR = command_line.define_directory(
  "data_dir", "Where the data lies, if elsewhere than in training."
)
_DATA_PATH = command_line.define_directory(
  "data_path",
  "Where the arrays, pictures or Parquet files of one's own lie, if elsewhere.",
)
_CACHE_DIR = command_line.define_directory(
  "cache_dir", "Where decoded images are kept, if elsewhere than in training."
)
_STREAMING = flags.DEFINE_bool(
  "streaming", None, "Whether training images stay encoded; test images do not."
)
# Without 64-bit types a key depends on 32 bits of the seed only.
_SEED = flags.DEFINE_integer(
  "seed", 0, "Seed of attacks and pairs.", 0, 2**32 - 1
)
_NUM_EXAMPLES = flags.DEFINE_integer(
  "num_examples", None, "Only the first examples of the test split.", 1
)
# They replace settings of the first run.
_SETTINGS = command_line.define_fields(
  config_lib.EvaluationConfig,
  # Of validation while training alone.
  leave_out=["validation_examples"],
)
flags.mark_flags_as_required(["workdir", "output"])


def _settings(
  stored: config_lib.EvaluationConfig,
) -> config_lib.EvaluationConfig:
  """The settings of the first run, with the values that the flags replace."""
  try:
    return config_lib.replace_evaluation(
      stored, **command_line.field_values(_SETTINGS)
    )
  except ValueError as error:
    raise ValueError(str(error).replace("config.evaluation.", "--")) from error


def _require_two_classes(labels: np.ndarray) -> None:
  """Information about the class, and cross-category pairs, need two classes."""
  number = _NUM_EXAMPLES.value
  others = np.flatnonzero(labels != labels[0])
  if number is not None and len(others) and number <= others[0]:
    raise ValueError(
      "Expected --num_examples to take in two classes, at least "
      f"{others[0] + 1}, got --num_examples={number}."
    )


def _asked() -> dict[str, Any]:
  """The settings that the processes of one report have to agree on."""
  given = (*_SETTINGS, _SEED, _NUM_EXAMPLES, _CHECKPOINT)
  return {
    **{f"--{flag.name}": flag.value for flag in given},
    "number of runs": len(_WORKDIR.value),
    **environment.agreed_versions(),
  }


def main() -> None:
  """Evaluates the runs that the flags name and writes the report."""
  processes.require_same(_asked)
  which = _CHECKPOINT.value
  checkpoints_wanted = ("last", "best") if which == "both" else (which,)
  runs = [
    training.restore_run(path, checkpoint=checkpoint)
    for path in _WORKDIR.value
    for checkpoint in checkpoints_wanted
  ]
  config, settings = runs[0].config, _settings(runs[0].config.evaluation)
  source = data.from_config(
    data.relocated(
      config.data,
      data_dir=_DATA_DIR.value,
      path=_DATA_PATH.value,
      cache_dir=_CACHE_DIR.value,
      streaming=_STREAMING.value,
    ),
    progress=processes.is_first(),
  )
  _require_two_classes(source.test.labels)
  processes.require_same(
    lambda: {"test data": agreement.data_digest(source.test)}
  )
  with memory.explained(lambda: memory_needs.of_evaluation(config, settings)):
    found = report.build(
      runs,
      source,
      settings,
      output=_OUTPUT.value,
      seed=_SEED.value,
      num_examples=_NUM_EXAMPLES.value,
    )
  if not processes.is_first():
    return
  table = table_lib.render(found)
  output = pathlib.Path(_OUTPUT.value)
  (output / "report.txt").write_text(table + "\n", encoding="utf-8")
  print(table)
  names = [
    "report.json",
    "report.txt",
    *sorted(p.name for p in output.glob("*.png")),
  ]
  print(f"\nOpen {output / 'report.html'}; it comes with {', '.join(names)}")


if __name__ == "__main__":
  command_line.run(
    main,
    errors=(
      checkpoints.CheckpointError,
      data.UnavailableError,
      memory.OutOfMemoryError,
      processes.DisagreementError,
      processes.JoinError,
      workdir.WorkdirError,
    ),
  )
