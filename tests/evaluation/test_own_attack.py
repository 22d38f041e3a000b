"""Attacks of one's own are kept as long as they compute the same."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_problem as tiny

from robust_info import config, evaluation
from robust_info.config import registry
from robust_info.evaluation import cache, metrics, own_attack
from robust_info.evaluation.metrics import attack_runs, attacked

VARIABLES = tiny.logistic()
SPLIT = tiny.make_split(16)


@pytest.fixture(autouse=True)
def only_the_attack(monkeypatch):
  monkeypatch.setattr(attacked, "describe", lambda *_: {})
  with registry.using(()):
    yield


@pytest.fixture
def is_run(tmp_path):
  """Function (attack, **settings) -> whether it is run, and not read."""

  def is_run(attack, **changes):
    own_attack.register("own")(attack)
    cls = registry.extended(config.EvaluationConfig, registry.active())
    settings = dataclasses.replace(
      cls(**vars(tiny.make_settings())), attack="own", **changes
    )
    evaluator = evaluation.Evaluator(
      tiny.apply_logistic, SPLIT, num_classes=4, settings=settings, seed=0
    )
    begun = []
    runs = attack_runs.AttackRuns(
      metrics.Subject(
        evaluator,
        VARIABLES,
        settings,
        cache.MeasurementCache(tmp_path, "f"),
        begun.append,
      )
    )
    assert len(runs.registered()["correct"]) == len(SPLIT)
    return bool(begun)

  return is_run


def moved(sign):
  # As an attack that takes a number, or a loss, of another module.
  return lambda logits_fn, x, label, key, *, epsilon: x + sign * epsilon


def to_largest(logits_fn, x, label, key, *, epsilon_grid):
  return x + max(epsilon_grid)


def by_label(logits_fn, x, label, key):
  return x + 0.01 * jnp.sign(label - 1.5)[:, None, None, None]


def by_number(logits_fn, x, label, key, *, example_ids):
  return x + 0.01 * jnp.sign(example_ids - 1.5)[:, None, None, None]


def on_host(logits_fn, x, label, key):
  return jax.pure_callback(lambda x: np.asarray(x) * 0.9, x, x)


def test_an_attack_is_kept_until_its_code_changes(is_run):
  assert is_run(moved(1.0))
  assert not is_run(moved(1.0))
  assert is_run(moved(-1.0))
  assert not is_run(moved(1.0))
  assert is_run(moved(1.0), epsilon=0.1)


def test_an_attack_is_kept_for_the_settings_that_it_reads(is_run):
  assert is_run(to_largest, epsilon_grid=(0.01,))
  assert is_run(to_largest, epsilon_grid=(0.02,))
  assert not is_run(to_largest, epsilon_grid=(0.0, 0.02))
  assert is_run(by_label)
  assert is_run(by_number)  # The same program of another argument.


def test_an_attack_with_code_of_the_host_is_not_kept(is_run):
  assert is_run(on_host)
  assert is_run(on_host)
