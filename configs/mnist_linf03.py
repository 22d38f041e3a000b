r"""MNIST at linf 0.3, the ball of Madry et al. (2018), with the small CNN.

  python train.py --config=configs/mnist_linf03.py --workdir=runs/mnist-linf03
  python evaluate.py --workdir=runs/mnist-linf03 \
    --output=runs/mnist-linf03-report --attack=autoattack

PGD training in a ball slightly larger than the ball of the evaluation. The
radius rises from 0 over the first two fifths of training. Weights are averaged.
For the results see docs/results/mnist.md.
"""

from ml_collections import config_dict

from robust_info import config as config_lib


def get_config() -> config_dict.ConfigDict:
  """The configuration of the small CNN at linf 0.3."""
  config = config_lib.defaults()
  config.data.name = "mnist"
  config.model.name = "cnn"
  config.objective.name = "pgd"
  config.objective.epsilon = 0.32
  config.objective.epsilon_ramp = 0.4
  config.evaluation.epsilon = 0.3
  config.evaluation.epsilon_grid = (0.0, 0.1, 0.2, 0.3, 0.4)
  config.evaluation.validation_examples = 1000
  config.train.num_epochs = 30
  config.train.batch_size = 128
  config.train.learning_rate = 3e-3
  config.train.schedule = "cyclic"
  config.train.ema_decay = 0.999
  config.train.validate_every = 3
  return config
