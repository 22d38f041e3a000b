"""Plans of studies, and their files."""

import numpy as np
import pytest

from configs import digits
from robust_info import study
from robust_info.study import plan, records, render

BASE = {"name": "digits", "base": digits.get_config, "seeds": (0, 1)}


def case(*recipes, **changes):
  return study.Case(**{**BASE, "recipes": recipes, **changes})


@pytest.mark.parametrize(
  "name", ["paper", "objectives", "lenses", "cifar10", "cifar10_jpeg"]
)
def test_every_study_is_valid(name):
  found = plan.load(f"configs/study/{name}.py")
  every = [*plan.jobs(found)]
  assert len(every) == sum(len(c.recipes) * len(c.seeds) for c in found.cases)
  # All recipes of a seed, seed by seed.
  first, last = found.cases[0], found.cases[-1]
  size = len(first.recipes)
  assert [job.seed for job in every[:size]] == [first.seeds[0]] * size
  assert {job.case for job in plan.jobs(found, [last.name])} == {last.name}
  digests = {
    plan.digest(
      found.case(job.case),
      plan.configuration(found.case(job.case), job.recipe, job.seed),
    )
    for job in every
  }
  assert len(digests) == len(every)


def test_settings_that_a_recipe_does_not_read_are_left_out():
  found = case(
    study.Recipe("standard"),
    study.Recipe("pgd", {"objective.name": "pgd"}),
    study.Recipe("long", {"objective.name": "pgd", "objective.num_steps": 9}),
    changes={"objective.num_steps": 3, "train.num_epochs": 2},
    autoattack=("pgd",),
  )
  configs = [
    plan.configuration(found, name, 1) for name in ("standard", "pgd", "long")
  ]
  assert [c.objective.num_steps for c in configs] == [10, 3, 9]
  assert {c.train.num_epochs for c in configs} == {2}
  assert {c.seed for c in configs} == {1}
  # AutoAttack is for the first seed.
  assert configs[1].evaluation.attack == "pgd"
  first = plan.configuration(found, "pgd", 0)
  assert first.evaluation.attack == "autoattack"


def test_a_record_belongs_to_everything_that_shapes_it():
  def digest(found, recipe="a"):
    return plan.digest(found, plan.configuration(found, recipe, 0))

  first = digest(case(study.Recipe("a")))
  assert digest(case(study.Recipe("a", {"train.log_every": 3}))) == first
  assert digest(case(study.Recipe("a", {"train.batch_size": 3}))) != first
  assert digest(case(study.Recipe("a"), num_examples=3)) != first
  own = {"data.name": "parquet", "data.path": "p"}
  fine = own | {"data.label_column": "fine_label"}
  assert digest(case(study.Recipe("a"), changes=fine)) != digest(
    case(study.Recipe("a"), changes=own)
  )


def test_a_record_belongs_to_the_data_of_its_run(tmp_path, capsys):
  """Also where other data lie at the same place."""

  def write(shift):
    plan._own_version.cache_clear()  # As in another process.
    images = np.arange(shift, 160 + shift, dtype="u1").reshape(40, 2, 2)
    np.savez(tmp_path / "own.npz", x=images, y=np.arange(40) % 2)

  own = {"data.name": "arrays", "data.path": str(tmp_path / "own.npz")}
  own["data.cache_dir"] = str(tmp_path / "cache")
  planned = study.Study(
    title="", cases=(case(study.Recipe("a", own), seeds=(0,)),)
  )
  [job] = plan.jobs(planned)
  write(0)
  config = plan.configuration(planned.cases[0], "a", 0)
  version = plan._own_version(config.data)
  record = records.Record(
    *job, plan.digest(planned.cases[0], config), {}, {}, [], {
      "data_version": version
    }
  )  # fmt: skip
  records.write(record, tmp_path / "records" / f"{job.path}.json")
  assert plan.record_of(planned, tmp_path, job) == record
  assert len(render.collect(planned, tmp_path)) == 1
  write(1)
  assert plan.record_of(planned, tmp_path, job) is None
  assert len(render.collect(planned, tmp_path)) == 0
  assert not capsys.readouterr().err
  # Data that are not here cannot be compared, which is said.
  (tmp_path / "own.npz").unlink()
  plan._own_version.cache_clear()
  assert plan.record_of(planned, tmp_path, job) == record
  assert plan.record_of(planned, tmp_path, job) == record
  [line] = capsys.readouterr().err.splitlines()
  assert "without a comparison of their data" in line
  assert "own.npz" in line


@pytest.mark.parametrize(
  ("make", "message"),
  [
    (lambda: study.Study(title="", cases=(case(), case())), "'digits' twice"),
    (lambda: study.Study(title="", cases=(case(name="a/b"),)), "got 'a/b'"),
    (
      lambda: study.Study(title="", cases=(case(seeds=(1, 1)),)),
      "different seeds in case 'digits'",
    ),
    (
      lambda: study.Study(title="", cases=(case(autoattack=("pgd",)),)),
      "a recipe of case 'digits', got 'pgd'",
    ),
    (
      lambda: plan.configuration(
        case(study.Recipe("a", {"train.num_epoch": 3})), "a", 0
      ),
      "In recipe 'a' of case 'digits'",
    ),
  ],
)
def test_bad_plans_are_named(make, message):
  with pytest.raises(ValueError, match=message):
    make()


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("x = 3", "Expected a function get_study in"),
    ("def get_study():\n  return 3", "to return a study.Study, got int"),
    ("def get_study():\n  return missing", "line 2: NameError: name 'missing'"),
  ],
)
def test_bad_study_files_are_one_line(tmp_path, text, message):
  path = tmp_path / "a.py"
  path.write_text(text)
  with pytest.raises(Exception, match=message) as error:
    plan.load(path)
  assert "\n" not in str(error.value)
