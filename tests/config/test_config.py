import dataclasses
import importlib.util
import pathlib

import pytest
from ml_collections import config_dict

from robust_info import config as config_lib
from robust_info import models

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
# Trained on purpose in a larger ball than the one of the evaluation.
LARGER_BALLS = {"mnist_linf03": 0.32}


def get_config(name):
  spec = importlib.util.spec_from_file_location(name, CONFIGS / f"{name}.py")
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module.get_config()


def test_defaults_round_trip_through_config_dict():
  config = config_lib.from_config_dict(config_lib.defaults())
  assert config == config_lib.Config()


def test_json_round_trip_is_exact():
  given = config_lib.defaults()
  given.train.learning_rate = 0.1 + 0.2
  given.data.data_dir = "somewhere"
  given.model.mean, given.model.std = (1 / 3,), (0.2,)
  config = config_lib.from_config_dict(given)
  assert config_lib.from_json(config_lib.to_json(config)) == config


@pytest.mark.parametrize("name", [p.stem for p in CONFIGS.glob("*.py")])
def test_every_config_file_passes_the_checks(name):
  config_lib.from_config_dict(get_config(name))


@pytest.mark.parametrize("name", [p.stem for p in CONFIGS.glob("*.py")])
def test_objective_name_alone_selects_adversarial_training(name):
  given = get_config(name)
  given.objective.name = "pgd"
  config = config_lib.from_config_dict(given)
  evaluated = config.evaluation.epsilon
  assert config.objective.epsilon == LARGER_BALLS.get(name, evaluated)
  assert config.objective.epsilon >= evaluated > 0
  assert config.objective.norm == config.evaluation.norm


def test_config_values_are_frozen():
  with pytest.raises(dataclasses.FrozenInstanceError):
    config_lib.Config().seed = 1


@pytest.mark.parametrize(
  ("path", "value", "message"),
  [
    (
      "train.learning_rate",
      -1.0,
      "Expected config.train.learning_rate > 0, got -1.0.",
    ),
    (
      "train.learning_rate",
      float("nan"),
      "Expected config.train.learning_rate to be finite, got nan.",
    ),
    ("seed", -1, "Expected config.seed >= 0, got -1."),
    (
      "data.validation_fraction",
      1.0,
      "Expected config.data.validation_fraction in (0, 1), got 1.0.",
    ),
    (
      "objective.name",
      "pdg",
      "Expected config.objective.name to be one of 'standard', 'pgd'",
    ),
    ("objective.norm", "l7", "to be one of 'linf', 'l2', got 'l7'."),
    (
      "evaluation.epsilon_grid",
      (0.1, -0.1),
      "Expected config.evaluation.epsilon_grid >= 0 in each place",
    ),
    ("train.decay_at", (0.7, 0.2), "config.train.decay_at to increase"),
    ("train.weight_decay", 0.1, "use 'adamw'"),
    ("model.mean", (0.5,), "one entry a channel each"),
    ("model.width", 0, "Expected config.model.width > 0, got 0."),
    ("model.image_shape", (8, 8), "(height, width, channels), got (8, 8)"),
  ],
)
def test_bad_value_is_one_line_naming_the_field(path, value, message):
  given = config_lib.defaults()
  with given.unlocked():
    given.update_from_flattened_dict({path: value})
  with pytest.raises(ValueError) as error:  # noqa: PT011
    config_lib.from_config_dict(given)
  assert message in str(error.value)
  assert "\n" not in str(error.value)


@pytest.mark.parametrize(
  ("section", "field", "value"),
  [
    ("train", "num_epochs", 1.5),
    ("train", "num_epochs", True),
    ("train", "learning_rate", "fast"),
    ("model", "hidden_sizes", 3),
    ("model", "hidden_sizes", "12"),
    ("model", "hidden_sizes", (1.5,)),
    ("objective", "random_start", 1),
    ("data", "name", None),
  ],
)
def test_wrong_type_is_one_line_naming_the_field(section, field, value):
  with pytest.raises(TypeError, match=f"config.{section}.{field}") as error:
    config_lib.from_config_dict({section: {field: value}})
  assert "\n" not in str(error.value)


def test_section_given_as_a_value_is_refused():
  with pytest.raises(TypeError, match=r"Expected config.train to hold fields"):
    config_lib.from_config_dict({"train": 3})


def test_what_is_not_a_config_dict_is_refused():
  with pytest.raises(TypeError, match="get_config"):
    config_lib.from_config_dict(None)


def test_integer_counts_as_float_and_list_as_tuple():
  config = config_lib.from_config_dict(
    {
      "train": {"learning_rate": 1},
      "model": {"hidden_sizes": [3, 4]},
    }
  )
  assert type(config.train.learning_rate) is float
  assert config.model.hidden_sizes == (3, 4)


def test_misspelt_field_names_the_nearest():
  given = config_dict.ConfigDict({"train": {"lerning_rate": 1.0}})
  with pytest.raises(
    ValueError, match=r"train.lerning_rate; did you mean config.train.learning"
  ):
    config_lib.from_config_dict(given)


@pytest.mark.parametrize(
  ("argument", "message"),
  [
    ("--config.train.lerning_rate=1", "did you mean config.train.learning_ra"),
    ("--config.trian.learning_rate=1", "did you mean config.train?"),
    ("--noconfig.objective.randomstart", "config.objective.random_start?"),
    ("--config.objective=pgd", "Expected a field of config.objective"),
    ("--config.seed.x=1", "Unknown field config.seed.x"),
    ("--config.zzz=1", "config has data, model"),
  ],
)
def test_misspelt_override_names_the_nearest(argument, message):
  with pytest.raises(ValueError) as error:  # noqa: PT011
    config_lib.check_overrides(["train.py", argument])
  assert message in str(error.value)


def test_good_overrides_and_other_flags_pass():
  config_lib.check_overrides(
    [
      "train.py",
      "--config=configs/digits.py",
      "--config.train.learning_rate=1",
      "--config.seed",
      "3",
      "--workdir=config.x",
    ]
  )


def test_difference_lists_changed_fields_in_order():
  old = config_lib.Config()
  new = dataclasses.replace(
    old,
    seed=3,
    train=dataclasses.replace(old.train, learning_rate=0.5),
  )
  assert config_lib.difference(old, new) == [
    "train.learning_rate: 0.001, now 0.5",
    "seed: 0, now 3",
  ]


def test_location_of_the_data_is_no_difference():
  old = config_lib.Config()
  moved = dataclasses.replace(
    old, data=config_lib.DataConfig(data_dir="a", cache_dir="b")
  )
  assert config_lib.difference(old, moved) == []
  assert len(config_lib.difference(old, moved, ignore=())) == 2


@pytest.mark.parametrize(
  ("field", "choices"),
  [
    ("name", models.NAMES),
    ("activation", models.ACTIVATIONS),
    ("variant", models.VARIANTS),
    ("dtype", models.DTYPES),
  ],
)
def test_choices_of_a_model_field_are_those_of_models(field, choices):
  network = {"variant": "vgg13"}.get(field, "cnn")
  for choice in choices:
    config_lib.from_config_dict({"model": {"name": network, field: choice}})
  with pytest.raises(ValueError) as error:  # noqa: PT011
    config_lib.from_config_dict({"model": {field: ""}})
  assert ", ".join(map(repr, choices)) in str(error.value)
