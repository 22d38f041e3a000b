"""The objectives made of the lenses, and attacks that are not run twice."""

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
  with_other_padding,
)

import robust_info as ri
from robust_info import config as config_lib
from robust_info import objectives
from robust_info.lenses import pairs

KEY = jax.random.key(5)
BALL = {"epsilon": 0.1, "num_steps": 1}
PAIR = objectives.pair_lens
PATH = functools.partial(PAIR, part="path")
BOUND = functools.partial(objectives.epsilon_lens, **BALL)
INFORMATION = functools.partial(BOUND, quantity="label_information")
CCKL = functools.partial(BOUND, quantity="cckl", attack="kl_pgd")
ALL = {
  "local": PAIR,
  "path": PATH,
  "variational_bound": BOUND,
  "label_information": INFORMATION,
  "cckl": CCKL,
}
# Arguments of the compiled programs below, so that one serves many settings.
KNOBS = {
  "local": {"non_robust": 1.0, "reward": 0.1},
  "cckl": {"epsilon": 0.1, "coefficient": 3.0},
}


def lenses(*names):
  return pytest.mark.parametrize("name", names)


def total_loss(params, network, objective, batch):
  network = dataclasses.replace(
    network, variables={**network.variables, "params": params}
  )
  return jnp.sum(objective(network, batch, KEY).loss)


@functools.partial(jax.jit, static_argnames="name")
def value_and_grad(params, knobs, mask=None, *, name):
  """Value and gradient of the summed loss of the linear network."""
  objective = functools.partial(ALL[name], **knobs)
  return jax.value_and_grad(total_loss)(
    params, linear_network(), objective, examples(mask)
  )


def standard_value_and_grad(mask=None):
  return _standard_value_and_grad(
    linear_network().variables["params"], examples(mask)
  )


@jax.jit
def _standard_value_and_grad(params, batch):
  return jax.value_and_grad(total_loss)(
    params, linear_network(), objectives.standard, batch
  )


@jax.jit
def standard_loss(batch):
  return objectives.standard(linear_network(), batch, KEY).loss


@functools.partial(jax.jit, static_argnames=("name", "network_fn"))
def outcome_of(batch, *, name, network_fn=linear_network, **knobs):
  return ALL[name](network_fn(), batch, KEY, **knobs)


@pytest.mark.parametrize(
  ("name", "neutral"),
  [
    ("local", {"non_robust": 0.0, "reward": 0.0}),
    ("path", {"non_robust": 0.0, "reward": 0.0}),
    ("variational_bound", {"epsilon": 0.1, "coefficient": 0.0}),
    ("variational_bound", {"epsilon": 0.0, "coefficient": 3.0}),
  ],
)
def test_neutral_setting_is_standard_in_value_and_gradient(name, neutral):
  params = linear_network().variables["params"]
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5),
    value_and_grad(params, neutral, np.ones(N, bool), name=name),
    standard_value_and_grad(),
  )


def test_pair_lens_equals_its_formula():
  network, batch = linear_network(), examples()
  outcome = outcome_of(
    batch, name="local", non_robust=2.0, reward=3.0, reward_scale=4.0
  )
  partner, _ = jax.jit(
    lambda label: pairs.sample_partners(jax.random.split(KEY)[0], label)
  )(batch.label)
  w = np.asarray(network.variables["params"], np.float64)
  x = np.asarray(batch.image, np.float64).reshape(N, -1)
  p = np.exp(x @ w)
  p /= p.sum(-1, keepdims=True)
  total = (p * np.log(p / p[partner])).sum(-1)
  speed = (x[partner] - x) @ w
  mean = (p * speed).sum(-1, keepdims=True)
  quadratic = (p * (speed - mean) ** 2).sum(-1) / 2
  np.testing.assert_allclose(
    outcome.loss,
    -np.log(p[np.arange(N), batch.label])
    + 2 * quadratic
    + 12 * np.exp(-total / 4),
    rtol=1e-4,
  )
  np.testing.assert_allclose(
    outcome.metrics["pair_non_robust"], quadratic, rtol=1e-4
  )
  np.testing.assert_allclose(
    outcome.metrics["pair_divergence"], total, rtol=1e-4
  )


def test_path_part_of_linear_logits_is_the_whole_divergence_on_average():
  network, batch = linear_network(), examples()

  @jax.jit
  @jax.vmap
  def difference(key):
    metrics = PATH(network, batch, key).metrics
    return metrics["pair_non_robust"] - metrics["pair_divergence"], metrics[
      "pair_divergence"
    ]

  gap, total = map(np.asarray, difference(jax.random.split(KEY, 1000)))
  error = np.std(gap) / np.sqrt(gap.size)
  assert abs(np.mean(gap)) < 5 * error
  assert error < 0.1 * np.mean(total)


def test_epsilon_lens_penalises_what_the_attack_takes():
  # The network predicts these labels, so there is information to remove.
  rng = np.random.default_rng(2)
  image = rng.uniform(size=examples().image.shape).astype(np.float32)
  label = np.argmax(linear_network().evaluate(image), axis=-1)
  batch = dataclasses.replace(
    examples(), image=image, label=label.astype(np.int32)
  )
  outcome = outcome_of(
    batch, name="label_information", epsilon=0.3, coefficient=2.0
  )
  value = jax.jit(ri.label_information)
  whole, left = (
    np.asarray(value(linear_network().evaluate(x), batch.label))
    for x in (batch.image, np.asarray(outcome.points))
  )
  assert whole > left
  np.testing.assert_allclose(
    outcome.loss - standard_loss(batch),
    np.full(N, 2 * (whole - left)),
    rtol=1e-3,
  )
  np.testing.assert_allclose(
    outcome.metrics["lost_label_information"],
    np.full(N, whole - left),
    rtol=1e-3,
  )


def test_variational_bound_at_coefficient_one_has_the_mean_loss_of_pgd():
  knobs = {"epsilon": 0.1, "coefficient": 1.0}
  params = linear_network().variables["params"]
  found, _ = value_and_grad(
    params, knobs, np.ones(N, bool), name="variational_bound"
  )
  pgd = jax.jit(lambda b: objectives.pgd(linear_network(), b, KEY, **BALL))
  np.testing.assert_allclose(found, jnp.sum(pgd(examples()).loss), rtol=1e-5)


def test_information_that_an_attack_adds_is_not_rewarded():
  network, batch = linear_network(), examples()
  better = np.asarray(batch.image) + np.float32(0.3) * np.reshape(
    network.variables["params"].T[batch.label], batch.image.shape
  )

  @jax.jit
  def outcome_at(points):
    helped = dataclasses.replace(linear_network(), points=points)
    return BOUND(helped, batch, KEY, coefficient=2.0)

  outcome = outcome_at(better)
  assert (outcome.metrics["lost_variational_bound"] < 0).all()
  np.testing.assert_allclose(outcome.loss, standard_loss(batch), rtol=1e-6)


@lenses("local", "path", "label_information")
def test_gradient_equals_finite_differences_with_constants_held_fixed(
  x64, name
):
  network, batch = linear_network(jnp.float64), examples(dtype=jnp.float64)
  # The objective takes these points instead of attacking; they carry less
  # information than the images. The pairs do not read them.
  network = dataclasses.replace(network, points=0.4 + batch.image / 5)
  loss = functools.partial(
    total_loss, network=network, objective=ALL[name], batch=batch
  )

  def varied(params):
    """The loss with the information at the clean images held fixed."""
    if name != "label_information":
      return loss(params)
    at = dataclasses.replace(network, variables={"params": params})
    plain = jnp.sum(objectives.standard(at, batch, KEY).loss)
    left = ri.label_information(at.evaluate(at.points), batch.label)
    return plain - 3 * N * left

  params = network.variables["params"] / 2
  direction = np.random.default_rng(8).normal(size=params.shape)
  h = 1e-5

  @jax.jit
  def slopes(params):
    ends = params[None] + h * np.stack([direction, -direction])
    up, down = jax.vmap(varied)(ends)
    return (up - down) / (2 * h), jnp.sum(jax.grad(loss)(params) * direction)

  difference, slope = slopes(params)
  assert abs(slope) > 1e-3
  np.testing.assert_allclose(slope, difference, rtol=1e-6)


@lenses("local", "cckl")
def test_batch_of_one_label_is_standard_with_a_finite_gradient(name):
  # All other labels belong to padding.
  mask = np.asarray(examples().label == 0)
  params = linear_network().variables["params"]
  value, gradient = value_and_grad(params, KNOBS[name], mask, name=name)
  np.testing.assert_allclose(value, standard_value_and_grad()[0], rtol=1e-5)
  assert np.isfinite(gradient).all()


@lenses("local", "label_information")
def test_masked_rows_change_nothing(name):
  batch = examples(np.arange(N) < 4)
  one, two = (
    outcome_of(b, name=name, network_fn=batch_norm_network)
    for b in (batch, with_other_padding(batch, label=3))
  )
  close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
  close(one.loss[:4], two.loss[:4])
  jax.tree.map(close, one.batch_stats, two.batch_stats)
  for value in (two.loss, *two.metrics.values()):
    assert value.shape == (N,)
    assert np.isfinite(value).all()


@pytest.mark.parametrize("scale", [0.0, 1e4])
@lenses("local", "path")
def test_reward_is_bounded_however_large_the_logits(name, scale):
  params = np.float32(scale) * linear_network().variables["params"]
  knobs = {"non_robust": 1.0, "reward": 10.0}
  value, gradient = value_and_grad(params, knobs, np.ones(N, bool), name=name)
  assert 0 <= value < np.inf
  assert np.isfinite(gradient).all()


@pytest.mark.parametrize(
  "objective",
  [
    functools.partial(objectives.pgd, **BALL),
    functools.partial(objectives.mart, **BALL),
    functools.partial(objectives.trades, **BALL),
    functools.partial(objectives.fire, **BALL),
  ],
  ids=["pgd", "mart", "trades", "fire"],
)
def test_points_given_back_stand_in_for_the_attack(objective):
  network, batch = linear_network(), examples()

  def attacked(variables, x):
    raise AssertionError("attacked again")

  first = jax.jit(lambda batch: objective(network, batch, KEY))(batch)
  assert (first.points != batch.image).any()
  again = dataclasses.replace(
    network, points=first.points, evaluate_fn=attacked
  )
  second = jax.jit(lambda batch: objective(again, batch, KEY))(batch)
  np.testing.assert_allclose(first.loss, second.loss, rtol=1e-6)
  np.testing.assert_array_equal(first.points, second.points)


@pytest.mark.parametrize(
  ("objective", "message"),
  [
    (functools.partial(PAIR, part="global"), "Expected part to be one of"),
    (
      functools.partial(INFORMATION, quantity="entropy"),
      "Expected quantity to be one of",
    ),
    (
      functools.partial(INFORMATION, attack="fab"),
      "Expected attack to be one of",
    ),
  ],
)
def test_bad_settings_are_named(objective, message):
  with pytest.raises(ValueError, match=message):
    objective(linear_network(), examples(), KEY)


def test_configuration_reaches_both():
  config = functools.partial(
    config_lib.ObjectiveConfig,
    epsilon=0.2,
    norm="l2",
    num_steps=2,
    epsilon_ramp=0.5,
    label_smoothing=0.1,
    pair_non_robust=0.7,
    pair_part="path",
    pair_reward=0.4,
    pair_reward_scale=3.0,
    lens_coefficient=1.5,
    lens_quantity="cckl",
    lens_attack="kl_pgd",
  )
  expected = {
    "pair_lens": (
      PAIR,
      {
        "label_smoothing": 0.1,
        "non_robust": 0.7,
        "part": "path",
        "reward": 0.4,
        "reward_scale": 3.0,
      },
    ),
    "epsilon_lens": (
      objectives.epsilon_lens,
      {
        "label_smoothing": 0.1,
        "epsilon": 0.2,
        "norm": "l2",
        "epsilon_ramp": 0.5,
        "step_size": 0.25,
        "num_steps": 2,
        "coefficient": 1.5,
        "quantity": "cckl",
        "attack": "kl_pgd",
      },
    ),
  }
  for name, (function, keywords) in expected.items():
    found = objectives.create(config(name=name))
    assert found.func is function
    assert found.keywords == keywords
