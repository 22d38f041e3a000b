"""The plan of a study: its cases, recipes, seeds and questions."""

import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from ml_collections import config_dict

from robust_info import config as config_lib
from robust_info import data
from robust_info.config import file as file_lib
from robust_info.config import registry
from robust_info.runtime import streams
from robust_info.study import answers, records

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.=+-]*", re.ASCII)
# Fields that the configuration did not have when the first records were made.
# These records count as long as the fields have their defaults.
_NEWER_FIELDS = ("data.label_column",)


class Question(Protocol):
  """A question of a study: a frozen dataclass that holds its thresholds.

  Attributes:
    name: name of its figure and table.
    title: the question in one sentence.
  """

  name: str
  title: str

  def answer(self, found: records.Records) -> answers.Answer:
    """The answer, from the runs that exist."""

  def draw(self, found: records.Records, path: pathlib.Path) -> None:
    """Draws the figure; `path` has no suffix."""


@dataclasses.dataclass(frozen=True)
class Recipe:
  """A way to train.

  Attributes:
    name: name of the recipe, part of the path of its runs.
    changes: dotted fields of the configuration -> values that define it.
  """

  name: str
  changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
  """Runs on one data set, under one threat.

  Attributes:
    name: name of the case, part of the path of its runs.
    base: function that returns the configuration to start from.
    recipes: recipes, each trained with every seed.
    seeds: seeds of training. Data, attacks and pairs of the measurements are
      the same for all.
    changes: dotted fields that differ from `base` in all runs. Settings that an
      objective does not read are left out of its runs.
    num_examples: number of examples, from the start of the test split, on which
      the runs are measured; None means all.
    autoattack: names of recipes whose runs of the first seed are measured with
      the whole of AutoAttack, instead of the attack of `changes`.
  """

  name: str
  base: Callable[[], config_dict.ConfigDict]
  recipes: tuple[Recipe, ...]
  seeds: tuple[int, ...]
  changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  num_examples: int | None = None
  autoattack: tuple[str, ...] = ()

  def recipe(self, name: str) -> Recipe:
    """The recipe of this name; ValueError if there is none."""
    for recipe in self.recipes:
      if recipe.name == name:
        return recipe
    raise ValueError(
      f"Expected a recipe of case {self.name!r}, got {name!r}; it has "
      f"{', '.join(recipe.name for recipe in self.recipes)}."
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study:
  """A study.

  Attributes:
    title: title of the results.
    cases: groups of runs, in the order in which they are made.
    questions: questions, in the order of the results.
  """

  title: str
  cases: tuple[Case, ...]
  questions: tuple[Question, ...] = ()

  def __post_init__(self) -> None:
    """Checks names and seeds."""
    _check_names("case", [case.name for case in self.cases])
    _check_names("question", [question.name for question in self.questions])
    for case in self.cases:
      _check_names("recipe", [recipe.name for recipe in case.recipes])
      if not case.seeds or len({*case.seeds}) < len(case.seeds):
        raise ValueError(
          f"Expected different seeds in case {case.name!r}, got {case.seeds}."
        )
      for name in case.autoattack:
        case.recipe(name)

  def case(self, name: str) -> Case:
    """The case of this name; ValueError if there is none."""
    for case in self.cases:
      if case.name == name:
        return case
    raise ValueError(
      f"Expected one of the cases {', '.join(c.name for c in self.cases)}, got "
      f"{name!r}."
    )


class Job(NamedTuple):
  """One run: its training and its measurements."""

  case: str
  recipe: str
  seed: int

  @property
  def path(self) -> pathlib.PurePath:
    """Place of the run below that of a study."""
    return pathlib.PurePath(self.case, self.recipe, f"seed-{self.seed}")

  def __str__(self) -> str:
    return f"{self.case}, {self.recipe}, seed {self.seed}"


def load(path: str | os.PathLike[str]) -> Study:
  """The study that `get_study()` of a Python file returns.

  Parts that the file registers stay registered, see `config.registry`; each run
  stores the file, as it stores a configuration file.

  Raises:
    config.file.FileError: the file cannot be read or run.
    ValueError: it has no such function, or the function returns no study.
  """
  file = file_lib.read(path)
  with registry.running(file):
    module = file_lib.run(file, f"study_{file.digest[:16]}")
    if not callable(getattr(module, "get_study", None)):
      raise ValueError(f"Expected a function get_study in {path}, got none.")
    try:
      study = module.get_study()
    # It is a program of the user, which may raise anything.
    except (Exception, SystemExit) as error:
      raise file_lib.FileError(file_lib.place_of(error, str(path))) from error
  if not isinstance(study, Study):
    raise ValueError(
      f"Expected get_study() of {path} to return a study.Study, got "
      f"{type(study).__name__}."
    )
  return study


def jobs(study: Study, cases: Sequence[str] = ()) -> Iterator[Job]:
  """All runs, or those of some cases: all recipes of a seed, seed by seed.

  A study that is stopped therefore has whole seeds.
  """
  for case in study.cases:
    if cases and case.name not in cases:
      continue
    for seed in case.seeds:
      for recipe in case.recipes:
        yield Job(case.name, recipe.name, seed)


def configuration(case: Case, recipe: str, seed: int) -> config_lib.Config:
  """The checked configuration of a run, before `training.setup.resolve`.

  Raises:
    ValueError: a field does not exist, has a bad value or no effect.
  """
  config = case.base()
  config.seed = seed
  own = case.recipe(recipe).changes
  shared = {k: v for k, v in case.changes.items() if k not in own}
  objective = own.get("objective.name", config.objective.name)
  read = config_lib.ARGUMENTS.get(objective, {})
  unread = {
    f"objective.{field}"
    for arguments in config_lib.ARGUMENTS.values()
    for field in {*arguments.values()} - {*read.values()}
  }
  shared = {k: v for k, v in shared.items() if k not in unread}
  try:
    config.update_from_flattened_dict({**shared, **own})
    if recipe in case.autoattack and seed == case.seeds[0]:
      config.evaluation.attack = "autoattack"
    return config_lib.from_config_dict(config)
  except (AttributeError, KeyError, TypeError, ValueError) as error:
    raise ValueError(
      f"In recipe {recipe!r} of case {case.name!r}: "
      f"{str(error).splitlines()[0]}"
    ) from error


def record_path(output: pathlib.Path, job: Job) -> pathlib.Path:
  """The file of the record of a run."""
  return output / "records" / f"{job.path}.json"


def record_of(
  study: Study, output: pathlib.Path, job: Job
) -> records.Record | None:
  """The record of a run in its own file; None if it is of another plan."""
  found = records.read(record_path(output, job))
  return found if found and is_of(study, job, found) else None


def is_of(study: Study, job: Job, record: records.Record) -> bool:
  """Whether a record is of this run: its configuration, and data of one's own.

  Data of one's own that cannot be read here count as those of the record, and a
  line on stderr says so.
  """
  case = study.case(job.case)
  config = configuration(case, job.recipe, job.seed)
  if record.digest != digest(case, config):
    return False
  version = _own_version(config.data)
  return version is None or version == record.about.get("data_version")


def digest(case: Case, config: config_lib.Config) -> str:
  """Identifier of everything that a record depends on.

  Code excepted, and the content of data of one's own, see `is_of`.
  """
  content = config_lib.flatten(config)
  for field in (*config_lib.LOCATION_FIELDS, "train.log_every"):
    content.pop(field, None)
  default = config_lib.flatten(config_lib.Config())
  for field in _NEWER_FIELDS:
    if content[field] == default[field]:
      del content[field]
  text = json.dumps([content, case.num_examples], sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:16]


@functools.cache
def _own_version(config: config_lib.DataConfig) -> str | None:
  """The version of data of one's own, None if they cannot be read here."""
  if config.name not in config_lib.OWN or config.version is not None:
    return config.version
  try:
    return data.from_config(config, progress=False).version
  except (ValueError, OSError, data.UnavailableError) as error:
    line = " ".join(str(error).split())
    streams.note(
      f"Records are taken without a comparison of their data: {line}"
    )
    return None


def is_name(*names: str) -> bool:
  """Whether these may be names of cases, recipes and questions."""
  return all(map(_NAME.fullmatch, names))


def _check_names(kind: str, names: Sequence[str]) -> None:
  for name in names:
    if not is_name(name):
      raise ValueError(
        f"Expected the name of a {kind} to hold letters, digits and _.=+-, got "
        f"{name!r}."
      )
    if names.count(name) > 1:
      raise ValueError(f"Expected each {kind} once, got {name!r} twice.")
