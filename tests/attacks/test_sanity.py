"""The sanity report passes honest networks and names what is wrong.

Faulty networks go through it in ../test_worst_case.py, as evaluate.py has it.
"""

import cProfile
import pstats

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robust_info import attacks
from robust_info.attacks import forward_checks, inputs


def report(logits_fn, batch, **options):
  # Correct labels wherever the function is deterministic.
  x = batch[0][:32]
  y = jnp.argmax(logits_fn(x), -1)
  return attacks.sanity_report(
    logits_fn, x, y, jax.random.key(0), **{"epsilon": 0.03, **options}
  )


def failed(result):
  return {check.name for check in result.checks if not check.passed}


def test_honest_network_is_trustworthy(linear, batch):
  result = report(linear, batch)
  assert result.trustworthy, str(result)
  assert result.verdict == "trustworthy"
  assert result.accuracies["clean"] == 1
  assert result.accuracies["pgd-20"] <= result.accuracies["fgsm"]


def test_batch_statistics_inner_gradients_and_nan_are_flagged(mlp, batch):
  def training_mode(x):
    return mlp(x - jnp.mean(x, axis=0, keepdims=True))

  def optimising(x):
    gradient = jax.grad(lambda v: jnp.sum(mlp(v)))(x)
    return mlp(x - 0.01 * gradient)

  def not_finite(x):
    pixel = x[:, 0, 0]
    spread = 0 * jnp.sqrt(jnp.abs(pixel - pixel))
    return jnp.where(pixel > 0.9, jnp.nan, spread)

  # One report sees all.
  result = report(
    lambda x: training_mode(x) + optimising(x) + not_finite(x), batch
  )
  assert {
    "row dependence",
    "gradient inside",
    "finite logits",
    "finite gradients",
  } <= failed(result)
  # What is no number is so in every call.
  assert "random forward pass" not in failed(result)


@pytest.mark.parametrize("wrap", [lambda fn: fn, jax.jit])
def test_inner_gradients_are_seen_by_a_profiled_program(mlp, batch, wrap):
  x, y = batch

  def flagged(logits_fn):
    checked = inputs.check(logits_fn, x, y, bounds=(0.0, 1.0), where=None)
    return "gradient inside" in {
      check.name
      for check in forward_checks.run(logits_fn, checked)
      if not check.passed
    }

  optimising = wrap(lambda x: mlp(x + jax.grad(lambda v: jnp.sum(mlp(v)))(x)))
  with cProfile.Profile() as profiler:
    found = [flagged(fn) for fn in (optimising, optimising, wrap(mlp))]
  assert found == [True, True, False]
  functions = {name for *_, name in pstats.Stats(profiler).stats}
  assert {"check", "run"} <= functions


def test_square_after_gradients_is_flagged_from_an_evaluation(linear, batch):
  x = batch[0][:8]
  evaluated = attacks.EnsembleResult(
    x_adv=x,
    success=np.zeros(8, bool),
    logits=np.zeros((8, 5)),
    broken_by=np.zeros(8, int),
    attacks=("apgd-ce", "square"),
    accuracies={"clean": 1.0, "apgd-ce": 0.5, "square": 0.49},
    seconds={},
    zero_gradients={},
  )
  result = report(linear, batch, evaluated=evaluated)
  assert "square in ensemble" in failed(result)


def test_bad_arguments_give_one_clear_line(linear, batch):
  with pytest.raises(ValueError, match="epsilon > 0"):
    report(linear, batch, epsilon=0.0)
  with pytest.raises(ValueError, match="norm to be one of"):
    report(linear, batch, norm="l1")
