"""Optimisers and learning-rate schedules from a configuration (optax)."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from robust_info import config as config_lib


def learning_rate(
  config: config_lib.TrainConfig, num_steps: int
) -> optax.Schedule:
  """The learning rate as a function of the step.

  Args:
    config: `learning_rate`, `schedule`, `warmup`, `decay_at`, `decay_factor`,
      `cycle_peak`.
    num_steps: steps of the whole training; the shares of the configuration
      are shares of it, rounded down.

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
    # Shares that fall on one step multiply; optax takes one factor a step.
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

  Computed at once: an operation of its own, at a row of the log, would wait
  in line behind the step under way.

  Args:
    config: as in `learning_rate`.
    num_steps: steps of the whole training.
    factor: what all of them are multiplied by.

  Returns:
    float32 [num_steps].
  """
  schedule = learning_rate(config, num_steps)
  return np.asarray(jax.jit(jax.vmap(schedule))(jnp.arange(num_steps)) * factor)


def create(
  config: config_lib.TrainConfig, num_steps: int
) -> optax.GradientTransformation:
  """The optimiser of a configuration.

  Weight decay touches arrays of two or more axes only: never biases, never
  the scales and offsets of normalisation layers. `sgd` adds it to the
  gradient before momentum; `adamw` decouples it.

  Args:
    config: `optimizer`, `momentum`, `nesterov`, `weight_decay` and the
      fields of `learning_rate`.
    num_steps: steps of the whole training.

  Returns:
    An optax transformation; its state is part of the checkpoint.
  """
  schedule = learning_rate(config, num_steps)
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
