"""The report's entry on robustness: bounds that never rise."""

import functools
import json
import math

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import oracles
import pytest
import tiny_problem as tiny

from robust_info import attacks
from robust_info.evaluation import cache as measurement_cache
from robust_info.evaluation import evaluator as evaluator_lib
from robust_info.evaluation import metrics, worst_case
from robust_info.evaluation.metrics import attack_runs, robustness
from robust_info.evaluation.metrics import attacked as attacked_lib

pytestmark = pytest.mark.filterwarnings(
  "ignore::robust_info.attacks.AttackWarning"
)
VARIABLES = tiny.mlp()
SETTINGS = tiny.make_settings(
  attack="autoattack", num_steps=2, sanity_examples=32, epsilon_grid=()
)
STRENGTHS = ["none", "PGD-1", "PGD-2", "APGD-CE", "AutoAttack standard"]


class KilledError(Exception):
  pass


@pytest.fixture(scope="module", autouse=True)
def short_runs():
  """A small ensemble, and cheap sanity checks."""

  def sanity(evaluator, variables, *, epsilon, evaluated, progress):
    progress(1.0)
    assert epsilon == SETTINGS.epsilon
    assert evaluated.attacks[-1] == "square"
    checks = [
      attacks.Check("good", True, 0.0, 0.1, "fine"),
      attacks.Check("bad", False, 0.3, 0.1, "masked"),
    ]
    return attacks.SanityReport(tuple(checks), {"clean": 0.9})

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(
      attacks,
      "auto_attack",
      functools.partial(attacks.auto_attack, num_queries=60),
    )
    patch.setitem(attacks.VERSIONS, "standard", ("apgd-ce", "square"))
    patch.setattr(worst_case, "sanity", sanity)
    yield


@pytest.fixture(scope="module")
def evaluator():
  return evaluator_lib.Evaluator(
    tiny.apply_mlp,
    tiny.make_split(),
    num_classes=tiny.NUM_CLASSES,
    settings=SETTINGS,
    seed=0,
  )


def measure(evaluator, folder, watch=lambda *args, **kwargs: None):
  cache = measurement_cache.MeasurementCache(folder, "f")
  return robustness.measure(
    metrics.Subject(
      evaluator,
      VARIABLES,
      SETTINGS,
      cache,
      lambda label: lambda *args, **kw: watch(label, *args, **kw),
    )
  )


@pytest.fixture(scope="module")
def killed(evaluator, tmp_path_factory):
  """The entry, interrupted in Square and started again, and its progress."""
  folder, seen = tmp_path_factory.mktemp("killed"), []

  def watch(label, done, total, *, resumed=0, note="", under_way=0.0):
    seen.append((label, done, total, resumed, note))
    if label.endswith("square"):
      raise KilledError

  with pytest.raises(KilledError):
    measure(evaluator, folder, watch)
  assert list(folder.rglob("part-*.npz"))
  again = []

  def go_on(label, done, total, **kwargs):
    again.append((label, done, total))

  return measure(evaluator, folder, go_on), folder, seen, again


@pytest.fixture(scope="module")
def entry(killed):
  return killed[0]


def test_a_stopped_ensemble_goes_on_where_it_was(killed):
  _, folder, seen, again = killed
  notes = [note for label, *_, note in seen if "apgd-ce" in label]
  assert notes[-1].startswith("robust accuracy so far ")
  # Finished parts are not run again, and no progress is left on disk.
  labels = list(dict.fromkeys(label for label, *_ in again))
  assert not any("apgd" in label for label in labels)
  assert labels[0].endswith("square")
  assert not list(folder.rglob("*.state"))


def test_what_happens_is_what_the_time_left_is_estimated_from(killed):
  *_, seen, again = killed
  most = {}
  for label, _, total, *_ in (*seen, *again):
    most[label] = max(total, most.get(label, 0))
  planned = robustness.work(SETTINGS, len(tiny.make_split()), tiny.NUM_CLASSES)
  for work, (label, total) in zip(planned, most.items(), strict=True):
    assert work.label == label
    assert total <= work.count if work.of_survivors else total == work.count


def test_finished_attacks_are_not_made_again(evaluator, killed):
  entry, folder, *_ = killed

  def watch(label, *args, **kwargs):
    raise AssertionError(label)

  assert json.dumps(measure(evaluator, folder, watch)) == json.dumps(entry)


def test_the_ensemble_leaves_no_more_than_any_of_its_attacks(entry):
  found = entry["robustness"]
  assert (found["attack"], found["norm"], found["epsilon"]) == (
    "AutoAttack standard",
    "linf",
    0.05,
  )
  steps = found["steps"]
  assert [step["attack"] for step in steps] == [
    "PGD-2",
    "apgd-ce",
    "square",
  ]
  accuracy = [step["accuracy"] for step in steps]
  assert accuracy[1:] == sorted(accuracy[1:], reverse=True)
  assert found["accuracy"] <= min(accuracy)
  assert accuracy[0] == entry["robust_accuracy"][-1]["accuracy"]
  assert found["accuracy"] < entry["robust_accuracy"][0]["accuracy"]


def test_the_checks_are_stored_with_their_numbers(entry):
  assert isinstance(entry["robustness"]["warnings"], list)
  assert entry["robustness"]["sanity"] == {
    "num_examples": 32,
    "trustworthy": False,
    "verdict": "not trustworthy: bad",
    "accuracies": {"clean": 0.9},
    "checks": [
      {"name": "good", "passed": True, "value": 0.0, "limit": 0.1,
       "meaning": "fine"},
      {"name": "bad", "passed": False, "value": 0.3, "limit": 0.1,
       "meaning": "masked"},
    ],
  }  # fmt: skip


def test_strengths_are_named_and_bounds_never_rise(entry):
  curve = entry["strength_curve"]
  assert [point["attack"] for point in curve] == STRENGTHS
  for name in ("accuracy", "label_information", "cckl"):
    robust = [point[name]["robust"] for point in curve]
    assert robust == sorted(robust, reverse=True)
    assert robust[-1] < robust[0]
    assert curve[0][name]["non_robust"] == pytest.approx(0, abs=1e-6)
    for point in curve:
      assert point[name]["standard_errors"]["robust"] >= 0
      assert point[name]["total"] == pytest.approx(robust[0], rel=1e-6)


def test_lenses_of_an_ensemble_are_at_its_worst_points(entry):
  lenses = entry["epsilon_lens_by_attack"]
  assert [lens["attack"] for lens in lenses] == [
    "AutoAttack standard",
    "AutoAttack standard, largest KL",
  ]
  assert entry["epsilon_lens"] == lenses[0]
  last = entry["strength_curve"][-1]
  assert lenses[0]["accuracy"]["robust"] == last["accuracy"]["robust"]
  for lens in lenses:
    for name in ("label_information", "cckl"):
      assert last[name]["robust"] <= lens[name]["robust"]


def test_bounds_are_those_of_logits_at_points_of_the_ball(evaluator, entry):
  """The lens after PGD alone, from the logits of its two attacks."""
  clean = evaluator.logits(VARIABLES)
  found = [
    [
      attacked_lib.logits(
        evaluator, VARIABLES, epsilon=0.05, attack=kind, num_steps=steps
      )
      for kind in attacked_lib.ATTACKS
    ]
    for steps in (1, 2)
  ]
  groups = [("PGD-1", found[0]), ("PGD-2", found[1])]
  chosen = list(worst_case.accumulate(clean, evaluator.labels, groups))
  labels = tiny.make_split().labels
  for name, of in (
    ("cckl", oracles.cckl),
    ("label_information", oracles.label_information),
  ):
    bounds = [of(clean, labels)]
    bounds += [of(z, labels) for s in chosen for z in s.choice]
    assert entry["strength_curve"][2][name]["robust"] == pytest.approx(
      float(min(bounds)), rel=1e-4
    )


@hypothesis.given(
  values=hnp.arrays(
    float, (4, 2, 2), elements=st.floats(0, 3) | st.just(math.nan)
  )
)
def test_a_strength_curve_is_the_least_so_far_of_both_rules(values):
  strengths = [
    {
      "attack": str(i),
      **{
        rule: {
          "accuracy": {"robust": 0.5},
          "label_information": {"robust": rows[r, 0]},
          "cckl": {"robust": rows[r, 1]},
        }
        for r, rule in enumerate(("label", "divergence"))
      },
    }
    for i, rows in enumerate(values)
  ]
  curve = robustness.strength_curve(strengths)
  for column, name in enumerate(("label_information", "cckl")):
    flat = values[:, :, column]
    # A bound that starts as NaN stays NaN.
    expected = [
      flat[0, 0] if math.isnan(flat[0, 0]) else np.nanmin(flat[: i + 1])
      for i in range(4)
    ]
    found = [point[name]["robust"] for point in curve]
    np.testing.assert_array_equal(found, expected)
    for point in curve:
      place = point[name]["found"]
      row = strengths[int(place["attack"])][place["chosen_by"]]
      np.testing.assert_array_equal(row[name]["robust"], point[name]["robust"])


@pytest.mark.parametrize(
  ("changes", "expected"),
  [
    ({}, "PGD-4"),
    ({"attack": "apgd"}, "APGD-CE+T"),
    ({"attack": "autoattack"}, "AutoAttack standard"),
    (
      {"attack": "autoattack", "autoattack_version": "plus"},
      "AutoAttack plus",
    ),
  ],
)
def test_an_ensemble_is_named_with_its_version(changes, expected):
  settings = tiny.make_settings(**changes)
  assert attack_runs.ensemble_name(settings) == expected


@pytest.mark.parametrize(
  ("attack", "steps", "restarts", "expected"),
  [("pgd", 20, 1, "PGD-20"), ("kl_pgd", 5, 3, "KL-PGD-5x3")],
)
def test_an_attack_is_named_with_its_strength(
  attack, steps, restarts, expected
):
  settings = tiny.make_settings(num_steps=steps, restarts=restarts)
  assert attacked_lib.attack_name(attack, settings) == expected
