"""Values that cannot run, and fields without an effect, are refused early."""

import dataclasses
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robust_info import config as config_lib
from robust_info import models, objectives
from robust_info.config import reads, schema
from robust_info.training import optimizers

DEFAULTS = config_lib.flatten(config_lib.Config())
NUMBERS = [
  name
  for name, value in DEFAULTS.items()
  if isinstance(value, int | float) and not isinstance(value, bool)
]
TUPLES = [name for name, value in DEFAULTS.items() if isinstance(value, tuple)]


SEEDS = ("seed", "data.validation_seed")


def nested(flat):
  sections = {}
  for name, value in flat.items():
    section, _, field = name.rpartition(".")
    if section:
      sections.setdefault(section, {})[field] = value
    else:
      sections[field] = value
  return sections


def changed(flat):
  """An unchecked configuration with these fields."""
  config = config_lib.Config()
  for name, value in flat.items():
    section, _, field = name.rpartition(".")
    if section:
      part = dataclasses.replace(getattr(config, section), **{field: value})
      field, value = section, part
    config = dataclasses.replace(config, **{field: value})
  return config


def refusal(flat, **kwargs):
  with pytest.raises((ValueError, TypeError)) as error:
    config_lib.from_config_dict(nested(flat), **kwargs)
  assert "\n" not in str(error.value)
  assert len(str(error.value)) < 400
  return str(error.value)


@pytest.mark.parametrize("name", NUMBERS)
def test_huge_number_is_one_line_naming_the_field(name):
  values = [10**400, 10**5000, 1e300]
  if isinstance(DEFAULTS[name], int):
    values += [2**40 if name not in SEEDS else 2**64, 10**30]
  for value in values:
    line = refusal({name: value})
    assert f"config.{name}" in line
    assert any(
      word in line for word in ("<=", "float32", "in [", "in (", "int")
    )


@pytest.mark.parametrize("name", TUPLES)
@pytest.mark.parametrize("value", [(10**30,), (1e300,), (1,) * 10**4])
def test_huge_entry_or_too_many_are_one_line_naming_the_field(name, value):
  assert f"config.{name}" in refusal({name: value})


@pytest.mark.parametrize(
  ("name", "value"),
  [
    ("train.num_epochs", 2**40),
    ("train.batch_size", 2**36),
    ("train.accumulate", 129),
    ("evaluation.num_pairs", 10**11),
    ("model.features", (2**21, 1)),
    ("seed", 2**32),
    ("seed", 2**63),
    ("train.learning_rate", 1e-60),
    ("train.momentum", 1 - 1e-12),
    ("train.ema_decay", 1 - 1e-12),
    ("model.std", (1e-30,)),
    ("data.data_dir", ""),
  ],
)
def test_value_beyond_its_own_bound_is_refused(name, value):
  assert f"config.{name}" in refusal({name: value})


@pytest.mark.parametrize("name", [*NUMBERS, *TUPLES])
def test_default_is_within_its_bounds(name):
  # Reading back a stored run accepts fields without an effect.
  text = config_lib.to_json(config_lib.Config())
  assert config_lib.flatten(config_lib.from_json(text))[name] == DEFAULTS[name]


def test_largest_seed_passes_and_a_larger_one_of_an_old_run_is_read():
  assert config_lib.from_config_dict({"seed": 2**32 - 1}).seed == 2**32 - 1
  old = config_lib.Config(seed=2**40)
  assert config_lib.from_json(config_lib.to_json(old)) == old


@pytest.mark.parametrize("name", config_lib.OBJECTIVES)
def test_objective_takes_from_the_table_all_that_it_can_be_given(name):
  made = objectives.create(config_lib.ObjectiveConfig(name=name))
  taken = {
    parameter.name
    for parameter in inspect.signature(made.func).parameters.values()
    if parameter.kind is parameter.KEYWORD_ONLY
  }
  assert set(made.keywords) == set(config_lib.ARGUMENTS[name])
  # `margin` is 1 in the paper of `mart`; `progress` comes from the step.
  assert taken - set(made.keywords) <= {"progress", "margin"}


@pytest.mark.parametrize("name", config_lib.OBJECTIVES)
def test_every_field_that_an_objective_does_not_read_is_refused(name):
  read = {*config_lib.ARGUMENTS[name].values(), "name", "awp_gamma"}
  for field in schema.names(config_lib.ObjectiveConfig):
    value = DEFAULTS[f"objective.{field}"]
    given = {"objective.name": name, f"objective.{field}": value}
    if field in read:
      continue
    # The value is the default; giving it at all is enough for a refusal.
    line = (
      refusal(given, given=[f"objective.{field}"])
      if f"objective.{field}" in reads.without_ball([f"objective.{field}"])
      else refusal({"objective.name": name}, given=[f"objective.{field}"])
    )
    assert f"config.objective.{field}" in line
    reason = "awp_gamma" if field == "awp_warmup" else "name"
    assert f"config.objective.{reason} = " in line


def other(value):
  """Another value of the type, valid nearly everywhere."""
  if isinstance(value, bool):
    return not value
  if isinstance(value, int):
    return value + 1
  if isinstance(value, float):
    return value / 2 + 0.125
  return {(0.5, 0.75): (0.25,), (16, 32): (4,), (100,): (7,)}.get(value, value)


@pytest.mark.parametrize(
  ("fields", "named"),
  [
    ({"objective.name": "kl", "objective.num_steps": 10}, "kl_num_steps"),
    ({"objective.name": "fgsm_rs", "objective.step_size": 1.0}, "fgsm_step"),
    ({"objective.name": "mart", "objective.label_smoothing": 0.1}, "'mart'"),
    ({"objective.name": "trades", "objective.random_start": False}, "'trades'"),
    ({"objective.awp_warmup": 0.5}, "awp_gamma = 0.0"),
    (
      {
        "objective.name": "fisher",
        "objective.fisher_estimator": "exact",
        "objective.fisher_probes": 3,
      },
      "fisher_estimator = 'exact'",
    ),
    (
      {
        "objective.name": "gradient_norm",
        "objective.gradient_difference": 0.1,
      },
      "gradient_estimator = 'exact'",
    ),
    (
      {
        "objective.name": "pair_lens",
        "objective.pair_reward": 0.0,
        "objective.pair_reward_scale": 3.0,
      },
      "pair_reward = 0.0",
    ),
    ({"train.optimizer": "adam", "train.nesterov": True}, "'adam'"),
    ({"train.optimizer": "adamw", "train.momentum": 0.5}, "'adamw'"),
    (
      {
        "train.optimizer": "sgd",
        "train.momentum": 0.0,
        "train.nesterov": True,
      },
      "momentum = 0.0",
    ),
    ({"train.decay_at": (0.2,)}, "'cosine'"),
    ({"train.decay_factor": 0.5}, "'cosine'"),
    ({"train.cycle_peak": 0.5}, "'cosine'"),
    (
      {"train.schedule": "piecewise", "train.warmup": 0.5},
      "before the first decay",
    ),
    ({"train.schedule": "piecewise", "train.decay_at": ()}, "'constant'"),
    ({"train.max_rollbacks": 5}, "on_nonfinite = 'stop'"),
    ({"data.crop_padding": 2}, "augment = 'none'"),
    ({"model.name": "logistic", "model.activation": "tanh"}, "'logistic'"),
    ({"model.name": "logistic", "model.dtype": "bfloat16"}, "'logistic'"),
    (
      {
        "model.name": "vgg13",
        "model.variant": "half_linear",
        "model.activation": "silu",
      },
      "variant = 'half_linear'",
    ),
    ({"model.name": "mlp", "model.features": (3,)}, "'mlp'"),
    ({"model.name": "vgg11", "model.hidden_sizes": (3,)}, "'vgg11'"),
    ({"evaluation.autoattack_version": "plus"}, "attack = 'pgd'"),
  ],
)
def test_option_that_does_nothing_is_refused_with_the_reason(fields, named):
  line = refusal(fields)
  assert f"config.{[*fields][-1]}" in line
  assert named in line
  # The same in a complete configuration, as files give it.
  given = config_lib.defaults()
  with given.unlocked():
    given.update_from_flattened_dict(fields)
  if DEFAULTS[[*fields][-1]] != [*fields.values()][-1]:
    with pytest.raises(ValueError, match=r"^Expected "):
      config_lib.from_config_dict(given)


def test_ball_of_a_file_may_go_unread_but_not_one_of_the_command_line():
  fields = {"objective": {"epsilon": 0.2, "norm": "l2", "epsilon_ramp": 0.5}}
  assert config_lib.from_config_dict(fields).objective.epsilon == 0.2
  with pytest.raises(ValueError, match=r"config.objective.name = 'standard'"):
    config_lib.from_config_dict(fields, given=["objective.epsilon"])


@pytest.mark.parametrize(
  "schedule", ["constant", "cosine", "piecewise", "cyclic"]
)
def test_fields_that_change_a_schedule_are_the_ones_of_the_table(schedule):
  fields = {"train.schedule": schedule}
  table = learning_rates(fields)
  for field in ("warmup", "decay_at", "decay_factor", "cycle_peak"):
    name = f"train.{field}"
    given = {**fields, name: other(DEFAULTS[name])}
    is_read = config_lib.is_read(changed(fields), name)
    assert (learning_rates(given) != table).any() == is_read, field


def learning_rates(fields):
  config = changed(fields).train
  return np.asarray(
    jax.vmap(optimizers.learning_rate(config, 40))(jnp.arange(40))
  )


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_fields_that_change_an_optimizer_are_the_ones_of_the_table(optimizer):
  fields = {"train.optimizer": optimizer}
  table = trained_weights(fields)
  for field in ("momentum", "nesterov", "weight_decay"):
    name = f"train.{field}"
    given = {**fields, name: other(DEFAULTS[name])}
    is_read = config_lib.is_read(changed(fields), name)
    assert (trained_weights(given) != table).any() == is_read, field


def trained_weights(fields):
  optimizer = optimizers.create(changed(fields).train, 3)
  weights = jnp.ones((2, 2))
  state = optimizer.init(weights)
  for step in range(3):
    updates, state = optimizer.update(weights + step, state, weights)
    weights = weights + updates
  return np.asarray(weights)


@pytest.mark.parametrize("name", config_lib.MODELS)
def test_fields_that_change_a_network_are_the_ones_of_the_table(name):
  def make(**fields):
    return models.create(name, num_classes=3, **fields)

  for field, value in (
    ("activation", "tanh"),
    ("features", (4,)),
    ("hidden_sizes", (7,)),
    ("variant", "pure_linear"),
    ("width", 2),
    ("dtype", "bfloat16"),
    ("remat", True),
  ):
    is_read = config_lib.is_read(
      changed({"model.name": name}), f"model.{field}"
    )
    try:
      differs = make(**{field: value}) != make()
    except ValueError:
      differs = False
    assert differs == is_read, field


def test_flag_of_an_evaluation_without_an_effect_or_beyond_bounds_is_refused():
  stored = config_lib.EvaluationConfig(autoattack_version="plus")
  changes = {"num_steps": 3}
  found = config_lib.replace_evaluation(stored, **changes)
  assert found == dataclasses.replace(stored, **changes)
  with pytest.raises(ValueError, match="autoattack_version"):
    config_lib.replace_evaluation(stored, autoattack_version="plus")
  with pytest.raises(
    ValueError, match=r"num_pairs <= 16777216, got 1000000000"
  ):
    config_lib.replace_evaluation(stored, num_pairs=10**11)


def test_width_of_an_old_run_is_an_integer_and_means_the_same():
  old = config_lib.to_json(
    config_lib.Config(model=config_lib.ModelConfig(name="resnet20", width=5))
  )
  assert '"width": 5,' in old
  new = config_lib.from_json(old)
  assert new.model.width == 5
  assert models.from_config(
    dataclasses.replace(new.model, num_classes=10)
  ) == models.create("resnet20", num_classes=10, width=5)


def test_old_run_with_an_option_that_does_nothing_is_read_and_resumed():
  objective = config_lib.ObjectiveConfig(name="mart", label_smoothing=0.1)
  old = config_lib.Config(objective=objective)
  assert config_lib.from_json(config_lib.to_json(old)) == old
  new = dataclasses.replace(
    old, objective=dataclasses.replace(objective, label_smoothing=0.0)
  )
  assert config_lib.refused_changes(old, new) == []
