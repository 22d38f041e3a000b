"""TRADES, MART, KL, FGSM-RS and Fisher regularisation."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from objective_networks import (
  N,
  batch_norm_network,
  examples,
  linear_network,
  recording,
)

from robust_info import attacks, fisher, objectives
from robust_info import config as config_lib

KEY = jax.random.key(5)
BALL = {"epsilon": 0.1}
NEUTRAL = {
  "trades": functools.partial(
    objectives.trades, **BALL, num_steps=1, coefficient=0.0
  ),
  "kl": functools.partial(objectives.kl, **BALL, coefficient=0.0),
  "mart": functools.partial(
    objectives.mart, epsilon=0.0, num_steps=1, coefficient=0.0, margin=0.0
  ),
  "fgsm_rs": functools.partial(objectives.fgsm_rs, epsilon=0.0),
  "fisher": functools.partial(objectives.fisher_regularised, coefficient=0.0),
}
RECIPES = {
  "trades": functools.partial(objectives.trades, **BALL, num_steps=1),
  "kl": functools.partial(objectives.kl, **BALL),
  "kl from its start": functools.partial(objectives.kl, **BALL, anchor="start"),
  "mart": functools.partial(objectives.mart, **BALL, num_steps=1),
  "fgsm_rs": functools.partial(objectives.fgsm_rs, **BALL),
  "aligned": functools.partial(objectives.fgsm_rs, **BALL, alignment=0.5),
  "trace": functools.partial(objectives.fisher_regularised, num_probes=2),
  "exact": functools.partial(
    objectives.fisher_regularised, estimator="exact", quantity="frobenius"
  ),
  "frobenius": functools.partial(
    objectives.fisher_regularised, quantity="frobenius"
  ),
  "label": functools.partial(objectives.fisher_regularised, estimator="label"),
}


def recipes(*names):
  chosen = [RECIPES[name] for name in names]
  return pytest.mark.parametrize("objective", chosen, ids=names)


def total_loss(params, network, objective, batch, key=KEY):
  variables = {**network.variables, "params": params}
  network = dataclasses.replace(network, variables=variables)
  return jnp.sum(objective(network, batch, key).loss)


def softmax(logits):
  p = np.exp(np.asarray(logits, np.float64))
  return p / p.sum(-1, keepdims=True)


def kl(p, q):
  return (p * np.log(p / q)).sum(-1)


@pytest.mark.parametrize("objective", NEUTRAL.values(), ids=NEUTRAL)
def test_neutral_setting_is_standard_in_value_and_gradient(objective):
  network, batch = linear_network(), examples()
  params = network.variables["params"]
  found, expected = (
    jax.value_and_grad(total_loss)(params, network, o, batch)
    for o in (objective, objectives.standard)
  )
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6),
    found,
    expected,
  )


@pytest.mark.parametrize("name", ["trades", "kl"])
def test_divergence_recipes_equal_their_formula(name):
  inputs, network, batch = [], linear_network(), examples()
  outcome = RECIPES[name](recording(network, inputs), batch, KEY)
  x, x_adv = inputs
  np.testing.assert_array_equal(x, batch.image)
  assert float(jnp.max(jnp.abs(x_adv - x))) <= 0.1 + 1e-6
  p, q = (softmax(network.evaluate(point)) for point in inputs)
  coefficient = {"trades": 6.0, "kl": 3.0}[name]
  np.testing.assert_allclose(
    outcome.loss,
    -np.log(p[np.arange(N), batch.label]) + coefficient * kl(p, q),
    rtol=1e-4,
  )
  assert (outcome.metrics["divergence"] > 0).all()


def test_mart_equals_its_formula():
  inputs, network, batch = [], linear_network(), examples()
  outcome = RECIPES["mart"](recording(network, inputs), batch, KEY)
  p, q = (softmax(network.evaluate(point)) for point in inputs)
  rows = np.arange(N)
  others = q.copy()
  others[rows, batch.label] = 0
  expected = (
    -np.log(q[rows, batch.label])
    - np.log(1 - others.max(-1))
    + 5.0 * (1 - p[rows, batch.label]) * kl(p, q)
  )
  np.testing.assert_allclose(outcome.loss, expected, rtol=1e-4)


@pytest.mark.parametrize("label", [0, 1])
def test_mart_stays_finite_where_probabilities_round_to_one(label):
  logits = jnp.array([[200.0, 0.0, 0.0, 0.0]])

  def loss(logits):
    network = objectives.from_logits_fn(lambda x: logits + 0.0 * jnp.sum(x))
    batch = dataclasses.replace(
      examples(),
      image=jnp.full((1, 3, 3, 1), 0.5),
      label=jnp.array([label], jnp.int32),
      mask=jnp.ones(1, bool),
    )
    return objectives.mart(network, batch, KEY, epsilon=0.0, num_steps=1).loss[
      0
    ]

  value, gradient = jax.jit(jax.value_and_grad(loss))(logits)
  assert np.isfinite(value)
  assert np.isfinite(gradient).all()
  # Wrong with certainty: 200 nats, and 200 more for the margin.
  np.testing.assert_allclose(value, {0: 0.0, 1: 400.0}[label], rtol=0.01)


def test_one_step_from_a_random_start_stays_in_the_ball_and_hurts():
  inputs, network, batch = [], linear_network(), examples()
  outcome = RECIPES["fgsm_rs"](recording(network, inputs), batch, KEY)
  (x_adv,) = inputs
  assert float(jnp.max(jnp.abs(x_adv - batch.image))) <= 0.1 + 1e-6
  plain = objectives.standard(network, batch, KEY).loss
  assert (outcome.loss > plain).all()


def test_alignment_penalty_is_one_minus_the_cosine():
  network, batch = linear_network(), examples()
  plain = RECIPES["fgsm_rs"](network, batch, KEY)
  aligned = RECIPES["aligned"](network, batch, KEY)
  cosine = aligned.metrics["gradient_alignment"]
  np.testing.assert_allclose(
    aligned.loss - plain.loss, 0.5 * (1 - cosine), atol=1e-5
  )
  assert (cosine < 1).all()


def test_alignment_of_gradients_by_hand():
  # logits (x_1 x_2, 0): the gradient at label 0 points along (x_2, x_1).
  network = objectives.from_logits_fn(
    lambda x: jnp.stack([x[:, 0] * x[:, 1], jnp.zeros(len(x))], -1)
  )
  x = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
  other = jnp.array([[0.0, 2.0], [3.0, 3.0], [1.0, 1.0]])
  labels = jnp.zeros(3, jnp.int32)
  found = objectives.gradient_alignment(network, x, other, labels)
  np.testing.assert_allclose(found, [0.0, np.sqrt(0.5), 1.0], atol=1e-6)
  gradient = jax.grad(
    lambda x: jnp.sum(objectives.gradient_alignment(network, x, other, labels))
  )(x)
  assert np.isfinite(gradient).all()


@pytest.mark.parametrize("quantity", ["trace", "frobenius"])
def test_exact_fisher_penalty_is_that_of_the_linear_model(quantity):
  network, batch = linear_network(), examples()
  outcome = objectives.fisher_regularised(
    network,
    batch,
    KEY,
    coefficient=2.0,
    quantity=quantity,
    estimator="exact",
  )
  w = np.asarray(network.variables["params"], np.float64)
  penalty = []
  for p in softmax(network.evaluate(batch.image)):
    matrix = w @ (np.diag(p) - np.outer(p, p)) @ w.T
    penalty.append(
      np.trace(matrix) if quantity == "trace" else np.linalg.norm(matrix)
    )
  plain = objectives.standard(network, batch, KEY).loss
  np.testing.assert_allclose(
    outcome.loss - plain, 2 * np.array(penalty), rtol=1e-3
  )
  np.testing.assert_allclose(
    outcome.metrics[f"fisher_{quantity}"], penalty, rtol=1e-4
  )


@pytest.mark.parametrize("estimator", ["hutchinson", "label"])
def test_sampled_trace_is_unbiased_in_value_and_gradient(estimator):
  network, batch = linear_network(), examples()
  params = network.variables["params"] / 3

  def penalty(params, key, estimator):
    at = dataclasses.replace(network, variables={"params": params})
    outcome = objectives.fisher_regularised(at, batch, key, estimator=estimator)
    return jnp.mean(outcome.metrics["fisher_trace"])

  sample = jax.jit(
    jax.vmap(
      functools.partial(jax.value_and_grad(penalty), estimator=estimator),
      in_axes=(None, 0),
    )
  )
  drawn = sample(params, jax.random.split(KEY, 1000))
  exact = jax.value_and_grad(penalty)(params, KEY, "exact")
  for values, truth in zip(drawn, exact, strict=True):
    error = np.std(values, 0) / np.sqrt(1000)
    assert (np.abs(np.mean(values, 0) - truth) < 5 * error + 1e-6).all()
    # The test can fail: the error is small against the truth.
    assert np.median(error) < 0.2 * np.median(np.abs(truth))


def test_sampled_squared_frobenius_norm_is_unbiased():
  network, batch = linear_network(), examples()

  def norm(key):
    return objectives.fisher_regularised(
      network, batch, key, quantity="frobenius"
    ).metrics["fisher_frobenius"]

  # 1,000 at a time: some CPU compilers break larger fusions (jax#39103).
  keys = jax.random.split(KEY, (4, 1000))
  squares = np.concatenate([jax.jit(jax.vmap(norm))(k) for k in keys]) ** 2
  exact = fisher.fisher_frobenius(network.evaluate, batch.image) ** 2
  error = np.std(squares, 0) / np.sqrt(len(squares))
  assert (np.abs(np.mean(squares, 0) - exact) < 5 * error).all()
  assert (error < 0.05 * exact).all()


@pytest.mark.parametrize("estimator", ["exact", "hutchinson", "label"])
def test_vanishing_fisher_information_has_a_finite_gradient(estimator):
  network, batch = linear_network(), examples()
  params = jnp.zeros_like(network.variables["params"])
  quantity = "trace" if estimator == "label" else "frobenius"
  objective = functools.partial(
    objectives.fisher_regularised, estimator=estimator, quantity=quantity
  )
  gradient = jax.grad(total_loss)(params, network, objective, batch)
  assert np.isfinite(gradient).all()


# The draw of a label moves with the parameters: see the unbiasedness test.
@recipes("kl", "mart", "aligned", "trace", "exact", "frobenius")
def test_gradient_equals_finite_differences_with_the_attack_held_fixed(
  x64, monkeypatch, objective
):
  network, batch = linear_network(jnp.float64), examples(dtype=jnp.float64)
  params = network.variables["params"] / 2

  def fix(attack):
    found = []

    def fixed(logits_fn, x, *args, **kwargs):
      if not found:
        found.append(attack(logits_fn, x, *args, **kwargs))
      return found[0]

    return fixed

  for attack in ("pgd", "kl_pgd"):
    monkeypatch.setattr(attacks, attack, fix(getattr(attacks, attack)))
  # The first call, with concrete parameters, finds the points.
  loss = functools.partial(
    total_loss, network=network, objective=objective, batch=batch
  )
  loss(params)
  gradient = jax.grad(loss)(params)
  direction = jax.random.normal(jax.random.key(8), params.shape)
  h = 1e-5
  difference = (loss(params + h * direction) - loss(params - h * direction)) / (
    2 * h
  )
  np.testing.assert_allclose(
    jnp.sum(gradient * direction), difference, rtol=1e-6
  )


@recipes("kl", "kl from its start", "mart", "aligned", "trace")
def test_attack_leaves_statistics_to_the_loss_passes(objective):
  inputs, network, batch = [], batch_norm_network(), examples()
  outcome = objective(recording(network, inputs), batch, KEY)
  variables = network.variables
  for x in inputs:
    _, stats = network.train_fn(variables, x, batch.mask)
    variables = {**variables, "batch_stats": stats}
  jax.tree.map(np.testing.assert_array_equal, outcome.batch_stats, stats)


@recipes("kl", "mart", "aligned", "frobenius", "label")
def test_masked_rows_change_nothing(objective):
  batch = examples(np.arange(N) < 4)
  junk = dataclasses.replace(
    batch,
    image=batch.image.at[4:].set(0.9),
    label=batch.label.at[4:].set(0),
  )
  one, two = (objective(batch_norm_network(), b, KEY) for b in (batch, junk))
  close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
  close(one.loss[:4], two.loss[:4])
  jax.tree.map(close, one.batch_stats, two.batch_stats)
  for value in (two.loss, *two.metrics.values()):
    assert value.shape == (N,)
    assert np.isfinite(value).all()


def test_anchoring_at_the_start_is_another_attack():
  network, batch = linear_network(), examples()
  points = []
  for anchor in ("clean", "start"):
    inputs = []
    objectives.kl(
      recording(network, inputs),
      batch,
      KEY,
      **BALL,
      num_steps=3,
      step_size=0.25,
      anchor=anchor,
    )
    points.append(inputs[1])
  clean, start = (
    kl(softmax(network.evaluate(batch.image)), softmax(network.evaluate(x)))
    for x in points
  )
  assert clean.mean() > start.mean()


@pytest.mark.parametrize(
  ("kwargs", "message"),
  [
    ({"quantity": "rank"}, "Expected quantity to be one of"),
    ({"estimator": "guess"}, "Expected estimator to be one of"),
    ({"num_probes": 0}, "Expected num_probes >= 1"),
    ({"quantity": "frobenius", "estimator": "label"}, "got estimator='label'"),
  ],
)
def test_bad_fisher_settings_are_named(kwargs, message):
  with pytest.raises(ValueError, match=message):
    objectives.fisher_regularised(linear_network(), examples(), KEY, **kwargs)


def test_configuration_reaches_every_recipe():
  config = functools.partial(
    config_lib.ObjectiveConfig,
    epsilon=0.2,
    norm="l2",
    step_size=0.5,
    num_steps=2,
    epsilon_ramp=0.5,
    trades_coefficient=1.5,
    mart_coefficient=2.5,
    kl_coefficient=3.5,
    kl_step_size=0.75,
    kl_num_steps=2,
    kl_anchor="start",
    fgsm_step_size=0.9,
    fgsm_alignment=0.3,
    fisher_coefficient=0.7,
    fisher_quantity="frobenius",
    fisher_estimator="hutchinson",
    fisher_probes=2,
  )
  ball = {"epsilon": 0.2, "norm": "l2", "epsilon_ramp": 0.5}
  steps = {"step_size": 0.5, "num_steps": 2}
  expected = {
    "trades": functools.partial(
      objectives.trades, **ball, **steps, coefficient=1.5
    ),
    "mart": functools.partial(
      objectives.mart, **ball, **steps, coefficient=2.5
    ),
    "kl": functools.partial(
      objectives.kl,
      **ball,
      step_size=0.75,
      num_steps=2,
      coefficient=3.5,
      anchor="start",
    ),
    "fgsm_rs": functools.partial(
      objectives.fgsm_rs, **ball, step_size=0.9, alignment=0.3
    ),
    "fisher": functools.partial(
      objectives.fisher_regularised,
      coefficient=0.7,
      quantity="frobenius",
      num_probes=2,
    ),
  }
  elsewhere = {"standard", "pgd", "pair_lens", "epsilon_lens"}
  assert {*expected, *elsewhere} == {*config_lib.OBJECTIVES}
  for name, wanted in expected.items():
    found = objectives.create(config(name=name))
    assert found.func is wanted.func
    assert found.keywords.items() >= wanted.keywords.items()
