"""Rollback after numbers that are not finite, to a checkpoint.

Everything here is a function of the checkpoint and of the number of earlier
rollbacks, so that a run that is killed at any moment and started again repeats
the steps of an uninterrupted run.
"""

import dataclasses

import jax
import jax.numpy as jnp

from robust_info.training import checkpoints
from robust_info.training import step as train_step


@dataclasses.dataclass(frozen=True)
class Record:
  """The record of one rollback in the log.

  Attributes:
    step: first repeated step, one after the checkpoint. As a row of that step,
      the record stays in the log exactly as long as the steps that follow it.
    values: numbers `failed_step`, `rollbacks` so far, and
      `learning_rate_factor`.
  """

  step: int
  values: dict[str, float]


def divert(
  restored: checkpoints.Restored, *, failed_step: int, rollbacks: int
) -> tuple[checkpoints.Restored, Record]:
  """Changes a checkpoint so that training continues with other randomness.

  Args:
    restored: checkpoint whose state is a `TrainState`.
    failed_step: step after which numbers were not finite.
    rollbacks: number of rollbacks of the run, including this one.

  Returns:
    The checkpoint with changed `rollbacks`, and so a changed learning rate, and
    with `rollbacks` folded into its key; and the record for the log.
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
