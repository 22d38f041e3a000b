"""The table over objectives: seeds that count, averages, and skipped runs."""

import copy
import math

import pytest

from benchmarks import objectives
from robust_info import config, report


def make_report(value, *, seed=0):
  """A report in which every number that the table reads is `value`."""
  part = {"robust": value, "non_robust_share": value}
  return {
    "schema": report.SCHEMA,
    "data": {"num_examples": 7},
    "settings": {"epsilon": 0.15, "seed": seed},
    "runs": [
      {
        "name": "run",
        "performance": {"accuracy": value},
        "information": {"cckl": value, "label_information": value},
        "fisher": {
          norm: {"mean": value, "median": value}
          for norm in ("trace", "frobenius", "spectral_norm")
        },
        "local_lens": {"non_robust_share": value},
        "path_lens": {"non_robust_share": value},
        "strength_curve": [{"cckl": part, "label_information": part}],
        "robustness": {
          "attack": "APGD-CE+T",
          "norm": "linf",
          "epsilon": 0.15,
          "accuracy": value,
          "steps": [{"accuracy": value}],
          "sanity": {"trustworthy": True, "verdict": "trustworthy"},
        },
      }
    ],
  }


def store(folder, seed, recipe, found):
  path = objectives.report_path(folder, "digits", seed, recipe)
  path.parent.mkdir(parents=True, exist_ok=True)
  report.save(found, path)


def store_seed(folder, seed, value):
  for recipe in objectives.CASES["digits"].recipes:
    store(folder, seed, recipe, make_report(value))


def cells(table, recipe):
  line = next(k for k in table.splitlines() if k.startswith(f"| `{recipe}` |"))
  return [cell.strip() for cell in line.split("|")[2:-1]]


def test_cells_are_mean_and_deviation_over_seeds(tmp_path):
  for seed, value in enumerate((0.5, 0.7, 0.9)):
    store_seed(tmp_path, seed, value)
  found = cells(objectives.table(tmp_path), "trades")
  assert found[0] == found[1] == "70 ± 20"  # In percent.
  assert found[2] == "0.70 ± 0.20"  # In nats.
  assert "### digits: 3 seeds," in objectives.table(tmp_path)


def test_one_seed_has_no_spread_and_what_is_no_number_shows():
  assert objectives.spread([0.25]) == "0.25"
  assert objectives.spread([0.25, 0.25]) == "0.25 ± 0"
  assert objectives.spread([0.25, math.nan]) == "n/a"


def test_a_seed_without_all_reports_does_not_count(tmp_path):
  store_seed(tmp_path, 0, 0.5)
  store(tmp_path, 1, "standard", make_report(0.9))
  found = objectives.table(tmp_path)
  assert "### digits: 1 seed," in found
  assert cells(found, "standard")[2] == "0.5"


def test_without_a_complete_seed_one_line_says_so(tmp_path):
  store(tmp_path, 0, "standard", make_report(0.9))
  with pytest.raises(ValueError, match="a report of every recipe"):
    objectives.table(tmp_path)


def test_reports_measured_differently_are_not_averaged(tmp_path):
  store_seed(tmp_path, 0, 0.5)
  store(tmp_path, 0, "mart", make_report(0.5, seed=1))
  with pytest.raises(ValueError, match=r"mart/report/report\.json, got"):
    objectives.table(tmp_path)


def test_a_run_that_cannot_be_trusted_is_named(tmp_path):
  store_seed(tmp_path, 0, 0.5)
  doubtful = copy.deepcopy(make_report(0.5))
  doubtful["runs"][0]["robustness"]["sanity"] = {
    "trustworthy": False,
    "verdict": "not trustworthy: enough steps",
  }
  store(tmp_path, 0, "kl", doubtful)
  assert "kl: not trustworthy: enough steps" in objectives.table(tmp_path)


def test_only_what_has_no_report_is_made_a_seed_after_the_other(
  tmp_path, monkeypatch
):
  store_seed(tmp_path, 0, 0.5)
  objectives.report_path(tmp_path, "digits", 0, "mart").unlink()
  store(tmp_path, 1, "standard", make_report(0.5))
  made = []

  def make(asked, source, path, *, num_examples):
    assert source.name == "digits"
    recipe = path.parents[1].name
    made.append((asked.seed, recipe))
    store(tmp_path, asked.seed, recipe, make_report(0.5))

  monkeypatch.setattr(objectives, "train_and_report", make)
  objectives.run(tmp_path, "digits", seeds=2)
  assert made[0] == (0, "mart")
  assert (
    made[1:] == [(1, name) for name in objectives.CASES["digits"].recipes][1:]
  )
  made.clear()
  objectives.run(tmp_path, "digits", seeds=2)
  assert not made


@pytest.mark.parametrize("name", objectives.CASES)
def test_every_recipe_is_a_configuration_with_one_ball(name):
  case = objectives.CASES[name]
  for recipe in case.recipes:
    made = objectives.configuration(case, recipe, seed=3)
    assert made.seed == 3
    assert made.objective.epsilon == made.evaluation.epsilon
    assert made.evaluation.attack != "pgd"


@pytest.mark.parametrize("name", ["digits", "mnist"])
def test_every_objective_has_a_recipe(name):
  case = objectives.CASES[name]
  assert {fields["objective.name"] for fields in case.recipes.values()} == set(
    config.OBJECTIVES
  )
