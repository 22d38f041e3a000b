"""A configuration file with a part of every kind."""

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from robust_info import config as config_lib
from robust_info import models, objectives
from robust_info.data import augmentation
from robust_info.evaluation import own_attack
from robust_info.training import optimizers


@models.register("dense")
class Dense(nn.Module):
  """A hidden layer; it takes neither `train` nor `where`."""

  num_classes: int
  mean: tuple[float, ...] = ()
  width: int = 4
  activation: str = "tanh"
  kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()

  @nn.compact
  def __call__(self, x):
    x = x.reshape(len(x), -1) - jnp.mean(jnp.asarray(self.mean))
    x = getattr(nn, self.activation)(nn.Dense(self.width)(x))
    return nn.Dense(self.num_classes)(x)


@objectives.register("brier")
def brier(network, batch, key, *, progress, label_smoothing, power: float = 2):
  """The Brier score."""
  del key, progress
  logits, batch_stats = network.train(batch.image, batch.mask)
  aim = jax.nn.one_hot(batch.label, logits.shape[1])
  aim = optax.smooth_labels(aim, label_smoothing)
  loss = jnp.sum(jnp.abs(jax.nn.softmax(logits) - aim) ** power, axis=-1)
  return objectives.Outcome(loss, {"brier": loss}, batch_stats)


@augmentation.register("darker")
def darker(images, key, *, share: float = 0.1):
  """Random factors of the brightness."""
  factor = jax.random.uniform(key, (len(images), 1, 1, 1), minval=1 - share)
  return images * factor


@optimizers.register("lion")
def lion(schedule, *, weight_decay, b1: float = 0.9):
  """Lion, with the project's schedule."""
  return optax.lion(schedule, b1=b1, weight_decay=weight_decay)


@own_attack.register("shift")
def shift(logits_fn, x, label, key, *, epsilon, where, factor: float = 1.0):
  """All pixels up; with a factor above 1 it leaves the ball."""
  del logits_fn, label, key, where
  return jnp.clip(x + factor * epsilon, 0, 1)


def get_config():
  """A run that uses all of them."""
  config = config_lib.defaults()
  config.model.name = "dense"
  config.model.dense.width = 6
  config.objective.name = "brier"
  config.data.augment = "darker"
  config.train.optimizer = "lion"
  config.train.num_epochs = 2
  config.train.batch_size = 16
  config.evaluation.attack = "shift"
  return config
