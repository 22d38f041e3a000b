r"""Handwritten digits, 8x8, embedded in the package.

  python train.py --config=configs/digits.py --workdir=runs/digits-standard
  python train.py --config=configs/digits.py --workdir=runs/digits-pgd \
    --config.objective.name=pgd

Seed 0, 2 CPU cores, last checkpoint, 500 test digits, PGD-20 at linf 0.15, as
reported by evaluate.py; `make demo` runs all of it in about four minutes:

  objective   accuracy   under attack
  standard    .982       .166
  pgd         .968       .702
"""

from ml_collections import config_dict

from robust_info import config as config_lib


def get_config() -> config_dict.ConfigDict:
  """The configuration of the demonstration."""
  config = config_lib.defaults()
  config.data.name = "digits"
  config.model.name = "cnn"
  config.objective.epsilon = 0.15
  config.evaluation.epsilon = 0.15
  config.evaluation.epsilon_grid = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3)
  config.evaluation.num_pairs = 256
  config.train.num_epochs = 40
  config.train.validate_every = 2
  config.train.batch_size = 128
  config.train.learning_rate = 5e-3
  return config
