"""The configuration of a run, checked once when it is read.

A run is described by one frozen `Config`. Files in `configs/` return it as an
`ml_collections.ConfigDict` (`defaults()` plus changes), the command line
overrides single fields, and `from_config_dict` turns the result into typed
values. Code downstream reads attributes that exist and are valid; it has no
defaults of its own.

Every error is one line that names the field, the value and the expectation.
"""

import dataclasses
import functools
import json
import re
import typing
from collections.abc import Iterable, Sequence
from typing import Any

from ml_collections import config_dict

from robust_info.config import checks, reads, registry, resume, schema
from robust_info.config.checks import check_new
from robust_info.config.data import LOCATION_FIELDS, OWN, DataConfig
from robust_info.config.evaluation import ATTACKS, EvaluationConfig
from robust_info.config.model import MODELS, ModelConfig
from robust_info.config.objective import ARGUMENTS, OBJECTIVES, ObjectiveConfig
from robust_info.config.schema import NORMS
from robust_info.config.train import TrainConfig

__all__ = [
  "ARGUMENTS",
  "ATTACKS",
  "LOCATION_FIELDS",
  "MODELS",
  "NORMS",
  "OBJECTIVES",
  "OWN",
  "Config",
  "DataConfig",
  "EvaluationConfig",
  "ModelConfig",
  "ObjectiveConfig",
  "TrainConfig",
  "check_new",
  "check_overrides",
  "defaults",
  "difference",
  "flatten",
  "from_config_dict",
  "from_json",
  "is_config",
  "is_read",
  "parts",
  "refused_changes",
  "replace_evaluation",
  "to_json",
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """Everything that determines a run.

  Attributes:
    data: the data set and its split.
    model: the network.
    objective: the loss.
    train: optimiser and loop.
    evaluation: metrics on validation data, and defaults of evaluate.py.
    seed: seed of all randomness of the run, in [0, 2^32); only 32 bits of a
      larger one would count.
  """

  data: DataConfig = dataclasses.field(default_factory=DataConfig)
  model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
  objective: ObjectiveConfig = dataclasses.field(
    default_factory=ObjectiveConfig
  )
  train: TrainConfig = dataclasses.field(default_factory=TrainConfig)
  evaluation: EvaluationConfig = dataclasses.field(
    default_factory=EvaluationConfig
  )
  # Old runs may have a larger seed than a new run is allowed to.
  seed: int = schema.non_negative(0, at_most=2**64 - 1)


def defaults() -> config_dict.ConfigDict:
  """The default configuration as a ConfigDict, for files in `configs/`.

  The settings of registered parts are among its fields; see `registry`.
  """
  return _to_config_dict(_class()())


def from_config_dict(
  config: config_dict.ConfigDict, *, given: Iterable[str] = ()
) -> Config:
  """Checks the configuration of a new run and returns its typed value.

  Missing fields take the defaults of the classes above. A field without an
  effect is refused if its value is not the default, or if it is known to have
  been set: it is named in `given`, or it stands in a section that does not hold
  all its fields. The ball of the objective (`epsilon`, `norm`, `epsilon_ramp`)
  is refused only if it is named in `given`.

  Args:
    config: nested fields, named as in `Config`.
    given: dotted names of fields that were set one by one.

  Returns:
    The configuration; every documented condition holds for it.

  Raises:
    ValueError: a misspelt field (with the nearest names), a bad value, or a
      field without an effect.
    TypeError: a value of the wrong type.
  """
  checked = _build(config)
  check_new(checked)
  set_alone = {
    f"{section}.{field}"
    for section, cls in _sections(type(checked)).items()
    if section in config and len(config[section]) < len(schema.names(cls))
    for field in config[section]
  }
  reads.check(
    checked, type(checked)(), given={*given, *reads.without_ball(set_alone)}
  )
  return checked


def replace_evaluation(
  config: EvaluationConfig, **changes: Any
) -> EvaluationConfig:
  """Replaces some settings of an evaluation.

  Args:
    config: the settings.
    **changes: fields and their values.

  Returns:
    The changed settings; every documented condition holds for the changes.

  Raises:
    ValueError: a bad value, or a field without an effect.
    TypeError: a value of the wrong type.
  """
  # Parts of the settings come first: they may be of another file.
  own = getattr(type(config), "parts", ())
  names = {part.name for part in own}
  others = [p for p in registry.active() if p.kind == "attack"]
  others = [part for part in others if part.name not in names]
  cls = registry.extended(EvaluationConfig, (*own, *others))
  new = schema.build(
    cls, dataclasses.asdict(config) | changes, "config.evaluation"
  )
  reads.check(
    Config(evaluation=new),
    Config(evaluation=config),
    given=[f"evaluation.{field}" for field in changes],
  )
  return new


def check_overrides(arguments: Sequence[str], *, flag: str = "config") -> None:
  """Requires every `--config.SECTION.FIELD` of a command line to exist.

  Args:
    arguments: the command line.
    flag: name of the flag that holds the configuration.

  Raises:
    ValueError: a misspelt field, with the nearest names, or a section that is
      set as a whole.
  """
  for argument in arguments:
    match = re.match(rf"--?(?:no)?{re.escape(flag)}\.([\w.]+)", argument)
    if not match:
      continue
    found = schema.require_field(_class(), match[1], flag)
    if fields := schema.names(found):
      raise ValueError(
        f"Expected a field of {flag}.{match[1]}, got {argument!r}; it has "
        f"{', '.join(fields)}."
      )


def to_json(config: Config) -> str:
  """The configuration as indented JSON; `from_json` inverts it.

  Of registered parts, only those that the configuration chooses are written.
  """
  content = dataclasses.asdict(config)
  for name in _sections(type(config)):
    section = getattr(config, name)
    for part in getattr(type(section), "parts", ()):
      if part != registry.chosen(section):
        del content[name][part.name]
  return json.dumps(content, indent=2) + "\n"


def from_json(text: str) -> Config:
  """Reads a configuration written by `to_json`.

  Raises:
    ValueError: a field that does not exist, or a bad value. Fields without an
      effect are accepted, because old runs may have them.
    TypeError: a value of the wrong type.
    registry.UnknownPartError: a part of one's own that is not registered.
  """
  content = json.loads(text)
  registry.require_known(content)
  return _build(content)


def parts(config: Config) -> list[registry.Part]:
  """The registered parts that a configuration chooses."""
  sections = [getattr(config, name) for name in _sections()]
  found = map(registry.chosen, sections)
  return [part for part in found if part is not None]


def difference(
  old: Config, new: Config, *, ignore: tuple[str, ...] = LOCATION_FIELDS
) -> list[str]:
  """The fields in which two configurations differ.

  Args:
    old: one configuration.
    new: the other.
    ignore: dotted names of fields to ignore; by default the location of the
      data and how it is read.

  Returns:
    One entry per field, such as `train.learning_rate: 0.1, now 0.01`, in the
    order of the classes; empty when both describe the same run. Fields
    without an effect in either are left out.
  """
  changes = resume.changed(old, new)
  return [text for name, text in changes.items() if name not in ignore]


def flatten(config: Config) -> dict[str, Any]:
  """Maps dotted names to values, in the order of the classes."""
  return schema.flatten(config)


def refused_changes(old: Config, new: Config) -> list[str]:
  """The changes with which a run cannot be resumed; see `resume`.

  Args:
    old: the stored configuration of the run.
    new: the configuration it would continue with.

  Returns:
    Entries in the format of `difference`, some with the reason.
  """
  return resume.refused(old, new)


def is_read(config: Config, name: str) -> bool:
  """Whether a field, for example `model.width`, has an effect."""
  return name not in reads.unread(config)


def is_config(value: Any) -> bool:
  """Whether a value can be read field by field, as a ConfigDict can."""
  return schema.is_mapping(value)


def _sections(cls: type[Config] = Config) -> dict[str, type]:
  hints = typing.get_type_hints(cls)
  return {k: v for k, v in hints.items() if dataclasses.is_dataclass(v)}


def _class() -> type[Config]:
  """`Config`, with the settings of the parts that are registered now."""
  return _extended(registry.active())


@functools.cache
def _extended(parts: tuple[registry.Part, ...]) -> type[Config]:
  sections = {
    name: registry.extended(cls, parts) for name, cls in _sections().items()
  }
  if sections == _sections():
    return Config
  return dataclasses.make_dataclass(
    "Config",
    [
      (name, cls, dataclasses.field(default_factory=cls))
      for name, cls in sections.items()
    ],
    bases=(Config,),
    namespace={"__doc__": Config.__doc__},
    frozen=True,
    kw_only=True,
  )


def _build(config: Any) -> Config:
  if not schema.is_mapping(config):
    raise TypeError(
      f"Expected config to be a ConfigDict, got {type(config).__name__}; "
      "get_config() must return one, for example config.defaults()."
    )
  checked = schema.build(_class(), config, "config")
  checks.check_together(checked)
  return checked


def _to_config_dict(value: Any) -> config_dict.ConfigDict:
  result = config_dict.ConfigDict()
  hints = typing.get_type_hints(type(value))
  for field in dataclasses.fields(value):
    item = getattr(value, field.name)
    if dataclasses.is_dataclass(item):
      item = _to_config_dict(item)
    elif item is None:
      item = config_dict.placeholder(schema.without_none(hints[field.name]))
    result[field.name] = item
  return result
