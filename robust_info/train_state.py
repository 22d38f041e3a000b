"""Everything a training run carries from step to step."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
  """The state of training; a pytree whose every field is data.

  The randomness of step k is `fold_in(key, k)`: `key` itself never changes,
  so that a restored state replays exactly.

  Attributes:
    step: int32 [], the number of steps taken.
    params: trained parameters.
    batch_stats: running statistics of the model; `{}` when it has none.
    opt_state: state of the optimiser.
    key: typed PRNG key [].
  """

  step: jax.Array
  params: Any
  batch_stats: Any
  opt_state: Any
  key: jax.Array

  @property
  def variables(self) -> dict[str, Any]:
    """What `models.apply_fn` and `models.train_fn` take."""
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
) -> TrainState:
  """The state before the first step.

  Args:
    model_variables: from `models.init`.
    optimizer: an optax transformation.
    key: typed PRNG key of the run; consumed.

  Returns:
    The state at step 0.
  """
  params = model_variables["params"]
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    batch_stats=dict(model_variables.get("batch_stats", {})),
    opt_state=optimizer.init(params),
    key=key,
  )
