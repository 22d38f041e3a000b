"""Optimisers and learning-rate schedules from a configuration (optax)."""

import itertools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax

from robust_info import config as config_lib
from robust_info.config import registry


def learning_rate(
  config: config_lib.TrainConfig, num_steps: int
) -> optax.Schedule:
  """The learning rate as a function of the step.

  Args:
    config: training settings; uses `learning_rate`, `schedule`, `warmup`,
      `decay_at`, `decay_factor` and `cycle_peak`.
    num_steps: number of steps of the whole training; the shares of the
      configuration are shares of this number, rounded down.

  Returns:
    A schedule: linear from 0 during warm-up, then `constant`, `cosine` (to
    exactly 0 after the last step), `piecewise` (times `decay_factor` after
    each share in `decay_at`) or `cyclic` (linear from 0 up to the peak, which
    it reaches after the share `cycle_peak`, and down to exactly 0).
  """
  peak = config.learning_rate
  warmup = int(config.warmup * num_steps)
  if config.schedule == "constant":
    main = optax.constant_schedule(peak)
  elif config.schedule == "cosine":
    main = optax.cosine_decay_schedule(peak, max(num_steps - warmup, 1))
  elif config.schedule == "cyclic":
    top = max(int(config.cycle_peak * num_steps), 1)
    rise = optax.linear_schedule(0.0, peak, top)
    fall = optax.linear_schedule(peak, 0.0, max(num_steps - top, 1))
    return optax.join_schedules([rise, fall], [top])
  else:
    steps = [int(share * num_steps) - warmup for share in config.decay_at]
    # Multiply the factors of shares that fall on one step, because optax takes
    # one factor per step.
    factors = {
      step: config.decay_factor ** len(list(same))
      for step, same in itertools.groupby(steps)
    }
    main = optax.piecewise_constant_schedule(peak, factors)
  if not warmup:
    return main
  rise = optax.linear_schedule(0.0, peak, warmup)
  return optax.join_schedules([rise, main], [warmup])


def tabulate(
  config: config_lib.TrainConfig, num_steps: int, *, factor: jax.Array | float
) -> np.ndarray:
  """The learning rate of every step, on the host, for the log.

  All values are computed in advance: a separate operation, at a row of the log,
  would wait for the current step.

  Args:
    config: training settings, as in `learning_rate`.
    num_steps: number of steps of the whole training.
    factor: factor of all learning rates.

  Returns:
    float32 [num_steps].
  """
  schedule = jax.jit(jax.vmap(learning_rate(config, num_steps)))
  rates = np.asarray(schedule(np.arange(num_steps, dtype=np.int32)))
  return rates * np.asarray(factor, rates.dtype)


def register(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
  """A decorator that makes an optimiser a value of `train.optimizer`.

      @optimizers.register("lion")
      def lion(schedule, *, weight_decay, b1: float = 0.9):
        return optax.lion(schedule, b1=b1, weight_decay=weight_decay)

  The function returns an `optax.GradientTransformation` for a learning-rate
  schedule. Its other arguments are fields of the section `train` (without a
  default) or fields of their own (with one).

  Args:
    name: name in the configuration; see `config.registry`.

  Raises:
    ValueError: as `config.registry.register`.
    TypeError: as `config.registry.register`.
  """
  return registry.register("optimizer", name)


def create(
  config: config_lib.TrainConfig, num_steps: int
) -> optax.GradientTransformation:
  """The optimiser of a configuration.

  Weight decay applies to arrays of two or more axes only, never to biases or to
  the scales and offsets of normalisation layers. `sgd` adds it to the gradient
  before momentum; `adamw` decouples it.

  Args:
    config: training settings; uses `optimizer`, `momentum`, `nesterov`,
      `weight_decay` and the fields of `learning_rate`.
    num_steps: number of steps of the whole training.

  Returns:
    An optax transformation; its state is part of the checkpoint.
  """
  schedule = learning_rate(config, num_steps)
  if registry.chosen(config):
    optimizer = registry.bound(config)(schedule)
    if not isinstance(optimizer, optax.GradientTransformation):
      raise ValueError(
        f"Expected config.train.optimizer = {config.optimizer!r} to return an "
        "optax.GradientTransformation, got "
        f"{type(optimizer).__name__}."
      )
    return optimizer
  if config.optimizer == "adam":
    return optax.adam(schedule)
  if config.optimizer == "adamw":
    return optax.adamw(schedule, weight_decay=config.weight_decay, mask=kernels)
  return optax.chain(
    optax.add_decayed_weights(config.weight_decay, mask=kernels),
    optax.sgd(
      schedule,
      momentum=config.momentum or None,
      nesterov=config.nesterov,
    ),
  )


def kernels(params: Any) -> Any:
  """True for arrays of two or more axes, in the structure of `params`."""
  return jax.tree.map(lambda array: array.ndim >= 2, params)
