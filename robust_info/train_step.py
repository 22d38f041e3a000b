"""The training step: pure, compiled once, the same for every objective.

Shape letters: N examples, C classes.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from robust_info import data, models, objectives, sharding
from robust_info import train_state as train_state_lib

TrainState = train_state_lib.TrainState
StepMetrics = dict[str, Any]
TrainStep = Callable[[TrainState, data.Batch], tuple[TrainState, StepMetrics]]


def create_state(
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  *,
  seed: int,
  image_shape: tuple[int, ...],
) -> TrainState:
  """The state at step 0, a pure function of its arguments; on all devices."""
  init_key, run_key = jax.random.split(jax.random.key(seed))

  def create(init_key: jax.Array, run_key: jax.Array) -> TrainState:
    variables = models.init(model, init_key, image_shape)
    return train_state_lib.create(variables, optimizer, run_key)

  placed = jax.jit(create, out_shardings=sharding.replicated())
  return placed(init_key, run_key)


def make_train_step(
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  objective: objectives.Objective,
  *,
  num_steps: int,
) -> TrainStep:
  """Builds the compiled training step.

  Args:
    model: from `models.create`.
    optimizer: an optax transformation.
    objective: (network, batch, key, *, progress) -> `objectives.Outcome`.
    num_steps: steps of the whole training, for `progress`.

  Returns:
    (state, batch) -> (state, metrics), compiled once for all batches of one
    shape. The given state is donated: use the returned one. `batch` has
    uint8 images, and is spread over all devices, see `sharding`; the state
    and the metrics are on each of them. Metrics are

    - `count`: unmasked examples of the batch;
    - `sums`: over these, of the loss and of every metric of the objective,
      and `gradient_norm` times the count, so that averages over steps weigh
      every example the same;
    - `finite`: whether the loss and all updated variables are finite.
  """
  evaluate_fn, train_fn = models.apply_fn(model), models.train_fn(model)

  def step(
    state: TrainState, batch: data.Batch
  ) -> tuple[TrainState, StepMetrics]:
    key = jax.random.fold_in(state.key, state.step)
    examples = dataclasses.replace(batch, image=data.to_float(batch.image))
    count = jnp.sum(examples.mask, dtype=jnp.float32)

    def total(values: jax.Array) -> jax.Array:
      return jnp.sum(jnp.where(examples.mask, values, 0.0))

    def mean_loss(params: Any) -> tuple[jax.Array, objectives.Outcome]:
      network = objectives.Network(
        train_state_lib.variables(params, state.batch_stats),
        evaluate_fn,
        train_fn,
      )
      outcome = objective(
        network, examples, key, progress=state.step / num_steps
      )
      return total(outcome.loss) / jnp.maximum(count, 1.0), outcome

    (loss, outcome), gradients = jax.value_and_grad(mean_loss, has_aux=True)(
      state.params
    )
    updates, opt_state = optimizer.update(
      gradients, state.opt_state, state.params
    )
    new_state = dataclasses.replace(
      state,
      step=state.step + 1,
      params=optax.apply_updates(state.params, updates),
      batch_stats=outcome.batch_stats,
      opt_state=opt_state,
    )
    sums = {name: total(value) for name, value in outcome.metrics.items()}
    sums["loss"] = loss * count
    sums["gradient_norm"] = optax.tree.norm(gradients) * count
    finite = jnp.isfinite(loss)
    for leaf in jax.tree.leaves(new_state.variables):
      finite &= jnp.all(jnp.isfinite(leaf))
    return new_state, {"count": count, "sums": sums, "finite": finite}

  everywhere = sharding.replicated()
  return jax.jit(
    step,
    in_shardings=(everywhere, sharding.by_rows()),
    out_shardings=everywhere,
    donate_argnums=0,
  )
