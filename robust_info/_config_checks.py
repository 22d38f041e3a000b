"""What has to hold between the fields of a configuration."""

from typing import Any


def check_together(config: Any) -> None:
  """Conditions that tie fields to each other.

  Args:
    config: a `config.Config` whose fields hold by themselves.

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
  if train.weight_decay and train.optimizer == "adam":
    raise ValueError(
      "Expected config.train.weight_decay = 0 with config.train.optimizer = "
      f"'adam', got {train.weight_decay!r}; use 'adamw'."
    )
  if train.warmup and train.schedule == "cyclic":
    raise ValueError(
      "Expected config.train.warmup = 0 with config.train.schedule = 'cyclic', "
      f"which rises by itself, got {train.warmup!r}; see "
      "config.train.cycle_peak."
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
