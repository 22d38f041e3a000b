"""What a configuration makes of the parts of training."""

import functools
from collections.abc import Callable

import jax
import optax
from flax import linen as nn

from robust_info import config as config_lib
from robust_info import data, models, objectives, optimizers, train_step
from robust_info import train_state as train_state_lib


def model(config: config_lib.ModelConfig) -> nn.Module:
  """The model of a resolved configuration."""
  return models.create(
    config.name,
    num_classes=config.num_classes,
    activation=config.activation,
    features=config.features,
    hidden_sizes=config.hidden_sizes,
    variant=config.variant,
    width=config.width,
    mean=config.mean,
    std=config.std,
    dtype=config.dtype,
    remat=config.remat,
  )


def step(
  config: config_lib.Config,
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  *,
  num_steps: int,
) -> train_step.TrainStep:
  """The compiled step of a run of `num_steps`."""
  return train_step.make_train_step(
    model,
    optimizer,
    objectives.create(config.objective),
    num_steps=num_steps,
    accumulate=config.train.accumulate,
    augment=_augmentation(config.data),
    awp_gamma=config.objective.awp_gamma,
    awp_warmup=config.objective.awp_warmup,
    ema_decay=config.train.ema_decay,
  )


def initial_state(
  config: config_lib.Config,
  model: nn.Module,
  optimizer: optax.GradientTransformation,
) -> train_state_lib.TrainState:
  """The state before the first step."""
  return train_step.create_state(
    model,
    optimizer,
    seed=config.seed,
    image_shape=config.model.image_shape,
    averaged=config.train.ema_decay > 0,
  )


def abstract_state(
  config: config_lib.Config, model: nn.Module
) -> train_state_lib.TrainState:
  """Shapes and dtypes of the state of a run."""
  # The structure of the optimiser's state does not depend on the steps.
  optimizer = optimizers.create(config.train, 1)
  return jax.eval_shape(lambda: initial_state(config, model, optimizer))


def _augmentation(
  config: config_lib.DataConfig,
) -> Callable[[jax.Array, jax.Array], jax.Array] | None:
  if config.augment == "none":
    return None
  return functools.partial(data.crop_flip, padding=config.crop_padding)
