"""Gradients of the mean loss of a batch: micro-batches, perturbed weights.

Shape letters: N examples, C classes.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from robust_info import data, models, objectives
from robust_info._xla import loops
from robust_info.runtime import sharding
from robust_info.training import state as train_state_lib
from robust_info.training import weight_perturbation

# Sums over the unmasked examples, by name.
Sums = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class BatchGradients:
  """The gradients of an objective; for arguments see `step.make_train_step`."""

  model: nn.Module
  objective: objectives.Objective
  accumulate: int
  awp_gamma: float
  awp_warmup: float

  def __call__(
    self,
    state: train_state_lib.TrainState,
    examples: data.Batch,
    key: jax.Array,
    progress: jax.Array,
  ) -> tuple[Any, Any, Sums]:
    """Differentiates the mean loss over the unmasked examples.

    Args:
      state: training state, with parameters and batch statistics.
      examples: batch of N examples, with float images.
      key: typed PRNG key; consumed.
      progress: share of training that is done.

    Returns:
      Gradients; updated batch statistics; and the sums of `loss` and of every
      metric of the objective.
    """
    count = jnp.sum(examples.mask, dtype=jnp.float32)
    parts = (examples, key)
    if self.accumulate > 1:
      parts = (
        _micro_batches(examples, self.accumulate),
        jax.random.split(key, self.accumulate),
      )

    def differentiate(params, points):
      return self._differentiate(
        params, state.batch_stats, (*parts, points), count, progress
      )

    def at_perturbed_weights(gradients, points):
      moved = weight_perturbation.perturb(
        state.params, gradients, gamma=self.awp_gamma
      )
      return differentiate(moved, points)[0]

    gradients, batch_stats, sums, points = differentiate(state.params, None)
    if self.awp_gamma:
      gradients = loops.cond(
        progress >= self.awp_warmup,
        at_perturbed_weights,
        lambda gradients, points: gradients,
        gradients,
        points,
      )
    return gradients, batch_stats, sums

  def _differentiate(self, params, batch_stats, parts, count, progress):
    """Gradients, batch statistics, sums and attacked points."""

    def add(carry, part):
      gradients, batch_stats = carry
      found, (outcome, sums) = jax.grad(self._share_of_loss, has_aux=True)(
        params, batch_stats, *part, count, progress
      )
      gradients = optax.tree.add(gradients, found)
      return (gradients, outcome.batch_stats), (sums, outcome.points)

    carry = optax.tree.zeros_like(params), batch_stats
    if self.accumulate == 1:
      carry, (sums, points) = add(carry, parts)
    else:
      carry, (sums, points) = loops.scan(
        add, carry, parts, length=self.accumulate
      )
      sums = {name: jnp.sum(value) for name, value in sums.items()}
    return *carry, sums, points

  def _share_of_loss(
    self, params, batch_stats, part, key, points, count, progress
  ):
    """The loss of a micro-batch over the examples of the batch."""
    network = objectives.Network(
      train_state_lib.variables(params, batch_stats),
      models.apply_fn(self.model),
      models.train_fn(self.model),
      points,
    )
    outcome = self.objective(network, part, key, progress=progress)
    values = {**outcome.metrics, "loss": outcome.loss}
    sums = {
      name: jnp.sum(jnp.where(part.mask, value, 0.0))
      for name, value in values.items()
    }
    # Divided by the count of the whole batch, so that the shares of all
    # micro-batches add up to the mean loss of the batch.
    return sums["loss"] / jnp.maximum(count, 1.0), (outcome, sums)


def _micro_batches(batch: data.Batch, number: int) -> data.Batch:
  """Reshapes [N, ...] to [number, N / number, ...].

  Micro-batch r mod number holds row r, so that rows stay on their devices for
  any number of devices, and the padding at the end of a batch is spread over
  all micro-batches.
  """

  def split(rows: jax.Array) -> jax.Array:
    parts = rows.reshape(-1, number, *rows.shape[1:]).swapaxes(0, 1)
    return jax.lax.with_sharding_constraint(parts, sharding.by_rows(axis=1))

  return jax.tree.map(split, batch)
