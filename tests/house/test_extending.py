"""Tests the promises of docs/guide/extending.md."""

import types

import numpy as np
import pytest
import tiny_problem as tiny

from robust_info import evaluation
from robust_info.evaluation import cache, metrics, validation
from robust_info.evaluation.metrics import performance, rows
from robust_info.report import table


def logit_gap(logits_fn, examples):
  logits = logits_fn(examples.x)
  return logits.max(axis=-1) - logits.min(axis=-1)


def mean_gap(evaluator, variables):
  return float(np.mean(evaluator.over_examples(logit_gap, variables)))


@pytest.fixture
def with_own_metric(monkeypatch):
  """Adds a number to the report, the table and the curves from outside."""
  own = types.SimpleNamespace(
    measure=lambda network: {
      "gap": mean_gap(network.evaluator, network.variables)
    },
    sections=lambda runs: [
      rows.section("Own", runs, [("gap", lambda run: rows.number(run["gap"]))])
    ],
    follow=lambda network: {"gap": mean_gap(network.whole, network.variables)},
  )
  monkeypatch.setattr(metrics, "METRICS", (performance, own))


def test_a_metric_is_one_module_and_one_line(with_own_metric, tmp_path):
  variables, split = tiny.mlp(), tiny.make_split()
  common = {
    "num_classes": tiny.NUM_CLASSES,
    "settings": tiny.make_settings(),
    "seed": 0,
  }
  entry = metrics.measure(
    metrics.Subject(
      evaluation.Evaluator(tiny.apply_mlp, split, **common),
      variables,
      common["settings"],
      cache.MeasurementCache(tmp_path, "f"),
      lambda label: None,
    )
  )
  logits = tiny.logits_of(tiny.apply_mlp, variables, split)
  gap = (logits.max(-1) - logits.min(-1)).mean()
  np.testing.assert_allclose(entry["gap"], gap, rtol=1e-5)
  assert entry["performance"].keys() == {
    "accuracy", "cross_entropy", "calibration_error"
  }  # fmt: skip
  run = {
    "name": "a", "objective": "o", "model": "m", "checkpoint": "last",
    "step": 1, **entry,
  }  # fmt: skip
  about = {"name": "noise", "split": "test", "num_examples": len(split)}
  lines = table.render({"data": about, "runs": [run]}).splitlines()
  assert lines[-2] == "Own"
  assert lines[-1].split() == ["gap", rows.number(entry["gap"])]
  followed = validation.Validator(tiny.apply_mlp, split, **common)(variables)
  np.testing.assert_allclose(followed["gap"], gap, rtol=1e-5)


def test_a_metric_cannot_replace_the_numbers_of_another(monkeypatch, tmp_path):
  own = types.SimpleNamespace(
    measure=lambda network: {"performance": {"accuracy": 1.0}},
    follow=lambda network: {"accuracy": 1.0},
  )
  monkeypatch.setattr(metrics, "METRICS", (performance, own))
  split, settings = tiny.make_split(), tiny.make_settings()
  common = {"num_classes": tiny.NUM_CLASSES, "settings": settings, "seed": 0}
  evaluator = evaluation.Evaluator(tiny.apply_mlp, split, **common)
  subject = metrics.Subject(
    evaluator,
    tiny.mlp(),
    settings,
    cache.MeasurementCache(tmp_path, "f"),
    lambda label: None,
  )
  with pytest.raises(ValueError, match="one metric, got performance from two"):
    metrics.measure(subject)
  with pytest.raises(ValueError, match="one metric, got accuracy from two"):
    metrics.follow(metrics.Followed(evaluator, evaluator, tiny.mlp()))
