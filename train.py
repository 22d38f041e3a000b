r"""Trains a classifier; an interrupted run resumes when started again.

  python train.py --config=configs/digits.py --workdir=runs/digits-pgd \
    --config.objective.name=pgd

Every field of the configuration can be set as --config.SECTION.FIELD=VALUE.
Training uses all visible devices; for several hosts see docs/guide/scaling.md.
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

from absl import flags

from robust_info import data, training
from robust_info.evaluation import validation
from robust_info.runtime import command_line, memory, processes
from robust_info.training import checkpoints, setup, workdir

_CONFIG = command_line.define_config()
_WORKDIR = command_line.define_directory("workdir", "Directory of the run.")
_INIT_FROM = command_line.define_directory(
  "init_from",
  "Directory of another run of the same model: a new run starts with the "
  "weights of its last checkpoint.",
)
flags.mark_flags_as_required(["config", "workdir"])


def main() -> None:
  """Trains the run that the flags describe."""
  config = command_line.checked_config(_CONFIG)
  source = data.from_config(config.data, progress=processes.is_first())
  config = setup.resolve(config, source)
  training.train(
    config,
    source.train,
    validation.of_run(config, source),
    workdir=_WORKDIR.value,
    init_from=_INIT_FROM.value,
  )


if __name__ == "__main__":
  command_line.run(
    main,
    groups={"The run": ("config", "workdir", "init_from")},
    with_fields=True,
    errors=(
      checkpoints.CheckpointError,
      data.UnavailableError,
      memory.OutOfMemoryError,
      processes.DisagreementError,
      processes.JoinError,
      training.NonFiniteError,
      workdir.WorkdirError,
    ),
  )
