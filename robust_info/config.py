"""The configuration of a run, checked once at the door.

A run is described by one frozen `Config`. Files in `configs/` return it as an
`ml_collections.ConfigDict` (`defaults()` plus changes), the command line
overrides single fields, and `from_config_dict` turns the result into typed
values. Everything downstream reads attributes that exist and hold; nothing
downstream has defaults of its own.

Every error is one line that names the field, the value and what was expected.
"""

import dataclasses
import json
import re
import typing
from collections.abc import Sequence
from typing import Any

from ml_collections import config_dict

from robust_info import _config_checks, _schema

NORMS = ("linf", "l2")
MODELS = (
  "logistic",
  "mlp",
  "cnn",
  "madry_cnn",
  "vgg11",
  "vgg13",
  "vgg16",
  "resnet20",
  "resnet32",
  "preact_resnet18",
  "wide_resnet28",
  "wide_resnet34",
)
ATTACKS = ("pgd", "apgd", "autoattack")
OBJECTIVES = (
  "standard",
  "pgd",
  "trades",
  "mart",
  "kl",
  "fgsm_rs",
  "fisher",
  "pair_lens",
  "epsilon_lens",
)
# Where the data lies and how it is read say nothing about what is trained.
LOCATION_FIELDS = ("data.data_dir", "data.cache_dir", "data.streaming")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
  """Which data, and what is held out of its training split.

  Attributes:
    name: `digits` (embedded) or the name of a TFDS image classification set.
    data_dir: where prepared TFDS data lies; None means TFDS's own default.
    validation_fraction: share of the training split held out for validation.
    validation_seed: seed of that choice.
    cache_dir: where decoded images are kept; None means the user's cache.
    streaming: whether training images are decoded batch by batch, for sets
      whose decoded images do not fit on the disk; the batches are the same.
    augment: of the training images: `none`, or `crop_flip`, random crops of
      the padded image and horizontal flips (not for digits: a mirrored 2 is
      none).
    crop_padding: pixels of that padding on each side.
  """

  name: str = _schema.checked("digits", "to name a data set", bool)
  data_dir: str | None = None
  validation_fraction: float = _schema.checked(
    0.1, "in (0, 1)", lambda v: 0 < v < 1
  )
  validation_seed: int = _schema.non_negative(0)
  cache_dir: str | None = None
  streaming: bool = False
  augment: str = _schema.one_of("none", ("none", "crop_flip"))
  crop_padding: int = _schema.non_negative(4)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
  """The network, with its input normalisation.

  The last four fields are read off the training data when they are left
  empty, and stored in the resolved configuration of the run, so that a
  restored model needs no data.

  Attributes:
    name: `logistic`, `mlp`, `cnn`, `madry_cnn`, `vgg11`, `vgg13`, `vgg16`,
      `resnet20`, `resnet32`, `preact_resnet18`, `wide_resnet28` or
      `wide_resnet34`.
    activation: `relu`, `softplus`, `tanh` or `identity`; of a VGG it is part
      of the variant.
    features: channels of the convolutions (5x5, stride 2) of `cnn`.
    hidden_sizes: widths of the hidden dense layers of `mlp` and `cnn`.
    variant: of a VGG: `relu`; `half_linear`, no activation; `pure_linear`, no
      activation and mean instead of maximum pools.
    width: factor on the channels of a residual network: `resnet20` with 5 is
      resnet20x5, `wide_resnet28` with 10 is WRN-28-10.
    dtype: what layers compute in, `float32` or `bfloat16`; parameters, batch
      statistics and logits are float32 in any case.
    remat: whether a VGG or a residual network computes its blocks anew in the
      backward pass: less memory for one more forward pass.
    num_classes: number of classes; 0 means that of the data.
    image_shape: (height, width, channels); () means that of the data.
    mean: subtracted per channel; () means the mean of the training images.
    std: divided by per channel; () means their standard deviation.
  """

  name: str = _schema.one_of("cnn", MODELS)
  activation: str = _schema.one_of(
    "relu", ("relu", "softplus", "tanh", "identity")
  )
  features: tuple[int, ...] = _schema.each((16, 32), "> 0", lambda v: v > 0)
  hidden_sizes: tuple[int, ...] = _schema.each((100,), "> 0", lambda v: v > 0)
  variant: str = _schema.one_of("relu", ("relu", "half_linear", "pure_linear"))
  width: int = _schema.positive(1)
  dtype: str = _schema.one_of("float32", ("float32", "bfloat16"))
  remat: bool = False
  num_classes: int = _schema.non_negative(0)
  image_shape: tuple[int, ...] = _schema.each((), "> 0", lambda v: v > 0)
  mean: tuple[float, ...] = ()
  std: tuple[float, ...] = _schema.each((), "> 0", lambda v: v > 0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
  """What is minimised; each objective reads the fields it has a use for.

  `epsilon`, `norm`, `epsilon_ramp`: every one with a ball. `step_size`,
  `num_steps`, `random_start`: `pgd`, `mart`, and but for the start `trades`
  and `epsilon_lens`.

  Attributes:
    name: `standard`, `pgd`, `trades`, `mart`, `kl`, `fgsm_rs`, `fisher`,
      `pair_lens` or `epsilon_lens`.
    label_smoothing: mass spread evenly over all classes by cross-entropy
      (not in `mart`).
    epsilon: radius of the ball, in units of the input range [0, 1].
    norm: `linf` or `l2`.
    step_size: step of the inner attack, in units of epsilon.
    num_steps: steps of the inner attack.
    random_start: whether the inner attack starts at a random point.
    epsilon_ramp: share of training over which epsilon rises from 0.
    trades_coefficient: of the divergence of `trades`.
    mart_coefficient: of the divergence of `mart`.
    kl_coefficient: of the divergence of `kl`.
    kl_step_size: step of its attack, in units of epsilon.
    kl_num_steps: steps of its attack.
    kl_anchor: `clean`, or `start` as in the paper's public code.
    fgsm_step_size: the one step of `fgsm_rs`, in units of epsilon.
    fgsm_alignment: coefficient of its gradient alignment; 0 means none.
    fisher_coefficient: of the penalty of `fisher`.
    fisher_quantity: `trace` or `frobenius`.
    fisher_estimator: `exact`, `hutchinson` or `label`.
    fisher_probes: probes of the last two.
    pair_non_robust: coefficient of the non-robust part in `pair_lens`.
    pair_part: which part that is, `local` or `path`.
    pair_reward: coefficient of its reward for divergence between classes.
    pair_reward_scale: divergence, in nats, beyond which that reward fades.
    lens_coefficient: of what the attack of `epsilon_lens` takes.
    lens_quantity: of what: `variational_bound`, `label_information` or
      `cckl`.
    lens_attack: `pgd` or `kl_pgd`.
    awp_gamma: size of the adversarial weight perturbation under any objective,
      relative to the weights (5e-3 in its paper); 0 means none.
    awp_warmup: share of training before it starts.
  """

  name: str = _schema.one_of("standard", OBJECTIVES)
  label_smoothing: float = _schema.below_one(0.0)
  epsilon: float = _schema.non_negative(0.1)
  norm: str = _schema.one_of("linf", NORMS)
  step_size: float = _schema.positive(0.25)
  num_steps: int = _schema.positive(10)
  random_start: bool = True
  epsilon_ramp: float = _schema.fraction(0.0)
  trades_coefficient: float = _schema.non_negative(6.0)
  mart_coefficient: float = _schema.non_negative(5.0)
  kl_coefficient: float = _schema.non_negative(3.0)
  kl_step_size: float = _schema.positive(1.0)
  kl_num_steps: int = _schema.positive(1)
  kl_anchor: str = _schema.one_of("clean", ("clean", "start"))
  fgsm_step_size: float = _schema.positive(1.25)
  fgsm_alignment: float = _schema.non_negative(0.0)
  fisher_coefficient: float = _schema.non_negative(0.03)
  fisher_quantity: str = _schema.one_of("trace", ("trace", "frobenius"))
  fisher_estimator: str = _schema.one_of(
    "hutchinson", ("exact", "hutchinson", "label")
  )
  fisher_probes: int = _schema.positive(1)
  pair_non_robust: float = _schema.non_negative(1.0)
  pair_part: str = _schema.one_of("local", ("local", "path"))
  pair_reward: float = _schema.non_negative(0.1)
  pair_reward_scale: float = _schema.positive(10.0)
  lens_coefficient: float = _schema.non_negative(3.0)
  lens_quantity: str = _schema.one_of(
    "variational_bound", ("variational_bound", "label_information", "cckl")
  )
  lens_attack: str = _schema.one_of("pgd", ("pgd", "kl_pgd"))
  awp_gamma: float = _schema.non_negative(0.0)
  awp_warmup: float = _schema.below_one(0.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
  """The optimiser and the loop.

  Attributes:
    num_epochs: passes over the training split.
    batch_size: examples a step, over all devices of all processes.
    accumulate: micro-batches of each step, one after the other, for batches
      that do not fit in memory; they and the devices divide `batch_size`.
      Batch statistics, and objectives that compare examples, see one
      micro-batch at a time.
    optimizer: `sgd`, `adam` or `adamw`.
    learning_rate: peak learning rate.
    schedule: `constant`, `cosine` (to 0), `piecewise`, or `cyclic` (linear up
      from 0 to the peak and down to 0).
    warmup: share of training over which the learning rate rises from 0.
    decay_at: shares of training after which `piecewise` decays.
    decay_factor: factor of each such decay.
    cycle_peak: share of training after which `cyclic` is at its peak.
    momentum: momentum of `sgd`.
    nesterov: whether that momentum is Nesterov's.
    weight_decay: on kernels only, never on biases or normalisation
      parameters; added to the gradient by `sgd`, decoupled in `adamw`.
    ema_decay: of exponential moving averages of parameters and batch
      statistics, which are then what validation, checkpoint choice and
      evaluation see; 0 means none.
    log_every: steps between two training rows of the log.
    validate_every: epochs between two validations, each with a checkpoint.
    checkpoint_every: steps between further checkpoints; 0 means none.
    keep_last: how many of the newest checkpoints are kept beside the best.
    on_nonfinite: what happens when loss or parameters are not finite: `stop`
      with the number of the step, or `rollback`: go back to the last regular
      checkpoint, and on with other randomness at half the learning rate.
    max_rollbacks: how often that may happen in a run before it stops.
  """

  num_epochs: int = _schema.positive(20)
  batch_size: int = _schema.positive(128)
  accumulate: int = _schema.positive(1)
  optimizer: str = _schema.one_of("adam", ("sgd", "adam", "adamw"))
  learning_rate: float = _schema.positive(1e-3)
  schedule: str = _schema.one_of(
    "cosine", ("constant", "cosine", "piecewise", "cyclic")
  )
  warmup: float = _schema.below_one(0.0)
  decay_at: tuple[float, ...] = _schema.each(
    (0.5, 0.75), "in (0, 1)", lambda v: 0 < v < 1
  )
  decay_factor: float = _schema.positive(0.1)
  cycle_peak: float = _schema.checked(0.4, "in (0, 1)", lambda v: 0 < v < 1)
  momentum: float = _schema.below_one(0.9)
  nesterov: bool = False
  weight_decay: float = _schema.non_negative(0.0)
  ema_decay: float = _schema.below_one(0.0)
  log_every: int = _schema.positive(50)
  validate_every: int = _schema.positive(1)
  checkpoint_every: int = _schema.non_negative(0)
  keep_last: int = _schema.positive(2)
  on_nonfinite: str = _schema.one_of("stop", ("stop", "rollback"))
  max_rollbacks: int = _schema.positive(3)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
  """How a model is measured, on validation while training and by evaluate.py.

  Attributes:
    batch_size: examples a batch.
    norm: norm of the ball, `linf` or `l2`.
    epsilon: its radius, in units of the input range [0, 1].
    epsilon_grid: radii of the accuracy curve of evaluate.py, always of PGD.
    attack: of evaluate.py at that radius: `pgd`; `apgd`, beside PGD also
      APGD-CE and APGD-T; or `autoattack`, beside PGD also AutoAttack. Training
      is followed with PGD whatever this says.
    autoattack_version: `standard`, or `plus` with more attacks and restarts.
      (AutoAttack's `rand` is for networks that draw random numbers; these
      never do.)
    sanity_examples: how many examples of the test split, chosen at random
      once, the checks use that tell whether a robust accuracy can be believed.
    num_steps: steps of the PGD attack.
    restarts: its restarts, the worst case per example counts.
    num_pairs: cross-category pairs of the path lens, and while training of the
      local lens.
    num_coarse_pairs: more pairs of evaluate.py, for the local lens and for a
      coarse path lens, the control variate of the path lens; a pair costs a
      fifth of one of `num_pairs`.
    num_nodes: segments of a pair's straight line in the path lens, rounded up
      to a multiple of 4.
    validation_examples: how many examples of the validation split, chosen at
      random once, the attack and the Fisher metrics use while training; 0
      means all. evaluate.py always measures the whole test split.
  """

  batch_size: int = _schema.positive(500)
  norm: str = _schema.one_of("linf", NORMS)
  epsilon: float = _schema.non_negative(0.1)
  epsilon_grid: tuple[float, ...] = _schema.each(
    (0.0, 0.02, 0.05, 0.1, 0.15, 0.2), ">= 0", lambda v: v >= 0
  )
  attack: str = _schema.one_of("pgd", ATTACKS)
  autoattack_version: str = _schema.one_of("standard", ("standard", "plus"))
  sanity_examples: int = _schema.positive(128)
  num_steps: int = _schema.positive(20)
  restarts: int = _schema.positive(1)
  num_pairs: int = _schema.positive(512)
  num_coarse_pairs: int = _schema.positive(8192)
  num_nodes: int = _schema.positive(64)
  validation_examples: int = _schema.non_negative(2000)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """Everything that determines a run; `seed` drives all its randomness."""

  data: DataConfig = DataConfig()
  model: ModelConfig = ModelConfig()
  objective: ObjectiveConfig = ObjectiveConfig()
  train: TrainConfig = TrainConfig()
  evaluation: EvaluationConfig = EvaluationConfig()
  seed: int = _schema.non_negative(0)


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
  if not _schema.is_mapping(config):
    raise TypeError(
      f"Expected config to be a ConfigDict, got {type(config).__name__}; "
      "get_config() must return one, for example config.defaults()."
    )
  checked = _schema.build(Config, config, "config")
  _config_checks.check_together(checked)
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
    found = _schema.require_field(Config, match[1], flag)
    if fields := _schema.names(found):
      raise ValueError(
        f"Expected a field of {flag}.{match[1]}, got {argument!r}; it has "
        f"{', '.join(fields)}."
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
      the data lies and how it is read.

  Returns:
    One entry a field, such as `train.learning_rate: 0.1, now 0.01`, in the
    order of the classes; empty when the two describe the same run.
  """
  before, after = _schema.flatten(old), _schema.flatten(new)
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
      item = config_dict.placeholder(_schema.without_none(hints[field.name]))
    result[field.name] = item
  return result
