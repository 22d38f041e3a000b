"""The report's entry on one network, against NumPy and closed forms."""

import json
import math

import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import tiny_problem as tiny

from robust_info import evaluation
from robust_info.evaluation import cache as measurement_cache
from robust_info.evaluation import metrics, sample_statistics
from robust_info.evaluation.metrics import fisher as fisher_metric
from robust_info.evaluation.metrics import lenses as lenses_metric

VARIABLES = tiny.mlp()
SETTINGS = tiny.make_settings(sanity_examples=32)


class Unmeasurable:
  """Predicts like an evaluator, and fails when anything else is measured."""

  def __init__(self, evaluator):
    self.predict = evaluator.predict
    self.pair_indices = evaluator.pair_indices
    self.coarse_pair_indices = evaluator.coarse_pair_indices
    self.labels = evaluator.labels


def make_ticks(seen):
  def ticks(label):
    return lambda done, total, **_: seen.append((label, done, total))

  return ticks


@pytest.fixture(scope="module")
def evaluator():
  return evaluation.Evaluator(
    tiny.apply_mlp,
    tiny.make_split(),
    num_classes=tiny.NUM_CLASSES,
    settings=SETTINGS,
    seed=0,
  )


@pytest.fixture(scope="module")
def measured(evaluator, tmp_path_factory):
  """The entry, its cache, and the labels of the progress reports."""
  cache = measurement_cache.MeasurementCache(tmp_path_factory.mktemp("m"), "f")
  seen = []
  entry = metrics.measure(
    metrics.Subject(evaluator, VARIABLES, SETTINGS, cache, make_ticks(seen))
  )
  return entry, cache, seen


@pytest.fixture(scope="module")
def entry(measured):
  return measured[0]


# Sums over predictions are made again, on GPUs in any order.
@pytest.mark.usefixtures("on_cpu")
def test_finished_measurements_are_not_made_again(evaluator, measured):
  entry, cache, _ = measured
  again = metrics.measure(
    metrics.Subject(
      Unmeasurable(evaluator), VARIABLES, SETTINGS, cache, make_ticks([])
    )
  )
  assert json.dumps(again) == json.dumps(entry)


def test_every_long_measurement_shows_its_progress_to_the_end(measured):
  ended = {label: total for label, done, total in measured[2] if done == total}
  assert list(ended) == [
    "PGD-4 linf 0.02",
    "PGD-4 linf 0.05",
    "PGD-4 linf 0.1",
    "KL-PGD-4 linf 0.05",
    "sanity checks",
    "Fisher information",
    "Fisher information beside the images",
    "local lens",
    "path lens",
    "coarse path lens",
  ]
  # The plan, from which the time left is estimated, is what happens.
  planned = metrics.work(SETTINGS, len(tiny.make_split()), tiny.NUM_CLASSES)
  assert list(ended.items()) == [(work.label, work.count) for work in planned]


def test_performance_and_information_are_those_of_all_examples(entry):
  split = tiny.make_split()
  logits = tiny.logits_of(tiny.apply_mlp, VARIABLES, split)
  shares = np.bincount(split.labels) / len(split)
  label_entropy = -(shares * np.log(shares)).sum()
  log_p = oracles.log_softmax(logits)[np.arange(len(split)), split.labels]
  information = entry["information"]
  performance = entry["performance"]
  assert performance["accuracy"] == pytest.approx(
    (logits.argmax(-1) == split.labels).mean()
  )
  assert performance["cross_entropy"] == pytest.approx(
    float(-log_p.mean()), rel=1e-5
  )
  for name, expected in {
    "mutual_information": oracles.mutual_information(logits),
    "lautum_information": oracles.lautum_information(logits),
    "label_information": oracles.label_information(logits, split.labels),
    "label_entropy": label_entropy,
    "variational_bound": label_entropy + log_p.mean(),
    "cckl": oracles.cckl(logits, split.labels),
  }.items():
    assert information[name] == pytest.approx(float(expected), rel=1e-5)
  np.testing.assert_allclose(
    entry["cckl_matrix"],
    oracles.cckl_matrix(logits, split.labels).astype(float),
    rtol=1e-5,
  )


def test_accuracy_curve_starts_clean_and_covers_grid_and_threat(entry):
  curve = entry["robust_accuracy"]
  assert [point["epsilon"] for point in curve] == [0.0, 0.02, 0.05, 0.1]
  assert curve[0]["accuracy"] == entry["performance"]["accuracy"]
  accuracy = [point["accuracy"] for point in curve]
  assert accuracy == sorted(accuracy, reverse=True)
  assert accuracy[-1] < accuracy[0]
  assert {(p["attack"], p["norm"]) for p in curve} == {("PGD-4", "linf")}
  attacked = entry["epsilon_lens"]["accuracy"]["robust"]
  assert curve[2]["accuracy"] <= attacked


def test_the_robust_accuracy_comes_with_its_checks(entry):
  found = entry["robustness"]
  assert found["attack"] == "PGD-4"
  assert found["accuracy"] == entry["robust_accuracy"][2]["accuracy"]
  assert [step["attack"] for step in found["steps"]] == ["PGD-4"]
  assert found["sanity"]["verdict"] == "trustworthy"
  assert len(found["sanity"]["checks"]) == 16
  assert entry["strength_curve"] == []


def test_epsilon_lenses_name_their_attack_and_add_up(entry):
  lenses = entry["epsilon_lens_by_attack"]
  assert [lens["attack"] for lens in lenses] == ["PGD-4", "KL-PGD-4"]
  assert entry["epsilon_lens"] == lenses[0]
  clean = {**entry["information"], **entry["performance"]}
  for lens in lenses:
    assert (lens["norm"], lens["epsilon"]) == ("linf", 0.05)
    for name in ("accuracy", "label_information", "cckl"):
      parts = lens[name]
      assert parts["total"] == pytest.approx(clean[name], rel=1e-6)
      assert parts["robust"] + parts["non_robust"] == pytest.approx(
        parts["total"], rel=1e-6
      )
      assert parts["non_robust_share"] == pytest.approx(
        parts["non_robust"] / parts["total"]
      )
    assert np.shape(lens["robust_cckl_matrix"]) == (4, 4)
  # The attack on the labels removes label information.
  assert lenses[0]["label_information"]["non_robust"] > 0


def test_sampled_numbers_are_those_of_the_evaluator(evaluator, entry):
  norms = fisher_metric.norms(evaluator, VARIABLES)
  for name in ("trace", "spectral_norm"):
    values = getattr(norms, name).astype(float)
    assert entry["fisher"][name]["mean"] == pytest.approx(values.mean())
    assert entry["fisher"][name]["median"] == pytest.approx(np.median(values))
    # With so few classes the norms are exact up to rounding.
    error = entry["fisher"][name]["estimation_error"]
    assert 0 < error < 1e-3 * values.mean()
  path = lenses_metric.path(evaluator, VARIABLES)
  found = entry["path_lens"]
  assert found["num_pairs"] == 37
  sample = sample_statistics.describe(path.robust)
  assert found["robust"]["plain_mean"] == sample["mean"]
  assert found["robust"]["median"] == sample["median"]
  assert found["quadrature_error"]["max"] == float(path.error.max())
  assert "quadrature_error" not in entry["local_lens"]


def flat_at_images(variables, x):
  """The network behind a function of pixels whose slope is 0 at k / 255."""
  turn = 2 * jnp.pi * 255
  return tiny.apply_mlp(variables, x - jnp.sin(turn * x) / turn)


def test_norms_beside_the_images_show_a_network_that_is_flat_just_there(
  evaluator, entry
):
  masked = evaluation.Evaluator(
    flat_at_images,
    tiny.make_split(),
    num_classes=tiny.NUM_CLASSES,
    settings=SETTINGS,
    seed=0,
  )
  at = fisher_metric.norms(masked, VARIABLES).frobenius
  flat = fisher_metric.beside_images(masked, VARIABLES, at)
  plain = entry["fisher"]["beside_images"]
  # Batches of 16, 32 examples.
  assert flat["num_examples"] == plain["num_examples"] == 32
  norms = fisher_metric.norms(evaluator, VARIABLES).frobenius[:32]
  assert plain["frobenius_at_images"] == pytest.approx(norms.mean())
  assert plain["frobenius"] == pytest.approx(norms.mean(), rel=0.02)
  assert plain["frobenius"] != plain["frobenius_at_images"]
  assert 0 < plain["standard_error"] < 0.01 * norms.mean()
  # The mean of the squared slope (1 - cos)^2 over a step is 1.5.
  assert flat["frobenius_at_images"] < 1e-3 * norms.mean()
  assert flat["frobenius"] == pytest.approx(1.5 * norms.mean(), rel=0.3)
  # The note names the network that is flat; older reports have no ratio.
  runs = [
    {"name": name, "fisher": {**entry["fisher"], "beside_images": found}}
    for name, found in (
      ("plain", plain), ("flat", flat), ("old", dict.fromkeys(plain, math.nan)),
    )
  ]  # fmt: skip
  [section] = fisher_metric.sections(runs)
  [note] = section.notes
  assert note.startswith("flat: the mean Frobenius norm is ")
  label, cells = section.rows[-1]
  assert "beside the images" in label
  assert cells[0].startswith(("0.99", "1"))
  assert cells[2] == "n/a"


def by_regression(values, controls, means):
  """Mean of `values` by least squares on the controls, float64."""
  design = np.stack([c - c.mean() for c in controls], axis=1)
  slopes = np.linalg.lstsq(design, values - values.mean(), rcond=None)[0]
  excess = [c.mean() - m for c, m in zip(controls, means, strict=True)]
  return values.mean() - slopes @ excess


def parts_of(components):
  return (
    getattr(components, part).astype(float) for part in ("non_robust", "total")
  )


def test_lens_means_follow_their_controls(evaluator, entry):
  cckl = entry["information"]["cckl"]
  pairs, many = evaluator.pair_indices(), evaluator.coarse_pair_indices()
  local, total = parts_of(lenses_metric.local(evaluator, VARIABLES, many))
  assert entry["local_lens"]["num_pairs"] == len(local) == 90
  assert entry["local_lens"]["non_robust"]["mean"] == pytest.approx(
    by_regression(local, [total], [cckl]), rel=1e-4
  )
  explained = 1 / (1 - np.corrcoef(local, total)[0, 1] ** 2)
  assert entry["local_lens"]["non_robust"][
    "variance_reduction"
  ] == pytest.approx(explained * 88 / 89, rel=1e-3)

  path, total = parts_of(lenses_metric.path(evaluator, VARIABLES))
  coarse, coarse_total = parts_of(
    lenses_metric.coarse_path(evaluator, VARIABLES, many)
  )
  same, _ = parts_of(lenses_metric.coarse_path(evaluator, VARIABLES, pairs))
  below = by_regression(coarse, [coarse_total], [cckl])
  assert entry["path_lens"]["num_coarse_pairs"] == 90
  assert entry["path_lens"]["non_robust"]["mean"] == pytest.approx(
    by_regression(path, [same, total], [below, cckl]), rel=1e-4
  )
  assert entry["path_lens"]["non_robust"]["variance_reduction"] > explained


@pytest.mark.parametrize("name", ["local_lens", "path_lens"])
def test_lens_means_split_the_exact_cckl(entry, name):
  found, cckl = entry[name], entry["information"]["cckl"]
  assert found["total"]["mean"] == pytest.approx(cckl, rel=1e-6)
  assert found["non_robust"]["mean"] + found["robust"]["mean"] == pytest.approx(
    cckl, rel=1e-5
  )
  assert found["non_robust_share"] == pytest.approx(
    found["non_robust"]["mean"] / cckl, rel=1e-4
  )
  matrix = np.array(found["by_class"]["robust"]) + np.array(
    found["by_class"]["non_robust"]
  )
  seen = np.array(found["by_class"]["count"]) > 0
  np.testing.assert_allclose(
    matrix[seen], np.array(entry["cckl_matrix"])[seen], rtol=1e-5
  )


def test_every_number_of_a_data_set_has_an_error_over_examples(entry):
  for section in ("performance", "information"):
    assert entry["standard_errors"][section].keys() == entry[section].keys()
  correct = entry["performance"]["accuracy"]
  # As of every other accuracy of the report.
  assert entry["standard_errors"]["performance"]["accuracy"] == pytest.approx(
    math.sqrt(correct * (1 - correct) / 45)
  )
  assert np.shape(entry["standard_errors"]["cckl_matrix"]) == (4, 4)
  for lens in (entry["local_lens"], entry["path_lens"]):
    for part in ("total", "non_robust", "robust"):
      assert 0 < lens[part]["standard_error"] < 10 * abs(lens["total"]["mean"])
    assert lens["non_robust_share_standard_error"] > 0
  cckl_error = entry["standard_errors"]["information"]["cckl"]
  for lens in entry["epsilon_lens_by_attack"]:
    for name in ("accuracy", "label_information", "cckl"):
      assert lens[name]["standard_errors"].keys() == {
        "total",
        "robust",
        "non_robust",
        "non_robust_share",
      }
    assert lens["cckl"]["standard_errors"]["total"] == pytest.approx(
      cckl_error, rel=1e-3
    )


def test_zero_epsilon_takes_nothing(evaluator, tmp_path):
  settings = tiny.make_settings(epsilon=0.0, epsilon_grid=())
  cache = measurement_cache.MeasurementCache(tmp_path, "f")
  seen = []
  entry = metrics.measure(
    metrics.Subject(evaluator, VARIABLES, settings, cache, make_ticks(seen))
  )
  planned = metrics.work(settings, len(tiny.make_split()), tiny.NUM_CLASSES)
  assert list(dict.fromkeys(label for label, *_ in seen)) == [
    work.label for work in planned
  ]
  [point] = entry["robust_accuracy"]
  assert entry["robustness"]["sanity"] == {}
  assert point["accuracy"] == entry["performance"]["accuracy"]
  for name in ("accuracy", "cckl", "label_information"):
    parts = entry["epsilon_lens"][name]
    assert parts["non_robust"] == pytest.approx(0, abs=1e-5 * parts["total"])
