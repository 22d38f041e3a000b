r"""MNIST, 28x28, prepared by TensorFlow Datasets.

  python train.py --config=configs/mnist.py --workdir=runs/mnist-standard
  python train.py --config=configs/mnist.py --workdir=runs/mnist-pgd \
    --config.objective.name=pgd

If the prepared data is not in TFDS's own directory, add
--config.data.data_dir=DIR.

Seed 0, last checkpoint, whole test split, PGD-20 at linf 0.1; times, machine
and all other numbers are in docs/results/mnist.md:

  objective   accuracy   under attack
  standard    .989       .241
  pgd         .991       .948
"""

from ml_collections import config_dict

from robust_info import config as config_lib


def get_config() -> config_dict.ConfigDict:
  """The configuration of the small CNN at linf 0.1."""
  config = config_lib.defaults()
  config.data.name = "mnist"
  config.model.name = "cnn"
  config.objective.epsilon = 0.1
  config.objective.epsilon_ramp = 0.25
  config.evaluation.epsilon = 0.1
  config.evaluation.epsilon_grid = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2)
  config.train.num_epochs = 6
  config.train.batch_size = 128
  config.train.learning_rate = 1e-3
  return config
