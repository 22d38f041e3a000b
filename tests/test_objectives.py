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
)

from robust_info import config as config_lib
from robust_info import objectives

PGD = functools.partial(objectives.pgd, epsilon=0.1, num_steps=3)
KEY = jax.random.key(5)


def test_standard_is_cross_entropy():
  network, batch = linear_network(), examples()
  outcome = objectives.standard(network, batch, KEY)
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
  network = linear_network()

  def loss(params, objective):
    at = dataclasses.replace(network, variables={"params": params})
    return jnp.sum(objective(at, batch, KEY).loss)

  attack = functools.partial(
    objectives.pgd,
    epsilon=0.0,
    norm=norm,
    num_steps=2,
    random_start=random_start,
  )
  value_and_grad = jax.value_and_grad(loss)
  params = network.variables["params"]
  jax.tree.map(
    np.testing.assert_array_equal,
    value_and_grad(params, attack),
    value_and_grad(params, objectives.standard),
  )


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_pgd_trains_at_points_of_the_ball_that_cost_more(norm):
  inputs, batch = [], examples()
  network = recording(linear_network(), inputs)
  outcome = PGD(network, batch, KEY, norm=norm)
  (x_adv,) = inputs
  delta = np.asarray(x_adv - batch.image).reshape(N, -1)
  size = (
    np.abs(delta).max(-1) if norm == "linf" else np.sqrt((delta**2).sum(-1))
  )
  assert (size <= 0.1 + 1e-6).all()
  assert (size > 0.05).all()
  assert (x_adv >= 0).all()
  assert (x_adv <= 1).all()
  plain = objectives.standard(network, batch, KEY).loss
  assert (outcome.loss > plain).all()


def test_no_gradient_flows_through_the_attack():
  inputs, batch, network = [], examples(), linear_network()
  PGD(recording(network, inputs), batch, KEY)
  (x_adv,) = inputs

  def loss(params, objective, batch):
    at = dataclasses.replace(network, variables={"params": params})
    return jnp.sum(objective(at, batch, KEY).loss)

  at_points = dataclasses.replace(batch, image=x_adv)
  params = network.variables["params"]
  np.testing.assert_allclose(
    jax.grad(loss)(params, PGD, batch),
    jax.grad(loss)(params, objectives.standard, at_points),
    rtol=1e-5,
    atol=1e-6,
  )


@pytest.mark.parametrize(
  "objective", [objectives.standard, PGD], ids=["standard", "pgd"]
)
def test_gradient_equals_finite_differences(x64, objective):
  # The attack's points are constants to the gradient: hold them fixed.
  inputs = []
  network, batch = linear_network(jnp.float64), examples(dtype=jnp.float64)
  objective(recording(network, inputs), batch, KEY)
  at_points = dataclasses.replace(batch, image=inputs[0])
  params = network.variables["params"]

  def loss(params, objective, batch):
    at = dataclasses.replace(network, variables={"params": params})
    return jnp.sum(objective(at, batch, KEY).loss)

  gradient = jax.grad(loss)(params, objective, batch)
  direction = jax.random.normal(jax.random.key(8), params.shape)
  h = 1e-5
  up, down = (
    loss(params + sign * h * direction, objectives.standard, at_points)
    for sign in (1, -1)
  )
  np.testing.assert_allclose(
    jnp.sum(gradient * direction), (up - down) / (2 * h), rtol=1e-7
  )


def test_attack_sees_evaluation_mode_and_loss_sees_training_mode():
  network, batch = batch_norm_network(), examples()
  modes = []

  def evaluate_fn(variables, x):
    modes.append("evaluate")
    return network.evaluate_fn(variables, x)

  def train_fn(variables, x, where):
    modes.append("train")
    return network.train_fn(variables, x, where)

  PGD(objectives.Network(network.variables, evaluate_fn, train_fn), batch, KEY)
  assert modes.count("train") == 1
  assert modes[-1] == "train"


def test_statistics_move_by_the_loss_pass_alone():
  inputs, network, batch = [], batch_norm_network(), examples()
  outcome = PGD(recording(network, inputs), batch, KEY)
  _, once = network.train(inputs[0], batch.mask)
  jax.tree.map(np.testing.assert_array_equal, outcome.batch_stats, once)


@pytest.mark.parametrize(
  "objective", [objectives.standard, PGD], ids=["standard", "pgd"]
)
def test_masked_rows_change_nothing(objective):
  mask = np.arange(N) < 4
  batch = examples(mask)
  image = batch.image.at[4:].set(0.9)
  other = dataclasses.replace(
    batch, image=image, label=batch.label.at[4:].set(0)
  )
  one = objective(batch_norm_network(), batch, KEY)
  two = objective(batch_norm_network(), other, KEY)
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
  network, batch = linear_network(), examples()
  np.testing.assert_array_equal(
    PGD(network, batch, KEY, progress=0.0, epsilon_ramp=0.5).loss,
    objectives.standard(network, batch, KEY).loss,
  )


def test_step_size_is_in_units_of_epsilon():
  inputs, network, batch = [], linear_network(), examples()
  batch = dataclasses.replace(batch, image=jnp.full((N, *SHAPE), 0.5))
  for epsilon in (0.1, 0.2):
    objectives.pgd(
      recording(network, inputs),
      batch,
      KEY,
      epsilon=epsilon,
      step_size=0.25,
      num_steps=1,
      random_start=False,
    )
  for x_adv, epsilon in zip(inputs, (0.1, 0.2), strict=True):
    np.testing.assert_allclose(jnp.abs(x_adv - 0.5), 0.25 * epsilon, atol=1e-6)


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
  outcome = PGD(plain, examples(), KEY)
  assert outcome.batch_stats == {}
  np.testing.assert_array_equal(
    outcome.loss, PGD(network, examples(), KEY).loss
  )
