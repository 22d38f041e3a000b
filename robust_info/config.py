"""The configuration of a run, checked once at the door.

A run is described by one frozen `Config`. Files in `configs/` return it as an
`ml_collections.ConfigDict` (`defaults()` plus changes), the command line
overrides single fields, and `from_config_dict` turns the result into typed
values. Everything downstream reads attributes that exist and hold; nothing
downstream has defaults of its own.

Every error is one line that names the field, the value and what was expected.
"""

import dataclasses
import difflib
import json
import math
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ml_collections import config_dict

NORMS = ("linf", "l2")
# Where the data lies says nothing about what is trained.
LOCATION_FIELDS = ("data.data_dir", "data.cache_dir")


def _checked(default: Any, expected: str, holds: Callable[[Any], bool]) -> Any:
  return dataclasses.field(
    default=default, metadata={"expected": expected, "holds": holds}
  )


def _one_of(default: str, choices: tuple[str, ...]) -> Any:
  names = ", ".join(repr(c) for c in choices)
  return _checked(default, f"to be one of {names}", lambda v: v in choices)


def _positive(default: Any) -> Any:
  return _checked(default, "> 0", lambda v: v > 0)


def _non_negative(default: Any) -> Any:
  return _checked(default, ">= 0", lambda v: v >= 0)


def _fraction(default: float) -> Any:
  return _checked(default, "in [0, 1]", lambda v: 0 <= v <= 1)


def _below_one(default: float) -> Any:
  return _checked(default, "in [0, 1)", lambda v: 0 <= v < 1)


def _each(default: tuple, expected: str, holds: Callable[[Any], bool]) -> Any:
  return _checked(
    default, f"{expected} in each place", lambda v: all(map(holds, v))
  )


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
  """Which data, and what is held out of its training split.

  Attributes:
    name: `digits` (embedded) or the name of a TFDS image classification set.
    data_dir: where prepared TFDS data lies; None means TFDS's own default.
    validation_fraction: share of the training split held out for validation.
    validation_seed: seed of that choice.
    cache_dir: where decoded images are kept; None means the user's cache.
  """

  name: str = _checked("digits", "to name a data set", bool)
  data_dir: str | None = None
  validation_fraction: float = _checked(0.1, "in (0, 1)", lambda v: 0 < v < 1)
  validation_seed: int = _non_negative(0)
  cache_dir: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
  """The network, with its input normalisation.

  The last four fields are read off the training data when they are left
  empty, and stored in the resolved configuration of the run, so that a
  restored model needs no data.

  Attributes:
    name: `logistic`, `mlp` or `cnn`.
    activation: `relu`, `softplus`, `tanh` or `identity`.
    features: channels of the convolutions (5x5, stride 2) of `cnn`.
    hidden_sizes: widths of the hidden dense layers of `mlp` and `cnn`.
    num_classes: number of classes; 0 means that of the data.
    image_shape: (height, width, channels); () means that of the data.
    mean: subtracted per channel; () means the mean of the training images.
    std: divided by per channel; () means their standard deviation.
  """

  name: str = _one_of("cnn", ("logistic", "mlp", "cnn"))
  activation: str = _one_of("relu", ("relu", "softplus", "tanh", "identity"))
  features: tuple[int, ...] = _each((16, 32), "> 0", lambda v: v > 0)
  hidden_sizes: tuple[int, ...] = _each((100,), "> 0", lambda v: v > 0)
  num_classes: int = _non_negative(0)
  image_shape: tuple[int, ...] = _each((), "> 0", lambda v: v > 0)
  mean: tuple[float, ...] = ()
  std: tuple[float, ...] = _each((), "> 0", lambda v: v > 0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
  """What is minimised.

  Attributes:
    name: `standard` or `pgd`.
    label_smoothing: mass spread evenly over all classes by cross-entropy.
    epsilon: radius of the ball, in units of the input range [0, 1].
    norm: `linf` or `l2`.
    step_size: step of the inner attack, in units of epsilon.
    num_steps: steps of the inner attack.
    random_start: whether the inner attack starts at a random point.
    epsilon_ramp: share of training over which epsilon rises from 0.
  """

  name: str = _one_of("standard", ("standard", "pgd"))
  label_smoothing: float = _below_one(0.0)
  epsilon: float = _non_negative(0.1)
  norm: str = _one_of("linf", NORMS)
  step_size: float = _positive(0.25)
  num_steps: int = _positive(10)
  random_start: bool = True
  epsilon_ramp: float = _fraction(0.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
  """The optimiser and the loop.

  Attributes:
    num_epochs: passes over the training split.
    batch_size: examples a step.
    optimizer: `sgd`, `adam` or `adamw`.
    learning_rate: peak learning rate.
    schedule: `constant`, `cosine` (to 0) or `piecewise`.
    warmup: share of training over which the learning rate rises from 0.
    decay_at: shares of training after which `piecewise` decays.
    decay_factor: factor of each such decay.
    momentum: momentum of `sgd`.
    nesterov: whether that momentum is Nesterov's.
    weight_decay: on kernels only, never on biases or normalisation
      parameters; added to the gradient by `sgd`, decoupled in `adamw`.
    log_every: steps between two training rows of the log.
    validate_every: epochs between two validations, each with a checkpoint.
    checkpoint_every: steps between further checkpoints; 0 means none.
    keep_last: how many of the newest checkpoints are kept beside the best.
    on_nonfinite: `stop`, the one answer so far: end with the step's number.
  """

  num_epochs: int = _positive(20)
  batch_size: int = _positive(128)
  optimizer: str = _one_of("adam", ("sgd", "adam", "adamw"))
  learning_rate: float = _positive(1e-3)
  schedule: str = _one_of("cosine", ("constant", "cosine", "piecewise"))
  warmup: float = _below_one(0.0)
  decay_at: tuple[float, ...] = _each(
    (0.5, 0.75), "in (0, 1)", lambda v: 0 < v < 1
  )
  decay_factor: float = _positive(0.1)
  momentum: float = _below_one(0.9)
  nesterov: bool = False
  weight_decay: float = _non_negative(0.0)
  log_every: int = _positive(50)
  validate_every: int = _positive(1)
  checkpoint_every: int = _non_negative(0)
  keep_last: int = _positive(2)
  on_nonfinite: str = _one_of("stop", ("stop",))


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
  """How a model is measured, on validation while training and by evaluate.py.

  Attributes:
    batch_size: examples a batch.
    norm: norm of the ball, `linf` or `l2`.
    epsilon: its radius, in units of the input range [0, 1].
    epsilon_grid: radii of the accuracy curve of evaluate.py.
    num_steps: steps of the PGD attack.
    restarts: its restarts, the worst case per example counts.
    num_pairs: cross-category pairs of the local and the path lens.
    num_nodes: nodes of the path lens on a pair's straight line.
    validation_examples: how many examples of the validation split, chosen at
      random once, the attack and the Fisher metrics use while training; 0
      means all. evaluate.py always measures the whole test split.
  """

  batch_size: int = _positive(500)
  norm: str = _one_of("linf", NORMS)
  epsilon: float = _non_negative(0.1)
  epsilon_grid: tuple[float, ...] = _each(
    (0.0, 0.02, 0.05, 0.1, 0.15, 0.2), ">= 0", lambda v: v >= 0
  )
  num_steps: int = _positive(20)
  restarts: int = _positive(1)
  num_pairs: int = _positive(512)
  num_nodes: int = _positive(32)
  validation_examples: int = _non_negative(2000)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """Everything that determines a run; `seed` drives all its randomness."""

  data: DataConfig = DataConfig()
  model: ModelConfig = ModelConfig()
  objective: ObjectiveConfig = ObjectiveConfig()
  train: TrainConfig = TrainConfig()
  evaluation: EvaluationConfig = EvaluationConfig()
  seed: int = _non_negative(0)


def defaults() -> config_dict.ConfigDict:
  """The default configuration as a ConfigDict, for files in `configs/`."""
  return _to_config_dict(Config())


def from_config_dict(config: config_dict.ConfigDict) -> Config:
  """Checks a ConfigDict and gives its typed value.

  Fields left out take the defaults of the classes above.

  Args:
    config: nested fields, named as in `Config`.

  Returns:
    The configuration; every documented condition holds for it.

  Raises:
    ValueError: a misspelt field (with the nearest names) or a bad value.
    TypeError: a value of the wrong type.
  """
  if not isinstance(config, config_dict.ConfigDict | Mapping):
    raise TypeError(
      f"Expected config to be a ConfigDict, got {type(config).__name__}; "
      "get_config() must return one, for example config.defaults()."
    )
  checked = _build(Config, config, "config")
  _check_together(checked)
  return checked


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
    cls, path = Config, flag
    for part in match[1].split("."):
      known = _names(cls)
      path = f"{path}.{part}"
      if part not in known:
        raise ValueError(_unknown_field(path, known))
      cls = typing.get_type_hints(cls)[part]
    if dataclasses.is_dataclass(cls):
      raise ValueError(
        f"Expected a field of {path}, got {argument!r}; it has "
        f"{', '.join(_names(cls))}."
      )


def to_json(config: Config) -> str:
  """The configuration as indented JSON; `from_json` inverts it exactly."""
  return json.dumps(dataclasses.asdict(config), indent=2) + "\n"


def from_json(text: str) -> Config:
  """Reads what `to_json` wrote, with the checks of `from_config_dict`."""
  return from_config_dict(json.loads(text))


def difference(
  old: Config, new: Config, *, ignore: tuple[str, ...] = LOCATION_FIELDS
) -> list[str]:
  """The fields in which two configurations differ.

  Args:
    old: one configuration.
    new: the other.
    ignore: dotted names that do not count; by default those that say where
      the data lies.

  Returns:
    One entry a field, such as `train.learning_rate: 0.1, now 0.01`, in the
    order of the classes; empty when the two describe the same run.
  """
  before, after = _flatten(old), _flatten(new)
  return [
    f"{name}: {before[name]!r}, now {after[name]!r}"
    for name in before
    if name not in ignore and before[name] != after[name]
  ]


def _to_config_dict(value: Any) -> config_dict.ConfigDict:
  result = config_dict.ConfigDict()
  hints = typing.get_type_hints(type(value))
  for field in dataclasses.fields(value):
    item = getattr(value, field.name)
    if dataclasses.is_dataclass(item):
      item = _to_config_dict(item)
    elif item is None:
      item = config_dict.placeholder(_without_none(hints[field.name]))
    result[field.name] = item
  return result


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
  flat = {}
  for field in dataclasses.fields(value):
    item = getattr(value, field.name)
    name = f"{prefix}{field.name}"
    if dataclasses.is_dataclass(item):
      flat |= _flatten(item, f"{name}.")
    else:
      flat[name] = item
  return flat


def _names(cls: type) -> list[str]:
  if not dataclasses.is_dataclass(cls):
    return []
  return [field.name for field in dataclasses.fields(cls)]


def _build(cls: type, given: Any, path: str) -> Any:
  if not isinstance(given, config_dict.ConfigDict | Mapping):
    raise TypeError(
      f"Expected {path} to hold fields, got {path}={given!r} of type "
      f"{type(given).__name__}."
    )
  hints = typing.get_type_hints(cls)
  known = _names(cls)
  for name in given:
    if name not in known:
      raise ValueError(_unknown_field(f"{path}.{name}", known))
  values = {}
  for field in dataclasses.fields(cls):
    if field.name not in given:
      continue
    name, value = f"{path}.{field.name}", given[field.name]
    if dataclasses.is_dataclass(hints[field.name]):
      values[field.name] = _build(hints[field.name], value, name)
      continue
    value = _typed(hints[field.name], value, name)
    check = field.metadata
    if check and not check["holds"](value):
      raise ValueError(f"Expected {name} {check['expected']}, got {value!r}.")
    values[field.name] = value
  return cls(**values)


def _unknown_field(name: str, known: list[str]) -> str:
  """The line for a field that does not exist, with the nearest that do."""
  stem, _, leaf = name.rpartition(".")
  near = difflib.get_close_matches(leaf, known, n=3)
  if near:
    names = " or ".join(f"{stem}.{match}" for match in near)
    return f"Unknown field {name}; did you mean {names}?"
  fields = ", ".join(known) or "no fields"
  return f"Unknown field {name}; {stem} has {fields}."


def _without_none(hint: Any) -> Any:
  if isinstance(hint, types.UnionType):
    return next(a for a in typing.get_args(hint) if a is not types.NoneType)
  return hint


def _typed(hint: Any, value: Any, name: str) -> Any:
  if isinstance(hint, types.UnionType) and value is None:
    return None
  hint = _without_none(hint)
  if typing.get_origin(hint) is tuple:
    if isinstance(value, str) or not hasattr(value, "__iter__"):
      raise TypeError(
        f"Expected {name} to be a tuple, got {value!r} of type "
        f"{type(value).__name__}."
      )
    item_hint = typing.get_args(hint)[0]
    return tuple(
      _typed(item_hint, item, f"{name}[{i}]") for i, item in enumerate(value)
    )
  is_number = isinstance(value, int | float) and not isinstance(value, bool)
  if hint is float and is_number:
    if not math.isfinite(value):
      raise ValueError(f"Expected {name} to be finite, got {value!r}.")
    return float(value)
  if type(value) is not hint:
    raise TypeError(
      f"Expected {name} to be of type {hint.__name__}, got {value!r} of type "
      f"{type(value).__name__}."
    )
  return value


def _check_together(config: Config) -> None:
  """Conditions that tie fields to each other."""
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
  if list(train.decay_at) != sorted(set(train.decay_at)):
    raise ValueError(
      f"Expected config.train.decay_at to increase, got {train.decay_at!r}."
    )
