"""After numbers that are not finite: back to a checkpoint, and on elsewhere.

Everything here is a function of the checkpoint and of how often training has
gone back before, so that a run killed at any moment and started again repeats
what an undisturbed one did.
"""

import dataclasses

import jax
import jax.numpy as jnp

from robust_info.training import checkpoints
from robust_info.training import step as train_step


@dataclasses.dataclass(frozen=True)
class Record:
  """What the log says of one rollback.

  Attributes:
    step: the first step taken again, one after the checkpoint. As a row of
      that step it is in the log exactly as long as the steps that follow it.
    values: `failed_step`, `rollbacks` so far, and `learning_rate_factor`.
  """

  step: int
  values: dict[str, float]


def divert(
  restored: checkpoints.Restored, *, failed_step: int, rollbacks: int
) -> tuple[checkpoints.Restored, Record]:
  """Sends training from a checkpoint along another way.

  Args:
    restored: the checkpoint; its state is a `TrainState`.
    failed_step: the step after which numbers were not finite.
    rollbacks: how often the run has gone back, this time included.

  Returns:
    The checkpoint with `rollbacks`, and thereby the learning rate, changed,
    and with a key folded with it; and what to log.
  """
  state = restored.state
  state = dataclasses.replace(
    state,
    key=jax.random.fold_in(state.key, rollbacks),
    rollbacks=jnp.full_like(state.rollbacks, rollbacks),
  )
  factor = float(train_step.learning_rate_factor(rollbacks))
  record = Record(
    restored.step + 1,
    {
      "failed_step": failed_step,
      "rollbacks": rollbacks,
      "learning_rate_factor": factor,
    },
  )
  return dataclasses.replace(restored, state=state), record
