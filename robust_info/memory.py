"""Memory that settings ask for, and one line when there is not enough.

The numbers come from shapes: nothing is computed. Sizes of states and images
are lower bounds. Those of activations are estimates: the outputs of all layers
of the batch, of which the compiler may keep fewer.
"""

import contextlib
import dataclasses
import math
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from robust_info import config as config_lib
from robust_info import models, sharding, train_setup

_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB")


class OutOfMemoryError(RuntimeError):
  """Settings ask for more memory than there is; one line."""


@dataclasses.dataclass(frozen=True)
class Need:
  """Memory that some settings ask for.

  Attributes:
    settings: the settings, with their values.
    purpose: the arrays.
    num_bytes: their size on one device.
    remedy: how to ask for less.
  """

  settings: str
  purpose: str
  num_bytes: int
  remedy: str


def of_training(config: config_lib.Config) -> list[Need]:
  """The needs of a training step and of a validation.

  Args:
    config: resolved, see `resolution`.
  """
  example = _bytes_per_example(config.model)
  return [
    _of_state(config),
    _of_step(config, example, "images and activations of a step"),
    _of_evaluated_batch(config, config.evaluation),
  ]


def of_evaluation(
  config: config_lib.Config, settings: config_lib.EvaluationConfig
) -> list[Need]:
  """The needs of a report.

  Args:
    config: resolved, of a run.
    settings: of the report.
  """
  pairs = Need(
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
    config: resolved, see `resolution`.

  Raises:
    OutOfMemoryError: a bound exceeds the memory of a device; of a CPU, that of
      the machine.
  """
  available = _available()
  images = 5 * math.prod(config.model.image_shape)
  needs = [
    _of_state(config),
    _of_step(config, images, "images of a step"),
  ]
  if any(need.num_bytes > available for need in needs):
    raise OutOfMemoryError(
      f"Not enough memory, a device has {_readable(available)}: {_list(needs)}."
    )


@contextlib.contextmanager
def explained(needs: Callable[[], Sequence[Need]]) -> Iterator[None]:
  """Turns errors for lack of memory into one line with the needs.

  Args:
    needs: called when there was such an error.

  Raises:
    OutOfMemoryError: in the place of MemoryError, of an OverflowError, and of
      a runtime error of XLA for lack of memory.
  """
  try:
    yield
  except (MemoryError, OverflowError, jax.errors.JaxRuntimeError) as error:
    if isinstance(error, jax.errors.JaxRuntimeError) and not is_lack(error):
      raise
    # A size that no integer of the machine holds is more than there is, too.
    text = " ".join(str(error).split())[:160] or type(error).__name__
    raise OutOfMemoryError(
      f"Out of memory ({text}): {_list(needs())}."
    ) from error


def is_lack(error: BaseException) -> bool:
  """Whether a runtime error of XLA is one for lack of memory."""
  text = str(error).lower()
  return "resource_exhausted" in text or "out of memory" in text


def _of_state(config: config_lib.Config) -> Need:
  model = train_setup.model(config.model)
  state = train_setup.abstract_state(config, model)
  number = sum(leaf.size for leaf in jax.tree.leaves(state.params))
  read = [
    f"{name}={getattr(config.model, name)}"
    for name in ("features", "hidden_sizes", "width")
    if config_lib.is_read(config, f"model.{name}")
  ]
  sizes = [setting.split("=")[0] for setting in read] or ["name"]
  return Need(
    ", ".join([f"config.model.name={config.model.name}", *read]),
    f"state and gradient of {number:,} parameters",
    # Keys have no size in bytes of their own.
    4 * number + sum(map(_num_bytes, jax.tree.leaves(state))),
    "lower " + " or ".join(f"config.model.{name}" for name in sizes)
    if read
    else "choose another config.model.name",
  )


def _of_step(config: config_lib.Config, example: int, purpose: str) -> Need:
  train = config.train
  rows = -(-train.batch_size // (sharding.num_devices() * train.accumulate))
  return Need(
    f"config.train.batch_size={train.batch_size}, "
    f"accumulate={train.accumulate}",
    purpose,
    rows * example,
    "lower config.train.batch_size or raise config.train.accumulate",
  )


def _of_evaluated_batch(
  config: config_lib.Config, settings: config_lib.EvaluationConfig
) -> Need:
  jacobian = 4 * config.model.num_classes * math.prod(config.model.image_shape)
  return _of_batch(
    settings,
    _bytes_per_example(config.model) + jacobian,
    "images, activations and the Jacobian of a batch",
  )


def _of_batch(
  settings: config_lib.EvaluationConfig, example: int, purpose: str
) -> Need:
  rows = -(-settings.batch_size // sharding.num_devices())
  return Need(
    f"evaluation.batch_size={settings.batch_size}",
    purpose,
    rows * example,
    "lower evaluation.batch_size",
  )


def _bytes_per_example(config: config_lib.ModelConfig) -> int:
  """Size of an image as bytes and as float32, and of all layers' outputs."""
  pixels = math.prod(config.image_shape)
  model = train_setup.model(config)

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


def _available() -> int:
  stats = jax.local_devices()[0].memory_stats() or {}
  if "bytes_limit" in stats:
    return stats["bytes_limit"]
  return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _list(needs: Sequence[Need]) -> str:
  largest = max(needs, key=lambda need: need.num_bytes)
  asked = "; ".join(
    f"{need.settings} asks for about {_readable(need.num_bytes)} "
    f"({need.purpose})"
    for need in needs
  )
  return f"{asked}; {largest.remedy}"


def _readable(num_bytes: int) -> str:
  power = min(max(num_bytes.bit_length() - 1, 0) // 10, len(_UNITS) - 1)
  return f"{num_bytes / 1024**power:.3g} {_UNITS[power]}"
