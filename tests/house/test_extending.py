"""Tests the promises of docs/guide/extending.md."""

import types
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny_problem as tiny
from flax import linen as nn

from robust_info import attacks, data, evaluation, objectives
from robust_info.attacks import methods
from robust_info.attacks.autoattack import programs
from robust_info.evaluation import cache, metrics, validation
from robust_info.evaluation.metrics import performance, rows
from robust_info.report import table
from robust_info.training import step as train_step


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


class Corner(NamedTuple):
  """Carry of the attack below."""

  y: Any
  iteration: Any
  found: Any
  x_found: Any
  zero_gradient: Any
  nonfinite_gradient: Any


def corner(plan):
  """An attack without gradients: one random corner of the linf ball."""

  def start(tried, epsilon):
    signs = jax.vmap(
      lambda key: jax.random.rademacher(key, tried.x.shape[1:], jnp.float32)
    )(tried.key)
    no = jnp.zeros(len(signs), bool)
    return Corner(
      y=tried.y,
      iteration=jnp.zeros(len(signs), jnp.int32),
      found=no,
      x_found=jnp.clip(
        tried.x + jnp.reshape(epsilon, (-1, 1, 1, 1)) * signs,
        plan.low,
        plan.high,
      ),
      zero_gradient=no,
      nonfinite_gradient=no,
    )

  def step(evaluate, state, epsilon, key):
    del epsilon
    hit = jnp.argmax(evaluate(state.x_found, key)[0], axis=-1) != state.y
    return state._replace(
      iteration=state.iteration + 1, found=state.found | hit
    )

  return methods.Method(start, step, 1, targeted=False, backward=False)


def test_an_attack_joins_an_ensemble_by_one_line(monkeypatch):
  monkeypatch.setitem(programs.METHODS, "corner", corner)
  split, variables = tiny.make_split(), tiny.logistic()
  x = split.images.astype(np.float32) / 255
  network = jax.tree_util.Partial(tiny.apply_logistic, variables)
  found = attacks.auto_attack(
    network, x, split.labels, jax.random.key(0), epsilon=0.2,
    attacks=("corner", "pgd"), num_steps=5, batch_size=16,
  )  # fmt: skip
  broken = found.broken_by == 0
  assert 0 < broken.sum() < found.success.sum()
  expected = np.clip(x + 0.2, 0, 1), np.clip(x - 0.2, 0, 1)
  moved = found.x_adv[broken]
  off = [np.abs(moved - corner[broken]) for corner in expected]
  assert np.minimum(*off).max() < 1e-6
  logits = tiny.apply_logistic(variables, found.x_adv)
  np.testing.assert_array_equal(
    np.argmax(logits, axis=-1) != split.labels, found.success
  )


class OwnNetwork(nn.Module):
  """A linear network that is not one of `models`."""

  mean: tuple[float, ...] = ()

  @nn.compact
  def __call__(self, x, *, train=False, where=None):
    return nn.Dense(tiny.NUM_CLASSES)(x.reshape(len(x), -1))


def brier(network, batch, key, *, progress):
  """An objective that is not one of `objectives`: the Brier score."""
  del key, progress
  logits, batch_stats = network.train(batch.image, batch.mask)
  wrong = jax.nn.softmax(logits) - jax.nn.one_hot(batch.label, logits.shape[1])
  loss = jnp.sum(wrong**2, axis=-1)
  return objectives.Outcome(loss, {"brier": loss}, batch_stats)


@pytest.mark.usefixtures("one_device")
def test_an_objective_and_a_network_are_trained_from_outside():
  split, optimizer, model = tiny.make_split(), optax.sgd(0.5), OwnNetwork()
  state = train_step.create_state(
    model, optimizer, seed=0, image_shape=split.images.shape[1:]
  )
  batch = data.Batch(
    split.images, split.labels, np.arange(len(split)) < len(split) - 5
  )
  kernel = np.asarray(state.variables["params"]["Dense_0"]["kernel"])
  step = train_step.make_train_step(model, optimizer, brier, num_steps=3)
  state, metrics_of_step = step(state, batch)
  # One step of gradient descent, by hand.
  x = (split.images / 255.0).reshape(len(split), -1)[:-5]
  p = np.exp(x @ kernel) / np.exp(x @ kernel).sum(-1, keepdims=True)
  wrong = p - np.eye(tiny.NUM_CLASSES)[split.labels[:-5]]
  to_logits = 2 * p * (wrong - (p * wrong).sum(-1, keepdims=True))
  found = state.variables["params"]["Dense_0"]["kernel"]
  np.testing.assert_allclose(
    found, kernel - 0.5 * x.T @ to_logits / len(x), rtol=1e-4, atol=1e-6
  )
  values = metrics_of_step.read()
  np.testing.assert_allclose(
    values["brier"] / values["count"], (wrong**2).sum(-1).mean(), rtol=1e-5
  )
