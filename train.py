r"""Trains a classifier; an interrupted run resumes by itself.

  python train.py --config=configs/digits.py --workdir=runs/digits-pgd \
    --config.objective.name=pgd

Every field of the configuration can be set as --config.SECTION.FIELD=VALUE.
All visible devices train together; for several hosts see docs/scaling.md.
"""

from absl import flags
from ml_collections import config_flags

from robust_info import (
  checkpoints,
  command_line,
  data,
  processes,
  resolution,
  training,
  validation,
  workdir,
)

_CONFIG = config_flags.DEFINE_config_file("config", None, "Configuration file.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Directory of the run.")
flags.mark_flags_as_required(["config", "workdir"])


def main() -> None:
  """Flags to a configuration to one call."""
  config = command_line.checked_config(_CONFIG)
  source = data.load(
    config.data.name,
    data_dir=config.data.data_dir,
    validation_fraction=config.data.validation_fraction,
    validation_seed=config.data.validation_seed,
    cache_dir=config.data.cache_dir,
    streaming=config.data.streaming,
    progress=processes.is_first(),
  )
  config = resolution.resolve(config, source)
  validate = validation.of_run(config, source)
  training.train(config, source.train, validate, workdir=_WORKDIR.value)


if __name__ == "__main__":
  command_line.run(
    main,
    errors=(
      checkpoints.CheckpointError,
      data.UnavailableError,
      processes.JoinError,
      training.NonFiniteError,
      workdir.WorkdirError,
    ),
  )
