"""A table of the conditions under which each field has an effect.

A field without an effect is refused when it is set, because the user who sets
it expects an effect.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from robust_info.config import data, model, objective, registry, schema


@dataclasses.dataclass(frozen=True)
class _If:
  """A condition on one field, under which other fields are read."""

  field: str
  holds: Callable[[Any], bool]


def _among(field: str, *values: str) -> _If:
  return _If(field, lambda value: value in values)


def _none_of(field: str, *values: str) -> _If:
  return _If(field, lambda value: value not in values)


def _above_zero(field: str) -> _If:
  return _If(field, lambda value: value > 0)


def _of_objectives() -> dict[str, tuple[_If, ...]]:
  readers: dict[str, list[str]] = {}
  for name, arguments in objective.ARGUMENTS.items():
    for field in arguments.values():
      readers.setdefault(field, []).append(name)
  return {
    f"objective.{field}": (_among("objective.name", *names),)
    for field, names in readers.items()
  }


_OF_OBJECTIVES = _of_objectives()
# Field -> the conditions that must all hold for it to be read. Fields that are
# not named here are always read.
CONDITIONS: dict[str, tuple[_If, ...]] = {
  **_OF_OBJECTIVES,
  "objective.fisher_probes": (
    *_OF_OBJECTIVES["objective.fisher_probes"],
    _among("objective.fisher_estimator", "hutchinson", "label"),
  ),
  "objective.gradient_difference": (
    *_OF_OBJECTIVES["objective.gradient_difference"],
    _among("objective.gradient_estimator", "finite_difference"),
  ),
  "objective.pair_reward_scale": (
    *_OF_OBJECTIVES["objective.pair_reward_scale"],
    _above_zero("objective.pair_reward"),
  ),
  "objective.awp_warmup": (_above_zero("objective.awp_gamma"),),
  "data.data_dir": (_none_of("data.name", *data.OWN),),
  "data.streaming": (_none_of("data.name", *data.OWN),),
  "data.path": (_among("data.name", *data.OWN),),
  "data.version": (_among("data.name", *data.OWN),),
  "data.image_size": (_among("data.name", "image_folder", "parquet"),),
  "data.label_column": (_among("data.name", "parquet"),),
  "data.crop_padding": (_among("data.augment", "crop_flip"),),
  "model.features": (_among("model.name", "cnn"),),
  "model.hidden_sizes": (_among("model.name", "mlp", "cnn"),),
  "model.variant": (_among("model.name", *model.VGG),),
  "model.activation": (
    _among("model.name", *(set(model.MODELS) - {"logistic"})),
    _among("model.variant", "relu"),
  ),
  "model.width": (_among("model.name", *model.VGG, *model.RESIDUAL),),
  "model.dtype": (_among("model.name", *(set(model.MODELS) - {"logistic"})),),
  "model.remat": (_among("model.name", *model.VGG, *model.RESIDUAL),),
  "train.momentum": (_among("train.optimizer", "sgd"),),
  "train.nesterov": (
    _among("train.optimizer", "sgd"),
    _above_zero("train.momentum"),
  ),
  "train.weight_decay": (_among("train.optimizer", "sgd", "adamw"),),
  "train.warmup": (
    _among("train.schedule", "constant", "cosine", "piecewise"),
  ),
  "train.decay_at": (_among("train.schedule", "piecewise"),),
  "train.decay_factor": (
    _among("train.schedule", "piecewise"),
    _If("train.decay_at", bool),
  ),
  "train.cycle_peak": (_among("train.schedule", "cyclic"),),
  "train.max_rollbacks": (_among("train.on_nonfinite", "rollback"),),
  "evaluation.autoattack_version": (_among("evaluation.attack", "autoattack"),),
}
_HINTS = {
  **{("data.data_dir", kind): "use config.data.path" for kind in data.OWN},
  ("train.weight_decay", "adam"): "use 'adamw'",
  ("train.warmup", "cyclic"): "it rises by itself, see config.train.cycle_peak",
}


def unread(config: Any) -> dict[str, str]:
  """The fields without an effect.

  Args:
    config: a `config.Config`.

  Returns:
    Dotted name of each such field -> the field whose value is the reason.
  """
  values = schema.flatten(config)
  # Choosing field -> the fields that the chosen part of one's own reads.
  own = {}
  found = {}
  for of in registry.KINDS.values():
    section, choice = getattr(config, of.section), f"{of.section}.{of.field}"
    part = registry.chosen(section)
    if part is not None:
      own[choice] = {f"{of.section}.{field}" for field in part.reads}
    for other in getattr(type(section), "parts", ()):
      if other != part:
        for field in schema.names(other.settings):
          found[f"{of.section}.{other.name}.{field}"] = choice
  for name, conditions in CONDITIONS.items():
    for condition in conditions:
      field = condition.field
      holds = (
        name in own[field] if field in own else condition.holds(values[field])
      )
      if not holds:
        found[name] = field
        break
  return found


def check(
  config: Any, defaults: Any, *, given: Iterable[str] = (), root: str = "config"
) -> None:
  """Requires every field that is set to have an effect.

  Args:
    config: a `config.Config`.
    defaults: the configuration of all defaults. A field with another value
      counts as set, except for the ball, which files give for any objective.
    given: dotted names of fields that were set one by one, with any value, the
      ball included.
    root: name of `config` in errors.

  Raises:
    ValueError: one line that names the field, its value and the reason.
  """
  values, usual = schema.flatten(config), schema.flatten(defaults)
  given = set(given)
  for name, reason in unread(config).items():
    default = usual.get(name, values[name])
    differs = values[name] != default and name not in objective.BALL_FIELDS
    if differs or name in given:
      raise ValueError(_line(name, reason, values, usual, root))


def _line(
  name: str,
  reason: str,
  values: Mapping[str, Any],
  usual: Mapping[str, Any],
  root: str,
) -> str:
  hint = _HINTS.get((name, values[reason])) or _own_field(name, values, root)
  if hint is None:
    default = usual.get(name, values[name])
    same = values[name] == default
    hint = "leave it out" if same else f"leave it at {default!r}"
  return (
    f"Expected no {root}.{name} with {root}.{reason} = {values[reason]!r}, "
    f"which does not read it, got {values[name]!r}; {hint}."
  )


def _own_field(name: str, values: Mapping[str, Any], root: str) -> str | None:
  """A hint that the objective has its own field for the same purpose."""
  section, _, field = name.partition(".")
  own = objective.ARGUMENTS.get(values["objective.name"], {}).get(field)
  if section != "objective" or own is None:
    return None
  return f"its own is {root}.objective.{own}"


def without_ball(names: Iterable[str]) -> list[str]:
  """The names that are not fields of the ball of the objective."""
  return [name for name in names if name not in objective.BALL_FIELDS]
