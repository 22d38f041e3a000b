"""The training step: pure, compiled once, the same for every objective.

Shape letters: N examples, C classes.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from robust_info import data, models, objectives
from robust_info.runtime import sharding
from robust_info.training import gradients as gradients_lib
from robust_info.training import state as train_state_lib

TrainState = train_state_lib.TrainState


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class StepMetrics:
  """Metrics of a step in one array, so that one transfer to the host is enough.

  Attributes:
    values: float [M], on every device.
    names: names of the values: `count`, the number of unmasked examples of the
      batch; `finite`, 1 if the loss and all updated variables are finite,
      otherwise 0; and sums over the unmasked examples of `loss`, of every
      metric of the objective, and of `gradient_norm`, which is the norm for the
      batch times the count, so that averages over steps give every example the
      same weight.
  """

  values: jax.Array
  names: tuple[str, ...] = dataclasses.field(metadata={"static": True})

  def read(self) -> dict[str, float]:
    """The values by name, on the host; waits for the step."""
    values = np.asarray(self.values).tolist()
    return dict(zip(self.names, values, strict=True))


TrainStep = Callable[[TrainState, data.Batch], tuple[TrainState, StepMetrics]]


def create_state(
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  *,
  seed: int,
  image_shape: tuple[int, ...],
  averaged: bool = False,
) -> TrainState:
  """The state at step 0 on all devices, a pure function of its arguments.

  Args:
    model: a Flax module from `models.create`.
    optimizer: an optax transformation.
    seed: seed of the parameters and of the randomness of the run.
    image_shape: shape (height, width, channels) of an image.
    averaged: whether the state keeps moving averages of the variables.
  """
  init_key, run_key = jax.random.split(jax.random.key(seed))

  def create(init_key: jax.Array, run_key: jax.Array) -> TrainState:
    variables = models.init(model, init_key, image_shape)
    return train_state_lib.create(
      variables, optimizer, run_key, averaged=averaged
    )

  placed = jax.jit(create, out_shardings=sharding.replicated())
  return placed(init_key, run_key)


def learning_rate_factor(rollbacks: jax.Array | int) -> jax.Array:
  """The factor of the learning rate, halved by each rollback."""
  return 0.5 ** jnp.asarray(rollbacks, jnp.float32)


def make_train_step(
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  objective: objectives.Objective,
  *,
  num_steps: int,
  accumulate: int = 1,
  augment: Callable[[jax.Array, jax.Array], jax.Array] | None = None,
  awp_gamma: float = 0.0,
  awp_warmup: float = 0.0,
  ema_decay: float = 0.0,
) -> TrainStep:
  """Builds the compiled training step.

  Args:
    model: a Flax module from `models.create`.
    optimizer: an optax transformation.
    objective: function (network, batch, key, *, progress) ->
      `objectives.Outcome`.
    num_steps: number of steps of the whole training, for `progress`.
    accumulate: number of micro-batches per step, which divides the batch: the
      step needs the memory of one micro-batch and computes the gradient of the
      mean over all. Row r of the batch is in micro-batch r mod `accumulate`,
      which has its own key. Computations of an objective or a layer over a
      batch run over each micro-batch instead, and the micro-batches update the
      batch statistics one after the other.
    augment: function (uint8 images, key) -> images, uint8 or float in [0, 1],
      or None; see `data.crop_flip`.
    awp_gamma: size of the adversarial weight perturbation relative to the
      weights, see `weight_perturbation`; 0 means none. It costs one more
      forward and backward pass of the loss, because the points of the attack
      are reused. Metrics, finiteness and batch statistics are those of the
      first pass, at the unperturbed parameters.
    awp_warmup: share of training before the perturbation starts; until then it
      costs nothing.
    ema_decay: decay of the moving averages of a state that keeps them.

  Returns:
    A function (state, batch) -> (state, metrics), compiled once for all batches
    of one shape. The given state is donated: use the returned one. `batch` has
    uint8 images and is split over all devices, see `sharding`; the state and
    the metrics, `StepMetrics`, are on every device.
  """
  gradients_of = gradients_lib.BatchGradients(
    model, objective, accumulate, awp_gamma, awp_warmup
  )

  def step(
    state: TrainState, batch: data.Batch
  ) -> tuple[TrainState, StepMetrics]:
    # A function of seed and step, so that a resumed run replays exactly.
    key = jax.random.fold_in(state.key, state.step)
    image = batch.image
    if augment is not None:
      key, augment_key = jax.random.split(key)
      image = augment(image, augment_key)
    if not jnp.issubdtype(image.dtype, jnp.floating):
      image = data.to_float(image)
    examples = dataclasses.replace(batch, image=image)
    gradients, batch_stats, sums = gradients_of(
      state, examples, key, state.step / num_steps
    )
    updates, opt_state = optimizer.update(
      gradients, state.opt_state, state.params
    )
    # Not the gradients: Adam is invariant to their scale.
    updates = optax.tree.scale(learning_rate_factor(state.rollbacks), updates)
    params = optax.apply_updates(state.params, updates)
    variables = train_state_lib.variables(params, batch_stats)
    new_state = dataclasses.replace(
      state,
      step=state.step + 1,
      params=params,
      batch_stats=batch_stats,
      opt_state=opt_state,
      average=train_state_lib.updated_average(
        state, variables, decay=ema_decay
      ),
    )
    count = jnp.sum(examples.mask, dtype=jnp.float32)
    sums["gradient_norm"] = optax.tree.norm(gradients) * count
    finite = jnp.isfinite(sums["loss"])
    for leaf in jax.tree.leaves(new_state.variables):
      finite &= jnp.all(jnp.isfinite(leaf))
    measured = {"count": count, "finite": finite.astype(count.dtype), **sums}
    return new_state, StepMetrics(
      jnp.stack(list(measured.values())), tuple(measured)
    )

  everywhere = sharding.replicated()
  return jax.jit(
    step,
    in_shardings=(everywhere, sharding.by_rows()),
    out_shardings=everywhere,
    donate_argnums=0,
  )
