"""From a configuration to the parts of training."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import optax
from flax import linen as nn

from robust_info import config as config_lib
from robust_info import data, models, objectives
from robust_info.runtime import sharding
from robust_info.training import optimizers
from robust_info.training import state as train_state_lib
from robust_info.training import step as train_step

# Steps are counted in float32 where a share of training is asked for, and the
# learning rate of each is tabulated.
_MAX_STEPS = 10**8


def resolve(
  config: config_lib.Config, source: data.DataSource
) -> config_lib.Config:
  """Fills in what the model takes from the data.

  Args:
    config: fields of `config.model` that are empty are filled in: number of
      classes, shape of the images, and their mean and standard deviation per
      channel over the training split (in [0, 1], rounded to six digits; a
      channel without variation gets 1).
    source: the data.

  Returns:
    A configuration from which the model can be built without data.

  Raises:
    ValueError: a field that is given does not fit the data, or the model is
      none that can be built, for example for images of this size.
  """
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
    jax.eval_shape(
      lambda key: models.init(
        models.from_config(model), key, model.image_shape
      ),
      jax.random.key(0),
    )
  except ValueError as error:
    raise ValueError(f"In config.model: {error}") from error
  return dataclasses.replace(config, model=model)


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
  """The state before the first step.

  Args:
    config: resolved.
    model: its model.
    optimizer: its optimiser.
    weights: variables to start from instead of fresh ones, on every device.
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
  """The line for numbers that are not finite, with what can be done.

  Args:
    config: of the run that stops.
    step: the step after which they are not.
    last_good: step of the last checkpoint.
    rollbacks: how often the run has gone back before.
    workdir: of the run.
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
    config: resolved, of the run that starts.
    other: of the one with the weights. What layers compute in (`dtype`) and
      keep (`remat`) may differ.
    init_from: its workdir.

  Raises:
    ValueError: the models differ, with the fields in which they do.
  """
  arithmetic = {"dtype": config.model.dtype, "remat": config.model.remat}
  changes = config_lib.difference(
    config_lib.Config(model=dataclasses.replace(other.model, **arithmetic)),
    config_lib.Config(model=config.model),
  )
  if changes:
    raise ValueError(
      f"Expected init_from={init_from} to be a run of the same model, but "
      f"{'; '.join(changes)}."
    )


def require_trainable(config: config_lib.Config, split: data.Split) -> None:
  """Requires what can be known of a run before its directory is made.

  Args:
    config: resolved.
    split: the training split.

  Raises:
    ValueError: devices times micro-batches do not divide the batch, a label
      is that of no class, there are too many steps, or the seed is too large.
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
