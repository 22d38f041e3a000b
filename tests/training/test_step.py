import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from robust_info import config as config_lib
from robust_info import data, models, objectives
from robust_info.training import optimizers
from robust_info.training import step as train_step

pytestmark = pytest.mark.usefixtures("one_device")

SHAPE = (4, 4, 1)
PGD = functools.partial(objectives.pgd, epsilon=0.1, num_steps=2)
SGD, ADAM = optax.sgd(0.5), optax.adam(0.1)


@functools.cache
def model():
  return models.create("mlp", num_classes=3, hidden_sizes=(5,))


@functools.cache
def first_state(optimizer, seed):
  return train_step.create_state(
    model(), optimizer, seed=seed, image_shape=SHAPE
  )


@jax.jit
def copy_of(state):
  return jax.tree.map(jnp.copy, state)


def fresh_state(optimizer, seed=0):
  """A copy, because steps donate the memory of their state."""
  return copy_of(first_state(optimizer, seed))


def batch_of(size=6, valid=6, seed=0):
  rng = np.random.default_rng(seed)
  return data.Batch(
    image=rng.integers(0, 256, (size, *SHAPE), dtype=np.uint8),
    label=rng.integers(0, 3, size).astype(np.int32),
    mask=np.arange(size) < valid,
  )


@functools.cache
def make_step(optimizer, objective=objectives.standard, num_steps=10):
  return train_step.make_train_step(
    model(), optimizer, objective, num_steps=num_steps
  )


def test_step_is_gradient_descent_on_the_masked_mean():
  optimizer = SGD
  batch = batch_of(valid=4)

  def loss(params):
    logits = models.apply_fn(model())(
      {"params": params}, batch.image[:4] / np.float32(255)
    )
    log_p = jax.nn.log_softmax(logits)
    return -jnp.mean(log_p[np.arange(4), batch.label[:4]])

  state = fresh_state(optimizer)
  value, gradient = jax.tree.map(
    np.asarray, jax.jit(jax.value_and_grad(loss))(state.params)
  )
  expected = jax.tree.map(
    lambda p, g: np.asarray(p) - 0.5 * g, state.params, gradient
  )
  state, metrics = make_step(optimizer)(state, batch)
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6),
    state.params,
    expected,
  )
  assert int(state.step) == 1
  values = metrics.read()
  assert values["count"] == 4
  assert values["finite"] == 1
  np.testing.assert_allclose(values["loss"], 4 * value, rtol=1e-5)
  squares = sum(np.sum(g**2) for g in jax.tree.leaves(gradient))
  np.testing.assert_allclose(
    values["gradient_norm"], 4 * np.sqrt(squares), rtol=1e-4
  )


def test_padding_changes_nothing():
  optimizer = ADAM
  step = make_step(optimizer, PGD)
  clean = batch_of(valid=4)
  image = clean.image.copy()
  image[4:] = 255
  junk = dataclasses.replace(clean, image=image)
  one, _ = step(fresh_state(optimizer), clean)
  two, _ = step(fresh_state(optimizer), junk)
  jax.tree.map(np.testing.assert_array_equal, one.params, two.params)


def test_one_compilation_serves_every_step():
  traces = []

  def counted(*args, **kwargs):
    traces.append(1)
    return PGD(*args, **kwargs)

  optimizer = optimizers.create(config_lib.TrainConfig(), 10)
  step = make_step(optimizer, counted)
  state = fresh_state(optimizer)
  for number in range(6):
    state, _ = step(state, batch_of(valid=6 - number % 2, seed=number))
  assert len(traces) == 1
  assert step._cache_size() == 1


def test_given_state_is_donated():
  optimizer = SGD
  state = fresh_state(optimizer)
  make_step(optimizer)(state, batch_of())
  assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.params))


def test_randomness_is_a_function_of_key_and_step():
  seen = []

  def spy(network, batch, key, *, progress):
    jax.debug.callback(
      lambda *values: seen.append(tuple(map(np.asarray, values))),
      jax.random.key_data(key),
      progress,
    )
    return objectives.standard(network, batch, key, progress=progress)

  optimizer = SGD
  step = make_step(optimizer, spy, num_steps=4)
  state = fresh_state(optimizer)
  run_key = state.key
  expected = [
    jax.random.key_data(jax.random.fold_in(run_key, k)) for k in range(3)
  ]
  for _ in range(3):
    state, _ = step(state, batch_of())
  jax.effects_barrier()
  assert [float(progress) for _, progress in seen] == [0.0, 0.25, 0.5]
  for (key, _), wanted in zip(seen, expected, strict=True):
    np.testing.assert_array_equal(key, wanted)


def test_same_seed_same_bits():
  optimizer = ADAM
  step = make_step(optimizer, PGD)
  runs = []
  for _ in range(2):
    state = fresh_state(optimizer, seed=7)
    for number in range(3):
      state, _ = step(state, batch_of(seed=number))
    runs.append(state.params)
  jax.tree.map(np.testing.assert_array_equal, *runs)


def broken(network, batch, key, *, progress):
  """A loss that is NaN in the first step and infinite later."""
  outcome = objectives.standard(network, batch, key, progress=progress)
  bad = jnp.where(progress > 0, np.inf, np.nan)
  return dataclasses.replace(outcome, loss=outcome.loss * bad)


@pytest.mark.parametrize(("step", "bad"), [(0, np.nan), (1, np.inf)])
def test_numbers_that_are_not_finite_are_reported(step, bad):
  state = fresh_state(SGD)
  state = dataclasses.replace(state, step=jnp.asarray(step, jnp.int32))
  _, metrics = make_step(SGD, broken)(state, batch_of())
  np.testing.assert_equal(float(metrics.read()["loss"]), bad)
  assert metrics.read()["finite"] == 0


def test_overflowing_update_is_reported_though_the_loss_is_finite():
  optimizer = optax.sgd(float("inf"))
  _, metrics = make_step(optimizer)(fresh_state(optimizer), batch_of())
  assert np.isfinite(metrics.read()["loss"])
  assert metrics.read()["finite"] == 0


@pytest.mark.parametrize(
  "optimizer", [{"optimizer": "sgd", "momentum": 0.0}, {"optimizer": "adamw"}]
)
def test_weight_decay_touches_kernels_only(optimizer):
  config = config_lib.TrainConfig(
    weight_decay=0.1, learning_rate=0.5, schedule="constant", **optimizer
  )
  params = {"kernel": np.ones((2, 3), "f"), "bias": np.ones(3, "f")}
  transform = optimizers.create(config, 10)
  zeros = jax.tree.map(np.zeros_like, params)
  updates, _ = jax.jit(
    lambda params: transform.update(zeros, transform.init(params), params)
  )(params)
  np.testing.assert_allclose(updates["kernel"], -0.05, rtol=1e-6)
  np.testing.assert_array_equal(updates["bias"], 0.0)


def schedule(num_steps=100, **fields):
  config = config_lib.TrainConfig(learning_rate=2.0, **fields)
  rate = jax.jit(jax.vmap(optimizers.learning_rate(config, num_steps)))
  return lambda steps: np.asarray(rate(np.asarray(steps, np.int32)))


def test_schedules_have_their_closed_forms():
  steps = np.array([0, 25, 50, 75, 99, 100])
  np.testing.assert_allclose(schedule(schedule="constant")(steps), 2.0)
  np.testing.assert_allclose(
    schedule(schedule="cosine")(steps),
    1 + np.cos(np.pi * steps / 100),
    atol=1e-6,
  )
  np.testing.assert_allclose(
    schedule(schedule="piecewise", decay_at=(0.5, 0.75))(steps),
    [2, 2, 0.2, 0.02, 0.02, 0.02],
    rtol=1e-5,
  )
  np.testing.assert_allclose(
    schedule(schedule="cyclic", cycle_peak=0.4)(steps),
    np.interp(steps, [0, 40, 100], [0, 2, 0]),
    atol=1e-6,
  )


@pytest.mark.parametrize("kind", ["constant", "cosine", "piecewise"])
def test_warmup_rises_linearly_to_the_peak(kind):
  rate = schedule(schedule=kind, warmup=0.1)
  np.testing.assert_allclose(rate([0, 5, 10]), [0.0, 1.0, 2.0], rtol=1e-6)


def test_decays_falling_on_one_step_multiply():
  rate = schedule(num_steps=2, schedule="piecewise", decay_at=(0.5, 0.6))
  np.testing.assert_allclose(rate([1]), 0.02, rtol=1e-6)


def test_momentum_and_nesterov_reach_the_optimiser():
  params = {"kernel": np.zeros((1, 1), "f")}
  gradient = {"kernel": np.ones((1, 1), "f")}
  sizes = []
  for nesterov in (False, True):
    config = config_lib.TrainConfig(
      optimizer="sgd",
      momentum=0.9,
      nesterov=nesterov,
      learning_rate=1.0,
      schedule="constant",
    )
    transform = optimizers.create(config, 10)
    update = jax.jit(transform.update)
    state = transform.init(params)
    for _ in range(2):
      updates, state = update(gradient, state, params)
    sizes.append(-float(updates["kernel"][0, 0]))
  # Heavy ball: 0.9*1 + 1; Nesterov: 0.9*(0.9*1 + 1) + 1.
  np.testing.assert_allclose(sizes, [1.9, 2.71], rtol=1e-6)
