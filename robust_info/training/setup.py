"""Builds the parts of training from a configuration."""

import dataclasses
import functools
import pathlib
import shlex
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from robust_info import config as config_lib
from robust_info import data, models, objectives
from robust_info.config import registry
from robust_info.runtime import sharding
from robust_info.training import optimizers
from robust_info.training import state as train_state_lib
from robust_info.training import step as train_step

# Bound, because steps are counted in float32 to compute a share of training,
# and because the learning rate of every step is tabulated.
_MAX_STEPS = 10**8


def resolve(
  config: config_lib.Config, source: data.DataSource
) -> config_lib.Config:
  """Fills in the fields that depend on the data.

  Args:
    config: configuration whose empty fields of `config.model` are filled in:
      number of classes, shape of the images, and their mean and standard
      deviation per channel over the training split (in [0, 1], rounded to six
      digits; a channel without variation gets 1). For data of one's own,
      `config.data.version` is filled in too, so that the run cannot resume on
      other data.
    source: the data.

  Returns:
    A configuration from which the model can be built without data.

  Raises:
    ValueError: the data have no training part, a given field does not fit
      them, or the model cannot be built, for example for images of this size.
  """
  if source.train is None:
    raise ValueError(
      f"Expected data with a training part, got only a test part of "
      f"{source.name}; evaluate.py --model reports on such data."
    )
  model = config.model
  found = {
    "num_classes": source.num_classes,
    "image_shape": tuple(source.image_shape),
  }
  for name, value in found.items():
    given = getattr(model, name)
    if given and given != value:
      raise ValueError(
        f"Expected config.model.{name} = {value}, that of {source.name}, got "
        f"{given}; leave it empty to take it from the data."
      )
  if not model.mean:
    found["mean"], found["std"] = data.channel_moments(source.train.images)
  elif len(model.mean) != source.image_shape[2]:
    raise ValueError(
      f"Expected config.model.mean with {source.image_shape[2]} entries, the "
      f"channels of {source.name}, got {model.mean}."
    )
  model = dataclasses.replace(model, **found)
  try:
    models.require_trainable(
      models.from_config(model), model.num_classes, model.image_shape
    )
  except ValueError as error:
    raise ValueError(f"In config.model: {error}") from error
  config = dataclasses.replace(config, model=model)
  if config.data.name not in config_lib.OWN:
    return config
  described = dataclasses.replace(config.data, version=source.version)
  return dataclasses.replace(config, data=described)


def step(
  config: config_lib.Config,
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  *,
  num_steps: int,
) -> train_step.TrainStep:
  """The compiled training step of a run of `num_steps` steps."""
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


def batch(
  config: config_lib.Config, split: data.Split, step: int
) -> data.Batch:
  """The batch of a step, counted from 1, on the devices."""
  size = config.train.batch_size
  rows = data.train_batch(
    split,
    seed=config.seed,
    step=step - 1,
    batch_size=size,
    rows=sharding.local_rows(size),
  )
  return sharding.split_rows(rows)


def initial_state(
  config: config_lib.Config,
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  *,
  weights: Mapping[str, Any] | None = None,
) -> train_state_lib.TrainState:
  """The training state before the first step.

  Args:
    config: resolved configuration.
    model: model of the configuration.
    optimizer: optimiser of the configuration.
    weights: variables to start from instead of new ones, on every device.
  """
  state = train_step.create_state(
    model,
    optimizer,
    seed=config.seed,
    image_shape=config.model.image_shape,
    averaged=config.train.ema_decay > 0,
  )
  return state if weights is None else train_state_lib.started(state, weights)


def nonfinite_line(
  config: config_lib.TrainConfig,
  step: int,
  last_good: int,
  rollbacks: int,
  workdir: pathlib.Path,
) -> str:
  """The error for numbers that are not finite, with possible remedies.

  Args:
    config: configuration of the run that stops.
    step: step after which numbers are not finite.
    last_good: step of the last checkpoint.
    rollbacks: number of earlier rollbacks of the run.
    workdir: directory of the run.
  """
  again, remedy = "", "on_nonfinite=rollback"
  if config.on_nonfinite == "rollback":
    again = f" (rolled back {rollbacks} times)"
    remedy = f"max_rollbacks={config.max_rollbacks + 3}"
  return (
    f"Loss or parameters are not finite after step {step}{again}; checkpoint "
    f"{last_good} in {workdir} is the last good one; go on from it with "
    f"--config.train.{remedy}, or in a new run with --workdir=NEW "
    f"--init_from={workdir} and less than "
    f"config.train.learning_rate={config.learning_rate:g}."
  )


def require_same_model(
  config: config_lib.Config, other: config_lib.Config, *, init_from: str
) -> None:
  """Requires the weights of another run to be those of the same network.

  Args:
    config: resolved configuration of the run that starts.
    other: resolved configuration of the run with the weights. The fields
      `dtype` and `remat` may differ.
    init_from: workdir of the run with the weights.

  Raises:
    ValueError: the models differ, with the fields in which they differ.
  """
  arithmetic = {"dtype": config.model.dtype, "remat": config.model.remat}
  changes = config_lib.difference(
    config_lib.Config(model=dataclasses.replace(other.model, **arithmetic)),
    config_lib.Config(model=config.model),
  )
  if changes:
    raise ValueError(
      f"Expected init_from={init_from} to be a run of the same model, but "
      f"{'; '.join(changes)}; {_same_model_fix(config, other)}."
    )


def _same_model_fix(config: config_lib.Config, other: config_lib.Config) -> str:
  """Text on how to start with the weights of another model."""
  before, after = config_lib.flatten(other), config_lib.flatten(config)
  changes = {
    name: value
    for name, value in before.items()
    if name.startswith("model.")
    and name not in ("model.dtype", "model.remat")
    and after.get(name) != value
  }
  if not changes.keys().isdisjoint(("model.num_classes", "model.image_shape")):
    return "its data have other images or classes, so start without init_from"
  arguments = [shlex.quote(f"--config.{k}={v}") for k, v in changes.items()]
  return f"start with {' '.join(arguments)}"


def require_trainable(config: config_lib.Config, split: data.Split) -> None:
  """Requires a run to be trainable, before its directory is created.

  Args:
    config: resolved.
    split: the training split.

  Raises:
    ValueError: devices times micro-batches do not divide the batch, a label is
      outside the classes, there are too many steps, or the seed is too large.
  """
  train = config.train
  config_lib.check_new(config)
  sharding.require_batch_size(train.batch_size, accumulate=train.accumulate)
  data.check_labels(split.labels, config.model.num_classes, split="training")
  per_epoch = data.steps_per_epoch(len(split), train.batch_size)
  if train.num_epochs * per_epoch > _MAX_STEPS:
    raise ValueError(
      f"Expected at most {_MAX_STEPS:,} steps, got config.train.num_epochs = "
      f"{train.num_epochs} of {per_epoch} steps each; at most "
      f"{_MAX_STEPS // per_epoch} are possible."
    )


def abstract_state(
  config: config_lib.Config, model: nn.Module
) -> train_state_lib.TrainState:
  """Shapes and dtypes of the training state of a run."""
  # The structure of the optimiser state does not depend on the number of steps.
  optimizer = optimizers.create(config.train, 1)
  return jax.eval_shape(lambda: initial_state(config, model, optimizer))


def _augmented(
  config: config_lib.DataConfig, images: jax.Array, key: jax.Array
) -> jax.Array:
  """The augmentation of one's own that a configuration chooses."""
  found = registry.bound(config)(data.to_float(images), key)
  if found.shape != images.shape or not jnp.issubdtype(
    found.dtype, jnp.floating
  ):
    raise ValueError(
      f"Expected config.data.augment = {config.augment!r} to return float "
      f"images of shape {images.shape}, got {found.dtype} of {found.shape}."
    )
  return found


def _augmentation(
  config: config_lib.DataConfig,
) -> Callable[[jax.Array, jax.Array], jax.Array] | None:
  if config.augment == "none":
    return None
  if registry.chosen(config):
    return functools.partial(_augmented, config)
  return functools.partial(data.crop_flip, padding=config.crop_padding)
