r"""Evaluates networks on the whole test split of their data: runs, and others.

  python evaluate.py --workdir=runs/digits-standard --workdir=runs/digits-pgd \
    --output=runs/digits-report

Prints a table, and writes it, the page report.html, report.json and figures to
--output. A report that was stopped resumes when started again.

A network of your own is what a function of a Python file returns: a module of
Flax, Equinox, Keras or PyTorch, or a function of images; the configuration
names the data.

  python evaluate.py --model=my_network.py:load --config=configs/cifar10.py \
    --output=runs/my-report

  python evaluate.py --workdir=runs/digits-pgd --output=runs/digits-strong \
    --attack=autoattack --norm=linf --epsilon=0.1 --num_examples=1000

Every robust accuracy comes with checks of whether it can be trusted.
"""

# ruff: noqa: E402
import os
import signal
import sys


def _stop(number: int, frame: object) -> None:
  """Exits at once; no work has begun during the imports."""
  os.write(2, f"Error: Stopped by signal {number}.\n".encode())
  os._exit(128 + number)


def _name_missing(kind: type, error: BaseException, traceback: object) -> None:
  """Reports a package that is not installed in one line."""
  name = getattr(error, "name", None) or ""
  if isinstance(error, ModuleNotFoundError) and "robust_info" not in name:
    fix = "pip install '.[train]', or use .venv/bin/python after make demo"
    os.write(2, f"Error: {error} in {sys.prefix}; {fix}.\n".encode())
  else:
    sys.__excepthook__(kind, error, traceback)


if __name__ == "__main__":
  signal.signal(signal.SIGINT, _stop)
  signal.signal(signal.SIGTERM, _stop)
  sys.excepthook = _name_missing

import dataclasses
import pathlib
from typing import Any

import numpy as np
from absl import flags

from robust_info import config as config_lib
from robust_info import data, report, training
from robust_info.config import file as file_lib
from robust_info.config import registry
from robust_info.report import networks
from robust_info.report import table as table_lib
from robust_info.runtime import (
  command_line,
  environment,
  memory,
  processes,
  streams,
)
from robust_info.training import agreement, checkpoints, own_parts, workdir

_WORKDIR = flags.DEFINE_multi_string(
  "workdir", [], "Directory of a run; repeat it to compare several."
)
_MODEL = flags.DEFINE_multi_string(
  "model",
  [],
  "FILE.py:FUNCTION, which returns a network; repeat it to compare several.",
)
command_line.require_path("workdir")
command_line.require_path("model")
_CONFIG = command_line.define_config(
  help_text="Configuration file: without --workdir, the data and the settings "
  "of the evaluation; with it, only the parts that it registers."
)
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
# Field of the data -> the flag that replaces it.
_DATA_FLAGS = {
  "data_dir": "--data_dir",
  "path": "--data_path",
  "cache_dir": "--cache_dir",
  "streaming": "--streaming",
}
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
  open_choices=["attack"],
)
flags.mark_flags_as_required(["output"])
# Of --help.
GROUPS = {
  "Networks": ("workdir", "checkpoint", "model", "config"),
  "Results": ("output", "seed"),
  "Threat and attacks": (
    "norm",
    "epsilon",
    "epsilon_grid",
    "attack",
    "autoattack_version",
    "num_steps",
    "restarts",
    "sanity_examples",
  ),
  "Sizes": (
    "num_examples",
    "batch_size",
    "num_pairs",
    "num_coarse_pairs",
    "num_nodes",
  ),
  "Places of the data": ("data_dir", "data_path", "cache_dir", "streaming"),
}


@flags.multi_flags_validator(
  ["attack", "workdir"],
  f"Expected --attack to be one of {', '.join(config_lib.ATTACKS)}, or "
  "registered by a configuration file.",
)
def _attack_may_exist(values: dict[str, Any]) -> bool:
  """Names of attacks that a run has registered are not known yet."""
  known = {None, *config_lib.ATTACKS}
  known |= {part.name for part in registry.active() if part.kind == "attack"}
  stored = [pathlib.Path(run) / own_parts.NAME for run in values["workdir"]]
  return values["attack"] in known or any(path.exists() for path in stored)


def _settings(
  stored: config_lib.EvaluationConfig,
) -> config_lib.EvaluationConfig:
  """The stored settings, with the values that the flags replace."""
  changes = command_line.field_values(_SETTINGS)
  name = changes.get("attack", stored.attack)
  changes |= _of_own_attack(stored, name)
  if _WORKDIR.value:
    _require_effect(f"evaluation.{name}." if name in changes else None)
  try:
    return config_lib.replace_evaluation(stored, **changes)
  except ValueError as error:
    raise ValueError(str(error).replace("config.evaluation.", "--")) from error


def _of_own_attack(
  stored: config_lib.EvaluationConfig, name: str
) -> dict[str, Any]:
  """The section of an attack of --config, whose settings have no flags."""
  own = {part.name for part in registry.active() if part.kind == "attack"}
  if _CONFIG.value is None or name not in own:
    return {}
  section = _CONFIG.value.evaluation[name].to_dict()
  if stored.attack == name:
    given = command_line.overrides(_CONFIG)
    section = dataclasses.asdict(getattr(stored, name)) | {
      field: value
      for field, value in section.items()
      if f"evaluation.{name}.{field}" in given
    }
  return {name: section}


def _require_effect(prefix: str | None) -> None:
  """Refuses fields of --config that the settings of a run stand for."""
  for field in command_line.overrides(_CONFIG):
    if prefix and field.startswith(prefix):
      continue
    flag = field.removeprefix("evaluation.")
    fix = "leave it out"
    if flag in {setting.name for setting in _SETTINGS}:
      fix = f"use --{flag}"
    raise ValueError(
      f"Expected no --config.{field} with --workdir, whose stored "
      f"configuration holds; {fix}."
    )


def _runs() -> list[training.Run]:
  which = _CHECKPOINT.value
  checkpoints_wanted = ("last", "best") if which == "both" else (which,)
  configuration = command_line.config_file(_CONFIG)
  return [
    training.restore_run(
      path,
      checkpoint=checkpoint,
      configuration=configuration,
    )
    for path in _WORKDIR.value
    for checkpoint in checkpoints_wanted
  ]


def _base(runs: list[training.Run]) -> config_lib.Config:
  """The configuration with the data and the settings of the report."""
  if runs:
    return runs[0].config
  if not _MODEL.value:
    raise ValueError(
      "Expected a network, got none; give --workdir=RUN or "
      "--model=FILE.py:FUNCTION."
    )
  if _CONFIG.value is None:
    raise ValueError(
      "Expected --config with the data for --model, got none; for example "
      "--config=configs/cifar10.py."
    )
  return command_line.checked_config(_CONFIG)


def _fitting(
  settings: config_lib.EvaluationConfig, found: list[networks.Network]
) -> config_lib.EvaluationConfig:
  """The settings, with batches that networks of any size can be given."""
  size = processes.on_first(lambda: networks.fitting_batch(found, settings))
  if size < settings.batch_size and processes.is_first():
    streams.note(
      f"Batches of {size} images instead of {settings.batch_size}, to fit in "
      "memory; --batch_size sets another size."
    )
  return dataclasses.replace(settings, batch_size=size)


def _require_two_classes(labels: np.ndarray) -> None:
  """Information about the class, and cross-category pairs, need two classes."""
  number = _NUM_EXAMPLES.value
  others = np.flatnonzero(labels != labels[0])
  if number is not None and len(others) and number <= others[0]:
    raise ValueError(
      "Expected --num_examples to take in two classes, at least "
      f"{others[0] + 1}, got --num_examples={number}."
    )


def _note_sorted_data(labels: np.ndarray) -> None:
  """The first examples stand for all only if classes come in any order."""
  number = _NUM_EXAMPLES.value
  if number is None or number >= len(labels) or not processes.is_first():
    return
  if too_few := data.classes_at_first(labels, number):
    found, usual = too_few
    streams.note(
      f"Warning: --num_examples={number} takes the first examples, which have "
      f"{found} classes where a random choice would have about {usual}: the "
      "data are sorted. Evaluate all of them, or shuffle the test split."
    )


def _asked() -> dict[str, Any]:
  """The settings that the processes of one report have to agree on."""
  given = (*_SETTINGS, _SEED, _NUM_EXAMPLES, _CHECKPOINT)
  return {
    **{f"--{flag.name}": flag.value for flag in given},
    "number of runs": len(_WORKDIR.value),
    "number of models": len(_MODEL.value),
    **environment.agreed_versions(),
  }


def main() -> None:
  """Evaluates the runs that the flags name and writes the report."""
  processes.require_same(_asked)
  runs = _runs()
  config = _base(runs)
  settings = _settings(config.evaluation)
  source = data.from_config(
    data.relocated(
      config.data,
      data_dir=_DATA_DIR.value,
      path=_DATA_PATH.value,
      cache_dir=_CACHE_DIR.value,
      streaming=_STREAMING.value,
    ),
    progress=processes.is_first(),
    flags=_DATA_FLAGS,
  )
  _require_two_classes(source.test.labels)
  _note_sorted_data(source.test.labels)
  processes.require_same(
    lambda: {"test data": agreement.data_digest(source.test)}
  )
  found = [networks.of_run(run) for run in runs]
  found += [networks.from_file(spec, source) for spec in _MODEL.value]
  if _MODEL.value and "batch_size" not in command_line.field_values(_SETTINGS):
    settings = _fitting(settings, found)
  with memory.explained(lambda: networks.memory_needs(found, settings)):
    written = report.build(
      [*runs, *found[len(runs) :]],
      source,
      settings,
      output=_OUTPUT.value,
      seed=_SEED.value,
      num_examples=_NUM_EXAMPLES.value,
    )
  if not processes.is_first():
    return
  output = pathlib.Path(_OUTPUT.value)
  table = table_lib.render(written)
  names = [
    "report.json",
    "report.txt",
    *sorted(p.name for p in output.glob("*.png")),
  ]
  page = output / "report.html"
  streams.say(f"{table}\n\nOpen {page}; it comes with {', '.join(names)}")


if __name__ == "__main__":
  command_line.run(
    main,
    groups=GROUPS,
    errors=(
      ImportError,
      checkpoints.CheckpointError,
      data.UnavailableError,
      file_lib.FileError,
      memory.OutOfMemoryError,
      processes.DisagreementError,
      processes.JoinError,
      workdir.WorkdirError,
    ),
  )
