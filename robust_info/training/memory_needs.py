"""Memory that settings need, and a one-line error if there is too little.

The numbers are computed from shapes only. The sizes of the training state and
of images are lower bounds. The sizes of activations are estimates: the outputs
of all layers for the batch, of which the compiler may keep fewer.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core

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
    _of_evaluated_batch(
      config.evaluation,
      config.model.num_classes,
      config.model.image_shape,
      example,
    ),
  ]


def of_evaluation(
  settings: config_lib.EvaluationConfig,
  *,
  num_classes: int,
  image_shape: Sequence[int],
  layers: int,
) -> list[memory.Need]:
  """The needs of a report.

  Args:
    settings: evaluation settings of the report.
    num_classes: number of classes, C.
    image_shape: shape (height, width, channels) of an image.
    layers: result of `bytes_per_example`.
  """
  pairs = memory.Need(
    f"evaluation.num_pairs={settings.num_pairs}, "
    f"num_coarse_pairs={settings.num_coarse_pairs}",
    "random numbers and values of the pairs",
    32 * (settings.num_pairs + settings.num_coarse_pairs),
    "lower --num_pairs and --num_coarse_pairs",
  )
  batch = _of_evaluated_batch(settings, num_classes, image_shape, layers)
  return [batch, pairs]


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
  settings: config_lib.EvaluationConfig,
  num_classes: int,
  image_shape: Sequence[int],
  layers: int,
) -> memory.Need:
  jacobian = 4 * num_classes * math.prod(image_shape)
  return _of_batch(
    settings,
    layers + jacobian,
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
  model = models.from_config(config)
  variables = jax.eval_shape(
    lambda key: models.init(model, key, config.image_shape), jax.random.key(0)
  )
  return bytes_per_example(
    models.apply_fn(model), variables, config.image_shape
  )


def bytes_per_example(
  apply_fn: Callable[[Any, Any], Any],
  variables: Any,
  image_shape: Sequence[int],
) -> int:
  """Size of an image as bytes and as float32, and of all layers' outputs.

  Args:
    apply_fn: function (variables, images [N, ...]) -> logits [N, C].
    variables: its variables, or their shapes and dtypes.
    image_shape: shape of an image.
  """
  x = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
  program = jax.make_jaxpr(apply_fn)(variables, x)
  return 5 * math.prod(image_shape) + sum(_layers(program.jaxpr))


def _layers(program: Any) -> Iterator[int]:
  """Sizes of the outputs of matrix products and convolutions."""
  for equation in program.eqns:
    if equation.primitive.name in ("dot_general", "conv_general_dilated"):
      yield from map(_num_bytes, (v.aval for v in equation.outvars))
    for inner in core.jaxprs_in_params(equation.params):
      yield from _layers(inner)


def _num_bytes(leaf: Any) -> int:
  if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
    return 0
  return leaf.size * leaf.dtype.itemsize
