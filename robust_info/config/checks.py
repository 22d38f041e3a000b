"""Conditions between the fields of a configuration."""

from typing import Any


def check_together(config: Any) -> None:
  """Checks the conditions between fields.

  Args:
    config: a `config.Config` whose fields are valid one by one.

  Raises:
    ValueError: one line that names the fields and their values.
  """
  model, train = config.model, config.train
  if len(model.mean) != len(model.std):
    raise ValueError(
      "Expected config.model.mean and config.model.std to have one entry a "
      f"channel each, got {model.mean!r} and {model.std!r}."
    )
  if model.image_shape and len(model.image_shape) != 3:
    raise ValueError(
      "Expected config.model.image_shape to be (height, width, channels), "
      f"got {model.image_shape!r}."
    )
  if (
    model.image_shape
    and model.mean
    and len(model.mean) != (model.image_shape[2])
  ):
    raise ValueError(
      f"Expected config.model.mean to have {model.image_shape[2]} entries, "
      f"one a channel, got {model.mean!r}."
    )
  objective = config.objective
  if (objective.fisher_quantity, objective.fisher_estimator) == (
    "frobenius",
    "label",
  ):
    raise ValueError(
      "Expected config.objective.fisher_estimator 'exact' or 'hutchinson' with "
      "config.objective.fisher_quantity = 'frobenius', got 'label'."
    )
  if list(train.decay_at) != sorted(set(train.decay_at)):
    raise ValueError(
      f"Expected config.train.decay_at to increase, got {train.decay_at!r}."
    )
  if train.accumulate > train.batch_size:
    raise ValueError(
      "Expected config.train.accumulate <= config.train.batch_size = "
      f"{train.batch_size}, got {train.accumulate}."
    )


def check_new(config: Any) -> None:
  """Checks the conditions on a run that starts or resumes.

  Old runs that do not meet them can still be evaluated.

  Args:
    config: a `config.Config` that meets the conditions of `check_together`.

  Raises:
    ValueError: one line that names the fields and their values.
  """
  train = config.train
  # Without 64-bit types a key depends on 32 bits of the seed only.
  if config.seed >= 2**32:
    raise ValueError(
      f"Expected config.seed < 2^32 = {2**32}, got {config.seed}."
    )
  if train.schedule != "piecewise":
    return
  if not train.decay_at:
    raise ValueError(
      "Expected config.train.decay_at to name a share of training with "
      "config.train.schedule = 'piecewise', got (); use 'constant'."
    )
  if train.warmup >= train.decay_at[0]:
    raise ValueError(
      "Expected config.train.warmup to end before the first decay, "
      f"config.train.decay_at = {train.decay_at!r}, got {train.warmup!r}."
    )
