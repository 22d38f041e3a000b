"""Memory that settings need, and a one-line error if there is too little.

The numbers are computed from shapes only. The sizes of the training state and
of images are lower bounds. The sizes of activations are estimates: the outputs
of all layers for the batch, of which the compiler may keep fewer.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from robust_info import config as config_lib
from robust_info import models
from robust_info.runtime import memory, sharding
from robust_info.training import setup


def of_training(config: config_lib.Config) -> list[memory.Need]:
  """The needs of a training step and of a validation.

  Args:
    config: resolved configuration, see `setup.resolve`.
  """
  example = _bytes_per_example(config.model)
  return [
    _of_state(config),
    _of_step(config, example, "images and activations of a step"),
    _of_evaluated_batch(config, config.evaluation),
  ]


def of_evaluation(
  config: config_lib.Config, settings: config_lib.EvaluationConfig
) -> list[memory.Need]:
  """The needs of a report.

  Args:
    config: resolved configuration of a run.
    settings: evaluation settings of the report.
  """
  pairs = memory.Need(
    f"evaluation.num_pairs={settings.num_pairs}, "
    f"num_coarse_pairs={settings.num_coarse_pairs}",
    "random numbers and values of the pairs",
    32 * (settings.num_pairs + settings.num_coarse_pairs),
    "lower --num_pairs and --num_coarse_pairs",
  )
  return [_of_evaluated_batch(config, settings), pairs]


def require(config: config_lib.Config) -> None:
  """Refuses a training whose lower bounds no device of this machine can meet.

  Args:
    config: resolved configuration, see `setup.resolve`.

  Raises:
    OutOfMemoryError: a bound exceeds the memory of a device; for a CPU, of the
      machine.
  """
  available = memory.available()
  images = 5 * math.prod(config.model.image_shape)
  needs = [
    _of_state(config),
    _of_step(config, images, "images of a step"),
  ]
  if any(need.num_bytes > available for need in needs):
    raise memory.OutOfMemoryError(
      f"Not enough memory, a device has {memory.readable(available)}: "
      f"{memory.listed(needs)}."
    )


def _of_state(config: config_lib.Config) -> memory.Need:
  model = models.from_config(config.model)
  state = setup.abstract_state(config, model)
  number = sum(leaf.size for leaf in jax.tree.leaves(state.params))
  read = [
    f"{name}={getattr(config.model, name)}"
    for name in ("features", "hidden_sizes", "width")
    if config_lib.is_read(config, f"model.{name}")
  ]
  sizes = [setting.split("=")[0] for setting in read] or ["name"]
  return memory.Need(
    ", ".join([f"config.model.name={config.model.name}", *read]),
    f"state and gradient of {number:,} parameters",
    # Keys have no size in bytes of their own.
    4 * number + sum(map(_num_bytes, jax.tree.leaves(state))),
    "lower " + " or ".join(f"config.model.{name}" for name in sizes)
    if read
    else "choose another config.model.name",
  )


def _of_step(
  config: config_lib.Config, example: int, purpose: str
) -> memory.Need:
  train = config.train
  rows = -(-train.batch_size // (sharding.num_devices() * train.accumulate))
  return memory.Need(
    f"config.train.batch_size={train.batch_size}, "
    f"accumulate={train.accumulate}",
    purpose,
    rows * example,
    "lower config.train.batch_size or raise config.train.accumulate",
  )


def _of_evaluated_batch(
  config: config_lib.Config, settings: config_lib.EvaluationConfig
) -> memory.Need:
  jacobian = 4 * config.model.num_classes * math.prod(config.model.image_shape)
  return _of_batch(
    settings,
    _bytes_per_example(config.model) + jacobian,
    "images, activations and the Jacobian of a batch",
  )


def _of_batch(
  settings: config_lib.EvaluationConfig, example: int, purpose: str
) -> memory.Need:
  rows = -(-settings.batch_size // sharding.num_devices())
  return memory.Need(
    f"evaluation.batch_size={settings.batch_size}",
    purpose,
    rows * example,
    "lower evaluation.batch_size",
  )


def _bytes_per_example(config: config_lib.ModelConfig) -> int:
  """Size of an image as bytes and as float32, and of all layers' outputs."""
  pixels = math.prod(config.image_shape)
  model = models.from_config(config)

  def outputs(key: jax.Array) -> Any:
    x = jnp.zeros((1, *config.image_shape), jnp.float32)
    variables = models.init(model, key, config.image_shape)
    return model.apply(
      variables,
      x,
      train=False,
      capture_intermediates=True,
      mutable=["intermediates"],
    )[1]

  found = jax.eval_shape(outputs, jax.random.key(0))
  return 5 * pixels + sum(map(_num_bytes, jax.tree.leaves(found)))


def _num_bytes(leaf: Any) -> int:
  if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
    return 0
  return leaf.size * leaf.dtype.itemsize
