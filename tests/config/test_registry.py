"""Parts of one's own as fields of a configuration."""

import functools
import pathlib
from typing import Literal

import pytest

from robust_info import config, models, objectives
from robust_info.config import file as file_lib
from robust_info.config import registry

PARTS = pathlib.Path(__file__).parents[1] / "support" / "own_parts.py"


@pytest.fixture
def parts():
  """The parts of the file, registered for one test."""
  with registry.using(()):
    asked = file_lib.get_config(str(PARTS))
    yield asked


@pytest.fixture
def nothing():
  with registry.using(()):
    yield


def test_settings_are_fields(parts):
  asked = config.from_config_dict(parts)
  assert asked.model.dense.width == 6
  assert asked.model.dense.activation == "tanh"
  assert asked.objective.brier.power == 2.0
  # What no configuration can hold keeps its default.
  assert not hasattr(asked.model.dense, "kernel_init")
  assert config.flatten(asked)["data.darker.share"] == 0.1
  assert {(part.kind, part.name) for part in config.parts(asked)} == {
    ("model", "dense"), ("objective", "brier"), ("augmentation", "darker"),
    ("optimizer", "lion"), ("attack", "shift"),
  }  # fmt: skip
  assert config.from_json(config.to_json(asked)) == asked
  built = objectives.create(asked.objective)
  assert built.keywords == {"label_smoothing": 0.0, "power": 2.0}


@pytest.mark.parametrize(
  ("section", "field", "value", "message"),
  [
    ("model", "dense.width", 1.5, "config.model.dense.width to be of type int"),
    ("model", "dense.widht", 3, "did you mean config.model.dense.width?"),
    ("model", "width", 2, "no config.model.width with config.model.name = 'd"),
    ("model", "name", "denser", "to be one of 'logistic', .*'dense', got 'de"),
    ("objective", "name", "pgd", "no config.objective.brier.power"),
    ("objective", "fisher_probes", 2, "no config.objective.fisher_probes"),
    ("train", "nesterov", True, "no config.train.nesterov"),
  ],
)
def test_settings_are_checked_as_other_fields(
  parts, section, field, value, message
):
  parts.objective.brier.power = 3.0
  parts.train.weight_decay = 0.1
  parts.objective.label_smoothing = 0.1
  asked = parts.to_dict()
  config.from_config_dict(asked)
  *inner, last = field.split(".")
  holder = functools.reduce(dict.__getitem__, inner, asked[section])
  holder[last] = value
  with pytest.raises((ValueError, TypeError), match=message):
    config.from_config_dict(asked)


def test_parts_that_are_not_chosen_are_not_stored(parts):
  parts.model.name = "mlp"
  parts.model.dense.width = 4
  asked = config.from_config_dict(parts)
  text = config.to_json(asked)
  assert '"dense"' not in text
  with registry.using(tuple(p for p in registry.active() if p.name != "dense")):
    assert config.from_json(text).model.name == "mlp"
  with registry.using(()), pytest.raises(registry.UnknownPartError) as error:
    config.from_json(text)
  assert "config.objective.name" in str(error.value)
  assert "'brier'" in str(error.value)


def takes_too_little(network, batch, key):
  """No progress."""


def takes_too_much(network, batch, key, *, progress, temperature):
  """A field that does not exist."""


def of_a_choice(*, num_classes, kind: Literal["a", "b"] = "c"):
  """A default that is no choice."""


@pytest.mark.usefixtures("nothing")
@pytest.mark.parametrize(
  ("register", "name", "build", "message"),
  [
    (models, "cnn", takes_too_little, "a new name for the model, got 'cnn'"),
    (models, "width", takes_too_little, "a new name for the model, got 'width"),
    (models, "my-net", takes_too_little, "to be an identifier, got 'my-net'"),
    (models, "while", takes_too_little, "a new name"),
    (models, "mine", 3, "the model 'mine' to be a function, got int"),
    (models, "mine", of_a_choice, "kind to be one of 'a', 'b', got 'c'"),
    (
      objectives,
      "mine",
      takes_too_little,
      r"to take \(network, batch, key, progress=\), got \(network, batch, key",
    ),
    (
      objectives,
      "mine",
      takes_too_much,
      "argument temperature .*to have a def",
    ),
  ],
)
def test_a_part_that_cannot_be_used_is_refused(register, name, build, message):
  with pytest.raises((ValueError, TypeError), match=message):
    register.register(name)(build)
  assert not registry.active()


@pytest.mark.usefixtures("nothing")
def test_one_file_is_run_once_and_files_do_not_mix(tmp_path):
  text = PARTS.read_text()
  paths = [tmp_path / name for name in ("a.py", "b.py", "c.py")]
  for path, content in zip(
    paths, (text, text, text.replace("width: int = 4", "width: int = 5")),
    strict=True,
  ):  # fmt: skip
    path.write_text(content)
  first, second, other = (
    file_lib.parts_of(file_lib.read(path)) for path in paths
  )
  assert first == second
  assert (first[0].settings().width, other[0].settings().width) == (4, 5)
  assert not registry.active()


TWO_OF_ONE_NAME = """
from robust_info import config, models, objectives
from robust_info.evaluation import own_attack


@models.register("mine")
def model(*, num_classes, width: int = 3):
  return None


@objectives.register("mine")
def objective(network, batch, key, *, progress, power: float = 2.0):
  return None


@own_attack.register("mine")
def attack(logits_fn, x, label, key, *, epsilon, tries: int = 5):
  return x


def get_config():
  asked = config.defaults()
  asked.model.name = asked.objective.name = asked.evaluation.attack = "mine"
  return asked
"""


@pytest.mark.usefixtures("nothing")
def test_parts_of_several_kinds_may_have_one_name(tmp_path):
  path = tmp_path / "parts.py"
  path.write_text(TWO_OF_ONE_NAME)
  asked = config.from_config_dict(file_lib.get_config(str(path)))
  assert asked.model.mine.width == 3
  assert asked.objective.mine.power == 2.0
  assert asked.evaluation.mine.tries == 5
  # Fields are replaced by those of the attack, not of its namesakes.
  new = config.replace_evaluation(asked.evaluation, mine={"tries": 7})
  assert new.mine.tries == 7
  assert config.from_json(config.to_json(asked)) == asked
