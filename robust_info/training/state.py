"""The training state that a run carries from step to step."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
  """The training state; a pytree in which every field is data.

  The randomness of step k is `fold_in(key, k)`: `key` itself never changes,
  so that a restored state replays exactly.

  Attributes:
    step: int32 [], number of steps taken.
    params: trained parameters.
    batch_stats: running statistics of the model; `{}` when it has none.
    opt_state: state of the optimiser.
    key: typed PRNG key [].
    average: exponential moving averages of `params` and `batch_stats`, as
      flax variables; `{}` when none are kept.
    rollbacks: int32 [], number of times that training has returned to a
      checkpoint because numbers were not finite; each time halves the learning
      rate.
  """

  step: jax.Array
  params: Any
  batch_stats: Any
  opt_state: Any
  key: jax.Array
  average: Any
  rollbacks: jax.Array

  @property
  def evaluated(self) -> dict[str, Any]:
    """The variables to evaluate: the average if there is one."""
    return self.average or self.variables

  @property
  def variables(self) -> dict[str, Any]:
    """The variables argument of `models.apply_fn` and `models.train_fn`."""
    return variables(self.params, self.batch_stats)


def variables(params: Any, batch_stats: Any) -> dict[str, Any]:
  """Flax variables from their two collections."""
  if batch_stats:
    return {"params": params, "batch_stats": batch_stats}
  return {"params": params}


def create(
  model_variables: Any,
  optimizer: optax.GradientTransformation,
  key: jax.Array,
  *,
  averaged: bool = False,
) -> TrainState:
  """The training state before the first step.

  Args:
    model_variables: Flax variables from `models.init`.
    optimizer: an optax transformation.
    key: typed PRNG key of the run; consumed.
    averaged: whether the state keeps moving averages; they start at the
      variables.

  Returns:
    The state at step 0.
  """
  params = model_variables["params"]
  batch_stats = dict(model_variables.get("batch_stats", {}))
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    batch_stats=batch_stats,
    opt_state=optimizer.init(params),
    key=key,
    average=variables(params, batch_stats) if averaged else {},
    rollbacks=jnp.zeros((), jnp.int32),
  )


def started(
  state: TrainState, model_variables: Mapping[str, Any]
) -> TrainState:
  """The state at step 0 with the weights of another run.

  Args:
    state: training state at step 0.
    model_variables: Flax variables of the same model, left unchanged.

  Returns:
    The state with copies of these variables as parameters, batch statistics and
    moving averages.
  """

  def fresh(old: Any, new: Any) -> Any:
    # A step donates the memory of its argument, so nothing may share it.
    return jax.tree.map(
      lambda old, new: jax.device_put(jnp.copy(new), old.sharding), old, new
    )

  old = state.variables
  new = {name: model_variables[name] for name in old}
  copied = fresh(old, new)
  return dataclasses.replace(
    state,
    params=copied["params"],
    batch_stats=copied.get("batch_stats", {}),
    average=fresh(state.average, new) if state.average else {},
  )


def updated_average(
  state: TrainState, new_variables: Any, *, decay: float
) -> Any:
  """The moving averages after a step from `state` to `new_variables`.

  Args:
    state: training state before the step.
    new_variables: parameters and batch statistics after the step; both are
      averaged, so that the statistics fit the parameters.
    decay: weight of the past, at most (1 + k) / (10 + k) after k steps, so that
      the average of a short run is not dominated by its first steps.

  Returns:
    The structure of `state.average`; `{}` if that is `{}`.
  """
  if not state.average:
    return {}
  decay = jnp.minimum(decay, (1 + state.step) / (10 + state.step))
  return jax.tree.map(
    lambda old, new: decay * old + (1 - decay) * new,
    state.average,
    new_variables,
  )
