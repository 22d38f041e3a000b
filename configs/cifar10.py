r"""CIFAR-10, 32x32 in colour, prepared by TensorFlow Datasets: PGD training.

  python train.py --config=configs/cifar10.py --workdir=runs/cifar10-pgd
  python train.py --config=configs/cifar10.py --workdir=runs/cifar10-standard \
    --config.objective.name=standard

If the prepared data is not in TFDS's own directory, add
--config.data.data_dir=DIR. On a GPU add --config.model.dtype=bfloat16. For the
networks of the paper's table: --config.model.name=vgg13 with
--config.model.variant=pure_linear, half_linear or relu and
--config.train.learning_rate=0.01 (they have no BatchNorm), or
--config.model.name=resnet20 and resnet32 with --config.model.width=1, 5 or 10;
with --config.model.width=0.25 the VGGs have a sixteenth of their parameters.

The usual recipe for linf 8/255 (Madry et al. 2018): PGD-10 with steps of 2/255,
SGD with momentum, weight decay on kernels only. Made for a GPU and not yet run
to its end. Published numbers for a ResNet-18 trained in this way, but with
random crops and flips, which are not part of this configuration: 52.7 % under
PGD-10, 48.7 % under AutoAttack. Expect less, and the best checkpoint soon after
the first decay of the learning rate (robust overfitting).
"""

from ml_collections import config_dict

from robust_info import config as config_lib


def get_config() -> config_dict.ConfigDict:
  """The configuration of PreActResNet-18 with PGD-10 at linf 8/255."""
  config = config_lib.defaults()
  config.data.name = "cifar10"
  config.model.name = "preact_resnet18"
  config.objective.name = "pgd"
  config.objective.epsilon = 8 / 255
  config.evaluation.epsilon = 8 / 255
  config.evaluation.epsilon_grid = tuple(k / 255 for k in (0, 2, 4, 8, 12, 16))
  config.evaluation.validation_examples = 1000
  config.train.num_epochs = 60
  config.train.batch_size = 128
  config.train.optimizer = "sgd"
  config.train.learning_rate = 0.1
  config.train.schedule = "piecewise"
  config.train.decay_at = (0.5, 0.75)
  config.train.weight_decay = 5e-4
  return config
