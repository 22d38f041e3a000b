"""The sanity report passes honest networks and names faults of others.

evaluation/test_worst_case.py tests it on faulty networks.
"""

import counted_passes
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robust_info import attacks
from robust_info.attacks import inputs
from robust_info.attacks.sanity import attack_checks, forward_checks


def report(logits_fn, batch, **options):
  # Labels are correct if the function is deterministic.
  x = batch[0][:32]
  y = np.argmax(logits_fn(x), -1).astype(np.int32)
  return attacks.sanity_report(
    logits_fn, x, y, jax.random.key(0), **{"epsilon": 0.03, **options}
  )


def failed(result):
  return {check.name for check in result.checks if not check.passed}


def test_honest_network_is_trustworthy(linear, batch):
  shares = []
  result = report(linear, batch, progress=shares.append)
  assert shares == sorted(shares)
  assert 0 < shares[0] < 0.01
  assert shares[-1] == 1
  assert shares.count(1) == 1
  # Nothing is left out of the count before Square.
  before = 1 - 500 / attack_checks.PASSES
  assert min(abs(share - before) for share in shares) < 1e-9
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

  # One report finds all faults.
  result = report(
    lambda x: training_mode(x) + optimising(x) + not_finite(x), batch
  )
  assert {
    "row dependence",
    "gradient inside",
    "finite logits",
    "finite gradients",
  } <= failed(result)
  # The same logits are NaN in every call, so the network is not random.
  assert "random forward pass" not in failed(result)


@pytest.mark.parametrize("wrap", [lambda fn: fn, jax.jit])
def test_derivatives_inside_are_seen(mlp, batch, wrap):
  x = batch[0][:4]

  def score(v):
    return jnp.sum(mlp(v))

  def loop(v):
    return mlp(jax.lax.fori_loop(0, 2, lambda _, u: u + jax.grad(score)(u), v))

  for optimising in (
    lambda v: mlp(v + jax.grad(score)(v)),
    lambda v: mlp(v + jax.grad(jax.jit(score))(v)),
    lambda v: mlp(v + jax.vjp(mlp, v)[1](mlp(v))[0]),
    lambda v: jax.linearize(mlp, v)[1](v),
    lambda v: jax.jvp(mlp, (v,), (v,))[1],
    loop,
  ):
    fn = wrap(optimising)
    # In the second round, `jit` has already traced the function.
    found = [forward_checks.differentiates(fn, x) for _ in range(2)]
    assert found == [1, 1]


def test_functions_with_derivatives_of_their_own_are_no_derivatives(mlp, batch):
  @jax.custom_vjp
  def straight_through(v):
    return jnp.round(v)

  straight_through.defvjp(lambda v: (v, None), lambda _, g: (g,))
  weights = jnp.eye(16) + 0.1

  def network(v):
    flat = jax.nn.gelu(straight_through(8 * v)).reshape(len(v), -1)
    solved = jnp.linalg.solve(weights, flat.T).T
    return jax.checkpoint(mlp)(solved)

  assert forward_checks.differentiates(network, batch[0]) == 0


def test_unknown_names_of_derivatives_do_not_pass(linear, batch, monkeypatch):
  monkeypatch.setattr(forward_checks, "_DERIVATIVE", "another name")
  x = batch[0][:32]
  y = np.zeros(32, np.int32)
  checked = inputs.check(linear, x, y, bounds=(0.0, 1.0), where=None)
  found = {c.name: c for c in forward_checks.run(linear, checked)}
  assert np.isnan(found["gradient inside"].value)
  assert not found["gradient inside"].passed


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
  for bounds in (None, (0.0, np.inf)):
    with pytest.raises(ValueError, match="Expected finite bounds"):
      report(linear, batch, bounds=bounds)


def test_the_stated_cost_is_that_of_examples_which_stay_robust(linear, batch):
  logits_fn, counts = counted_passes.watched(linear)
  x = batch[0][:8]
  y = np.argmax(linear(x), -1).astype(np.int32)
  attacks.sanity_report(logits_fn, x, y, jax.random.key(0), epsilon=1e-4)
  jax.effects_barrier()
  assert counts.total() == pytest.approx(
    len(x) * attack_checks.PASSES, rel=0.15
  )
