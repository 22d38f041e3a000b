import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from objective_networks import (
  SHAPE,
  C,
  N,
  batch_norm_network,
  examples,
  linear_network,
  recording,
  slope_and_difference,
  with_other_padding,
  with_params,
)

from robust_info import config as config_lib
from robust_info import objectives

PGD = functools.partial(objectives.pgd, epsilon=0.1, num_steps=3)
KEY = jax.random.key(5)


def run(batch, *, norm="linf", random_start=True, epsilon=0.1, progress=1.0):
  """Outcome of PGD on the linear network, and the gradient of its sum."""
  found = _run(batch, epsilon, progress, norm=norm, random_start=random_start)
  return jax.tree.map(np.asarray, found)


# Without a random start: one step of a quarter of epsilon.
@functools.partial(jax.jit, static_argnames=("norm", "random_start"))
def _run(batch, epsilon, progress, *, norm, random_start):
  return _with_gradient(
    functools.partial(
      objectives.pgd,
      epsilon=epsilon,
      progress=progress,
      epsilon_ramp=0.5,
      norm=norm,
      random_start=random_start,
      num_steps=3 if random_start else 1,
      step_size=0.25,
    ),
    batch,
  )


def _with_gradient(objective, batch):
  network = linear_network()

  def loss(params):
    outcome = objective(with_params(network, params), batch, KEY)
    return jnp.sum(outcome.loss), outcome

  gradient, outcome = jax.grad(loss, has_aux=True)(network.variables["params"])
  return outcome, gradient


@jax.jit
def standard(batch):
  return _with_gradient(objectives.standard, batch)


@functools.partial(jax.jit, static_argnames="objective")
def normalised(batch, *, objective):
  """Outcome with BatchNorm, and the statistics after one pass at its inputs."""
  inputs, network = [], batch_norm_network()
  outcome = objective(recording(network, inputs), batch, KEY)
  return outcome, network.train(inputs[0], batch.mask)[1]


def test_standard_is_cross_entropy():
  network, batch = linear_network(), examples()
  outcome, _ = standard(batch)
  logits = np.asarray(network.evaluate(batch.image), np.float64)
  log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
  expected = -log_p[np.arange(N), batch.label]
  np.testing.assert_allclose(outcome.loss, expected, rtol=1e-5)
  np.testing.assert_array_equal(outcome.metrics["cross_entropy"], outcome.loss)
  np.testing.assert_array_equal(
    outcome.metrics["accuracy"], logits.argmax(-1) == batch.label
  )


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
def test_label_smoothing_is_cross_entropy_against_smoothed_labels(smoothing):
  network, batch = linear_network(), examples()
  outcome = objectives.standard(network, batch, KEY, label_smoothing=smoothing)
  targets = optax.smooth_labels(jax.nn.one_hot(batch.label, C), smoothing)
  expected = optax.softmax_cross_entropy(network.evaluate(batch.image), targets)
  np.testing.assert_allclose(outcome.loss, expected, rtol=1e-5)


@pytest.mark.parametrize("random_start", [False, True])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_pgd_at_epsilon_zero_is_standard_in_value_and_gradient(
  norm, random_start
):
  batch = examples()
  outcome, gradient = run(
    batch, norm=norm, random_start=random_start, epsilon=0.0
  )
  plain, expected = standard(batch)
  np.testing.assert_array_equal(outcome.points, batch.image)
  np.testing.assert_allclose(outcome.loss, plain.loss, rtol=1e-6)
  np.testing.assert_allclose(gradient, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_pgd_trains_at_points_of_the_ball_that_cost_more(norm):
  batch = examples()
  outcome, _ = run(batch, norm=norm)
  x_adv = outcome.points
  delta = (x_adv - batch.image).reshape(N, -1)
  size = (
    np.abs(delta).max(-1) if norm == "linf" else np.sqrt((delta**2).sum(-1))
  )
  assert (size <= 0.1 + 1e-6).all()
  assert (size > 0.05).all()
  assert (x_adv >= 0).all()
  assert (x_adv <= 1).all()
  assert (outcome.loss > standard(batch)[0].loss).all()


def test_no_gradient_flows_through_the_attack():
  outcome, gradient = run(examples())
  at_points = dataclasses.replace(examples(), image=outcome.points)
  np.testing.assert_allclose(
    gradient, standard(at_points)[1], rtol=1e-5, atol=1e-6
  )


@pytest.mark.parametrize(
  "objective", [objectives.standard, PGD], ids=["standard", "pgd"]
)
def test_gradient_equals_finite_differences(x64, objective):
  slope, difference = slope_and_difference(objective)
  np.testing.assert_allclose(slope, difference, rtol=1e-7)


def test_attack_sees_evaluation_mode_and_loss_sees_training_mode():
  network, batch = batch_norm_network(), examples()
  modes = []

  def evaluate_fn(variables, x):
    modes.append("evaluate")
    return network.evaluate_fn(variables, x)

  def train_fn(variables, x, where):
    modes.append("train")
    return network.train_fn(variables, x, where)

  watched = objectives.Network(network.variables, evaluate_fn, train_fn)
  jax.eval_shape(lambda batch: PGD(watched, batch, KEY), batch)
  assert modes.count("train") == 1
  assert modes[-1] == "train"


def test_statistics_move_by_the_loss_pass_alone():
  outcome, once = normalised(examples(), objective=PGD)
  jax.tree.map(np.testing.assert_array_equal, outcome.batch_stats, once)


@pytest.mark.parametrize(
  "objective", [objectives.standard, PGD], ids=["standard", "pgd"]
)
def test_masked_rows_change_nothing(objective):
  batch = examples(np.arange(N) < 4)
  (one, _), (two, _) = (
    normalised(b, objective=objective)
    for b in (batch, with_other_padding(batch))
  )
  np.testing.assert_allclose(one.loss[:4], two.loss[:4], rtol=1e-6)
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-6),
    one.batch_stats,
    two.batch_stats,
  )
  assert np.isfinite(two.loss).all()


def test_epsilon_ramps_up_linearly_and_stays():
  ramped = [
    float(objectives.ramped(0.4, progress, 0.5))
    for progress in (0.0, 0.125, 0.25, 0.5, 1.0)
  ]
  np.testing.assert_allclose(ramped, [0.0, 0.1, 0.2, 0.4, 0.4], rtol=1e-6)
  assert float(objectives.ramped(0.4, 0.0, 0.0)) == np.float32(0.4)


def test_ramp_at_the_start_of_training_is_standard_training():
  outcome, _ = run(examples(), progress=0.0)
  np.testing.assert_array_equal(outcome.points, examples().image)
  np.testing.assert_allclose(
    outcome.loss, standard(examples())[0].loss, rtol=1e-6
  )


def test_step_size_is_in_units_of_epsilon():
  middle = np.full((N, *SHAPE), 0.5, np.float32)
  batch = dataclasses.replace(examples(), image=middle)
  for epsilon in (0.1, 0.2):
    outcome, _ = run(batch, random_start=False, epsilon=epsilon)
    np.testing.assert_allclose(
      np.abs(outcome.points - 0.5), 0.25 * epsilon, atol=1e-6
    )


@pytest.mark.parametrize(
  ("config", "expected"),
  [
    (
      {"name": "standard", "label_smoothing": 0.2},
      functools.partial(objectives.standard, label_smoothing=0.2),
    ),
    (
      {
        "name": "pgd",
        "epsilon": 0.3,
        "norm": "l2",
        "step_size": 0.5,
        "num_steps": 2,
        "random_start": False,
        "epsilon_ramp": 0.5,
        "label_smoothing": 0.2,
      },
      functools.partial(
        objectives.pgd,
        epsilon=0.3,
        norm="l2",
        step_size=0.5,
        num_steps=2,
        random_start=False,
        epsilon_ramp=0.5,
        label_smoothing=0.2,
      ),
    ),
  ],
)
def test_configuration_selects_the_objective(config, expected):
  objective = objectives.create(config_lib.ObjectiveConfig(**config))
  assert objective.func is expected.func
  assert objective.keywords == expected.keywords


def test_plain_function_is_a_network_without_statistics():
  network = linear_network()
  plain = objectives.from_logits_fn(network.evaluate)
  found, expected = jax.jit(
    lambda batch: [PGD(at, batch, KEY) for at in (plain, network)]
  )(examples())
  assert found.batch_stats == {}
  np.testing.assert_array_equal(found.loss, expected.loss)
