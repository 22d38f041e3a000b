"""TRADES, FIRE, MART, KL, single steps, and penalties on input gradients."""

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
  slope_and_difference,
  with_other_padding,
  with_params,
)

from robust_info import config as config_lib
from robust_info import objectives

KEY = jax.random.key(5)
BALL = {"epsilon": 0.1}
RECIPES = {
  "trades": functools.partial(objectives.trades, **BALL, num_steps=1),
  "kl": functools.partial(objectives.kl, **BALL),
  "kl from its start": functools.partial(objectives.kl, **BALL, anchor="start"),
  "mart": functools.partial(objectives.mart, **BALL, num_steps=1),
  "fgsm_rs": functools.partial(objectives.fgsm_rs, **BALL),
  "aligned": functools.partial(objectives.fgsm_rs, **BALL, alignment=0.5),
  "n_fgsm": functools.partial(objectives.n_fgsm, **BALL),
  "fire": functools.partial(objectives.fire, **BALL, num_steps=1),
  "l1": functools.partial(objectives.gradient_norm),
  "l2": functools.partial(objectives.gradient_norm, norm="l2"),
  "l1 difference": functools.partial(
    objectives.gradient_norm, estimator="finite_difference"
  ),
  "l2 difference": functools.partial(
    objectives.gradient_norm, estimator="finite_difference", norm="l2"
  ),
  "trace": functools.partial(objectives.fisher_regularised, num_probes=2),
  "exact": functools.partial(
    objectives.fisher_regularised, estimator="exact", quantity="frobenius"
  ),
  "exact trace": functools.partial(
    objectives.fisher_regularised, estimator="exact"
  ),
  "frobenius": functools.partial(
    objectives.fisher_regularised, quantity="frobenius"
  ),
  "label": functools.partial(objectives.fisher_regularised, estimator="label"),
}
# Settings that reduce each objective to the plain cross-entropy.
NEUTRAL = {
  "trades": {"coefficient": 0.0},
  "kl": {"coefficient": 0.0},
  "mart": {"epsilon": 0.0, "coefficient": 0.0, "margin": 0.0},
  "fgsm_rs": {"epsilon": 0.0},
  "n_fgsm": {"epsilon": 0.0},
  "fire": {"coefficient": 0.0},
  "l2": {"coefficient": 0.0},
  "trace": {"coefficient": 0.0},
}


def recipes(*names):
  return pytest.mark.parametrize("name", names)


def run(name, params=None, **changes):
  """Outcome, gradient of the summed loss, and inputs of the training mode.

  Numbers are arguments of the compiled program: one serves many settings.
  """
  objective = RECIPES[name]
  numbers = {**objective.func.__kwdefaults__, **objective.keywords, **changes}
  knobs = ("epsilon", "step_size", "coefficient", "margin")
  numbers = {k: numbers[k] for k in knobs if k in numbers}
  if params is None:
    params = linear_network().variables["params"]
  found = _run(params, numbers, name=name)
  return jax.tree.map(np.asarray, found)


@functools.partial(jax.jit, static_argnames="name")
def _run(params, numbers, *, name):
  def loss(params):
    inputs = []
    network = recording(with_params(linear_network(), params), inputs)
    outcome = RECIPES[name](network, examples(), KEY, **numbers)
    return jnp.sum(outcome.loss), (outcome, inputs)

  gradient, (outcome, inputs) = jax.grad(loss, has_aux=True)(params)
  return outcome, gradient, inputs


@functools.cache
def standard():
  """Losses of plain training, and the gradient of their sum."""

  @jax.jit
  def both(params):
    def loss(params):
      network = with_params(linear_network(), params)
      losses = objectives.standard(network, examples(), KEY).loss
      return jnp.sum(losses), losses

    return jax.grad(loss, has_aux=True)(params)

  gradient, losses = both(linear_network().variables["params"])
  return np.asarray(losses), np.asarray(gradient)


@functools.partial(jax.jit, static_argnames="name")
def normalised(batch, *, name):
  """Outcome with BatchNorm, and the statistics after the passes of its loss."""
  inputs, network = [], batch_norm_network()
  outcome = RECIPES[name](recording(network, inputs), batch, KEY)
  variables = network.variables
  for x in inputs:
    _, stats = network.train_fn(variables, x, batch.mask)
    variables = {**variables, "batch_stats": stats}
  return outcome, stats


def softmax(logits):
  p = np.exp(np.asarray(logits, np.float64))
  return p / p.sum(-1, keepdims=True)


def kl(p, q):
  return (p * np.log(p / q)).sum(-1)


@pytest.mark.parametrize("name", NEUTRAL)
def test_neutral_setting_is_standard_in_value_and_gradient(name):
  outcome, gradient, _ = run(name, **NEUTRAL[name])
  losses, expected = standard()
  close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
  close(outcome.loss, losses)
  close(gradient, expected)


def predictions(inputs):
  return [softmax(linear_network().evaluate(x)) for x in inputs]


def squared_distance(p, q):
  return 4 * np.arccos(np.sqrt(p * q).sum(-1)) ** 2


@pytest.mark.parametrize("name", ["trades", "kl", "fire"])
def test_divergence_recipes_equal_their_formula(name):
  outcome, _, inputs = run(name)
  x, x_adv = inputs
  batch = examples()
  np.testing.assert_array_equal(x, batch.image)
  assert np.max(np.abs(x_adv - x)) <= 0.1 + 1e-6
  p, q = predictions(inputs)
  coefficient = {"trades": 6.0, "kl": 3.0, "fire": 5.0}[name]
  divergence = squared_distance(p, q) if name == "fire" else kl(p, q)
  np.testing.assert_allclose(
    outcome.loss,
    -np.log(p[np.arange(N), batch.label]) + coefficient * divergence,
    rtol=1e-4,
  )
  assert (outcome.metrics["divergence"] > 0).all()


def test_fire_attacks_the_distance_that_it_penalises():
  # Without a step the attack stays at its random start.
  start, attacked = (
    run("fire", step_size=size)[0].metrics["divergence"] for size in (0.0, 1.0)
  )
  assert (attacked > start).all()


def cross_entropy_and_gradient(x):
  """Of the linear network, in float64: [N], and [N, D] in the input."""
  batch = examples()
  w = linear_network().variables["params"].astype(np.float64)
  p = softmax(np.asarray(x, np.float64).reshape(N, -1) @ w)
  residual = p - np.eye(p.shape[1])[batch.label]
  return -np.log(p[np.arange(N), batch.label]), residual @ w.T


def steepest(gradient, norm):
  if norm == "l1":
    return np.sign(gradient)
  return gradient / np.linalg.norm(gradient, axis=-1, keepdims=True)


@recipes("l1", "l2", "l1 difference", "l2 difference")
def test_gradient_penalty_equals_its_formula(name):
  norm, _, is_difference = name.partition(" ")
  outcome, _, (x,) = run(name)
  losses, gradient = cross_entropy_and_gradient(x)
  if is_difference:
    moved = x.reshape(N, -1) + 0.01 * steepest(gradient, norm)
    expected = (cross_entropy_and_gradient(moved)[0] - losses) / 0.01
    np.testing.assert_allclose(outcome.points.reshape(N, -1), moved, rtol=1e-6)
  else:
    expected = np.linalg.norm(gradient, ord=int(norm[1]), axis=-1)
  found = outcome.metrics["input_gradient_norm"]
  np.testing.assert_allclose(found, expected, rtol=1e-3)
  np.testing.assert_allclose(outcome.loss, losses + 0.1 * found, rtol=1e-5)


def test_noisy_step_is_one_of_size_epsilon_that_only_the_box_cuts():
  _, _, (x_adv,) = run("n_fgsm")
  image = np.asarray(examples().image)
  keys = jax.random.split(KEY, N)
  noise = jax.vmap(
    lambda key: jax.random.uniform(key, image.shape[1:], minval=-1, maxval=1)
  )(keys)
  noisy = np.clip(image + 0.2 * np.asarray(noise), 0, 1)
  _, gradient = cross_entropy_and_gradient(noisy)
  step = 0.1 * np.sign(gradient).reshape(image.shape)
  np.testing.assert_allclose(x_adv, np.clip(noisy + step, 0, 1), atol=1e-6)
  # Points outside the ball of the threat.
  assert (np.abs(x_adv - image) > 0.2).any()


def test_mart_equals_its_formula():
  outcome, _, inputs = run("mart")
  p, q = predictions(inputs)
  rows, label = np.arange(N), examples().label
  others = q.copy()
  others[rows, label] = 0
  expected = (
    -np.log(q[rows, label])
    - np.log(1 - others.max(-1))
    + 5.0 * (1 - p[rows, label]) * kl(p, q)
  )
  np.testing.assert_allclose(outcome.loss, expected, rtol=1e-4)


@jax.jit
def confident_mart(logits, label):
  """Loss and gradient of MART on one example with these logits."""
  batch = dataclasses.replace(
    examples(),
    image=np.full((1, 3, 3, 1), 0.5, np.float32),
    label=label,
    mask=np.ones(1, bool),
  )

  def loss(logits):
    network = dataclasses.replace(
      objectives.from_logits_fn(lambda x: logits + 0.0 * jnp.sum(x)),
      points=batch.image,
    )
    return objectives.mart(network, batch, KEY, epsilon=0.0).loss[0]

  return jax.value_and_grad(loss)(logits)


@pytest.mark.parametrize("label", [0, 1])
def test_mart_stays_finite_where_probabilities_round_to_one(label):
  logits = np.array([[200.0, 0.0, 0.0, 0.0]], np.float32)
  value, gradient = confident_mart(logits, np.array([label], np.int32))
  assert np.isfinite(value)
  assert np.isfinite(gradient).all()
  # Certain and wrong: 200 nats, and 200 more for the margin.
  np.testing.assert_allclose(value, {0: 0.0, 1: 400.0}[label], rtol=0.01)


def test_one_step_from_a_random_start_stays_in_the_ball_and_hurts():
  outcome, _, (x_adv,) = run("fgsm_rs")
  assert np.max(np.abs(x_adv - examples().image)) <= 0.1 + 1e-6
  assert (outcome.loss > standard()[0]).all()


def test_alignment_penalty_is_one_minus_the_cosine():
  plain, aligned = run("fgsm_rs")[0], run("aligned")[0]
  cosine = aligned.metrics["gradient_alignment"]
  np.testing.assert_allclose(
    aligned.loss - plain.loss, 0.5 * (1 - cosine), atol=1e-5
  )
  assert (cosine < 1).all()


@jax.jit
def gradient_and_cosines(scale, x, other):
  """Alignment at label 0, and its gradient, for logits (scale x_1 x_2, 0)."""
  network = objectives.from_logits_fn(
    lambda x: jnp.stack([scale * x[:, 0] * x[:, 1], jnp.zeros(len(x))], -1)
  )

  def total(x):
    labels = np.zeros(len(x), np.int32)
    found = objectives.gradient_alignment(network, x, other, labels)
    return jnp.sum(found), found

  return jax.grad(total, has_aux=True)(x)


@pytest.mark.parametrize("scale", [1.0, 1e-15])
def test_alignment_of_gradients_by_hand(scale):
  # The gradient at label 0 points along (x_2, x_1), however small it is.
  x = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 0.0]], np.float32)
  other = np.array([[0.0, 2.0], [3.0, 3.0], [1.0, 1.0]], np.float32)
  found = gradient_and_cosines(np.float32(scale), x, other)
  gradient, found = map(np.asarray, found)
  np.testing.assert_allclose(found, [0.0, np.sqrt(0.5), 1.0], atol=1e-6)
  assert np.isfinite(gradient).all()
  assert gradient[0].any()


@pytest.mark.parametrize("quantity", ["trace", "frobenius"])
def test_exact_fisher_penalty_is_that_of_the_linear_model(quantity):
  name = {"trace": "exact trace", "frobenius": "exact"}[quantity]
  outcome, _, _ = run(name, coefficient=2.0)
  network = linear_network()
  w = network.variables["params"].astype(np.float64)
  penalty = []
  for p in softmax(network.evaluate(examples().image)):
    matrix = w @ (np.diag(p) - np.outer(p, p)) @ w.T
    penalty.append(
      np.trace(matrix) if quantity == "trace" else np.linalg.norm(matrix)
    )
  np.testing.assert_allclose(
    outcome.loss - standard()[0], 2 * np.array(penalty), rtol=1e-3
  )
  np.testing.assert_allclose(
    outcome.metrics[f"fisher_{quantity}"], penalty, rtol=1e-4
  )


@functools.partial(jax.jit, static_argnames="estimator")
def penalty_and_gradient(params, keys, *, estimator):
  """Mean trace and its gradient, for each of the keys."""

  def penalty(params, key):
    outcome = objectives.fisher_regularised(
      with_params(linear_network(), params),
      examples(),
      key,
      estimator=estimator,
    )
    return jnp.mean(outcome.metrics["fisher_trace"])

  return jax.vmap(jax.value_and_grad(penalty), in_axes=(None, 0))(params, keys)


@pytest.mark.parametrize("estimator", ["hutchinson", "label"])
def test_sampled_trace_is_unbiased_in_value_and_gradient(estimator):
  params = linear_network().variables["params"] / 3
  keys = jax.random.split(KEY, 1000)
  drawn = penalty_and_gradient(params, keys, estimator=estimator)
  exact = penalty_and_gradient(params, keys[:1], estimator="exact")
  drawn, exact = jax.tree.map(np.asarray, (drawn, exact))
  for values, (truth,) in zip(drawn, exact, strict=True):
    error = np.std(values, 0) / np.sqrt(1000)
    assert (np.abs(np.mean(values, 0) - truth) < 5 * error + 1e-6).all()
    # The error is small against the truth, so the test can fail.
    assert np.median(error) < 0.2 * np.median(np.abs(truth))


def test_sampled_squared_frobenius_norm_is_unbiased():
  network, batch = linear_network(), examples()

  @jax.jit
  @jax.vmap
  def norms(key):
    return objectives.fisher_regularised(
      network, batch, key, quantity="frobenius"
    ).metrics["fisher_frobenius"]

  # 1,000 at a time: some CPU compilers break larger fusions (jax#39103).
  keys = jax.random.split(KEY, (4, 1000))
  squares = np.concatenate([norms(k) for k in keys]) ** 2
  exact = run("exact")[0].metrics["fisher_frobenius"] ** 2
  error = np.std(squares, 0) / np.sqrt(len(squares))
  assert (np.abs(np.mean(squares, 0) - exact) < 5 * error).all()
  assert (error < 0.05 * exact).all()


@recipes("exact", "frobenius", "label", "fire", "l1", "l2", "l2 difference")
def test_constant_prediction_has_a_finite_gradient(name):
  params = np.zeros_like(linear_network().variables["params"])
  _, gradient, _ = run(name, params)
  assert np.isfinite(gradient).all()


# Without `label`, whose draw moves with the parameters: see the unbiasedness
# test.
@recipes(
  *("kl", "mart", "aligned", "trace", "exact", "frobenius"),
  *("fire", "n_fgsm", "l1", "l2", "l2 difference"),
)
def test_gradient_equals_finite_differences_with_the_attack_held_fixed(
  x64, name
):
  slope, difference = slope_and_difference(RECIPES[name])
  np.testing.assert_allclose(slope, difference, rtol=1e-6)


# `kl` from the clean image makes the passes of `trades`: see
# test_batch_norm.py.
@recipes(
  *("kl from its start", "mart", "aligned", "frobenius", "label"),
  *("fire", "l2", "l2 difference"),
)
def test_attack_leaves_statistics_to_the_loss_passes(name):
  outcome, stats = normalised(examples(np.arange(N) < 4), name=name)
  jax.tree.map(np.testing.assert_array_equal, outcome.batch_stats, stats)


@recipes(
  *("kl from its start", "mart", "aligned", "frobenius", "label"),
  *("fire", "n_fgsm", "l2", "l2 difference"),
)
def test_masked_rows_change_nothing(name):
  batch = examples(np.arange(N) < 4)
  (one, _), (two, _) = (
    normalised(b, name=name) for b in (batch, with_other_padding(batch))
  )
  close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
  close(one.loss[:4], two.loss[:4])
  jax.tree.map(close, one.batch_stats, two.batch_stats)
  # The training step adds these.
  assert not {"loss", "gradient_norm"} & set(two.metrics)
  for value in (two.loss, *two.metrics.values()):
    assert value.shape == (N,)
    assert np.isfinite(value).all()


def passes(name):
  """Matrix products of one step, counted in the compiled program.

  A linear network makes one per pass: forward, backward to the input, backward
  to the parameters. The modes have their own weights, so that no two passes are
  one.
  """
  size, num_features, num_classes = 8, 512, 256
  batch = dataclasses.replace(
    examples(),
    image=np.full((size, num_features), 0.5, np.float32),
    label=np.zeros(size, np.int32),
    mask=np.ones(size, bool),
  )

  def loss(params):
    network = objectives.Network(
      {"params": params},
      lambda v, x: x @ v["params"][0],
      lambda v, x, where: (x @ v["params"][1], {}),
    )
    return jnp.sum(RECIPES[name](network, batch, KEY).loss)

  params = [np.ones((num_features, num_classes), np.float32)] * 2
  program = jax.jit(jax.grad(loss)).lower(params).compile()
  one = 2 * size * num_features * num_classes
  return program.cost_analysis()["flops"] / one


# Other compilers count other operations.
@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize(
  ("name", "count"),
  [
    # Attack: forward and backward. Loss: forward, and backward to the weights.
    ("fgsm_rs", 2 + 2),
    ("n_fgsm", 2 + 2),
    # The same with two passes of the loss; MART needs no clean prediction.
    ("mart", 2 + 4),
    ("trades", 3 + 4),
    ("fire", 3 + 4),
    # Loss; penalty: forward and backward, three backward passes through them.
    ("l1", 2 + 2 + 3),
    # Loss; penalty: forward, backward, forward; backward from both losses.
    ("l1 difference", 2 + 3 + 2),
  ],
)
def test_cost_is_the_documented_number_of_passes(name, count):
  # The rest is the work on logits and images.
  assert count <= passes(name) < count + 0.7


def test_anchoring_at_the_start_is_another_attack():
  network, batch = linear_network(), examples()

  @functools.partial(jax.jit, static_argnames="anchor")
  def attacked(image, *, anchor):
    at = dataclasses.replace(batch, image=image)
    return objectives.kl(
      network, at, KEY, **BALL, num_steps=3, step_size=0.25, anchor=anchor
    ).points

  clean, start = (
    kl(*predictions([batch.image, attacked(batch.image, anchor=anchor)]))
    for anchor in ("clean", "start")
  )
  assert clean.mean() > start.mean()


@pytest.mark.parametrize(
  ("kwargs", "message"),
  [
    ({"estimator": "guess"}, "Expected estimator to be one of 'exact'"),
    ({"norm": "l1"}, "Expected norm to be one of 'linf', 'l2', got 'l1'"),
  ],
)
def test_bad_settings_of_the_gradient_norm_are_named(kwargs, message):
  with pytest.raises(ValueError, match=message):
    objectives.gradient_norm(linear_network(), examples(), KEY, **kwargs)


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
    n_fgsm_noise=1.25,
    n_fgsm_step_size=0.8,
    fire_coefficient=4.5,
    gradient_coefficient=0.6,
    gradient_estimator="finite_difference",
    gradient_difference=0.02,
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
    "n_fgsm": functools.partial(
      objectives.n_fgsm, **ball, noise=1.25, step_size=0.8
    ),
    "fire": functools.partial(
      objectives.fire, **ball, **steps, coefficient=4.5
    ),
    "gradient_norm": functools.partial(
      objectives.gradient_norm,
      norm="l2",
      coefficient=0.6,
      estimator="finite_difference",
      difference=0.02,
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
