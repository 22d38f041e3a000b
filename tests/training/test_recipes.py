"""Combinations with any objective: AWP, moving averages, augmentation."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from robust_info import config as config_lib
from robust_info import data, models, objectives
from robust_info.training import state as train_state_lib
from robust_info.training import step as train_step
from robust_info.training import weight_perturbation

pytestmark = pytest.mark.usefixtures("one_device")

SHAPE = (4, 4, 1)
OPTIMIZER = optax.sgd(0.5)
PGD = functools.partial(objectives.pgd, epsilon=0.1, num_steps=1)


@functools.cache
def model():
  return models.create("mlp", num_classes=3, hidden_sizes=(5,))


@functools.cache
def first_state(averaged):
  return train_step.create_state(
    model(), OPTIMIZER, seed=0, image_shape=SHAPE, averaged=averaged
  )


@jax.jit
def copy_of(state):
  return jax.tree.map(jnp.copy, state)


def fresh_state(averaged=False):
  """A copy, because steps donate the memory of their state."""
  return copy_of(first_state(averaged))


@functools.cache
def make_step(objective=objectives.standard, **kwargs):
  return train_step.make_train_step(
    model(), OPTIMIZER, objective, num_steps=10, **kwargs
  )


def batch_of(seed=0):
  rng = np.random.default_rng(seed)
  return data.Batch(
    image=rng.integers(0, 256, (6, *SHAPE), dtype=np.uint8),
    label=rng.integers(0, 3, 6).astype(np.int32),
    mask=np.arange(6) < 5,
  )


def assert_close(one, two):
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6),
    one,
    two,
  )


def test_perturbation_is_relative_to_each_kernel_and_leaves_biases():
  rng = np.random.default_rng(0)
  shapes = {
    "kernel": (3, 3, 2, 4),
    "dense": (5, 2),
    "bias": (4,),
    "dead": (2, 2),
  }
  params = {k: rng.normal(size=s).astype(np.float32) for k, s in shapes.items()}
  gradient = {
    k: rng.normal(size=s).astype(np.float32) for k, s in shapes.items()
  }
  gradient["dead"] *= 0
  perturb = jax.jit(functools.partial(weight_perturbation.perturb, gamma=0.01))
  moved = perturb(params, gradient)
  for name in ("kernel", "dense"):
    w, g, v = params[name], gradient[name], moved[name] - params[name]
    np.testing.assert_allclose(
      np.linalg.norm(v), 0.01 * np.linalg.norm(w), rtol=1e-3
    )
    # Uphill, and along the gradient.
    cosine = np.sum(v * g) / np.linalg.norm(v) / np.linalg.norm(g)
    np.testing.assert_allclose(cosine, 1.0, rtol=1e-4)
  for name in ("bias", "dead"):
    np.testing.assert_array_equal(moved[name], params[name])


def test_awp_descends_the_gradient_at_the_perturbed_weights():
  batch, state = batch_of(), fresh_state()
  rows = np.flatnonzero(batch.mask)

  def gradient(params):
    def loss(params):
      logits = models.apply_fn(model())(
        {"params": params}, batch.image[rows] / np.float32(255)
      )
      return jnp.mean(objectives.cross_entropy(logits, batch.label[rows]))

    return jax.grad(loss)(params)

  @jax.jit
  def steps(params):
    """Steps by the gradient at the perturbed weights, and at the weights."""
    plain = gradient(params)
    moved = weight_perturbation.perturb(params, plain, gamma=0.3)
    return [
      jax.tree.map(lambda w, g: w - 0.5 * g, params, slope)
      for slope in (gradient(moved), plain)
    ]

  expected, plain = steps(state.params)
  after, metrics = make_step(awp_gamma=0.3)(state, batch)
  assert_close(after.params, expected)
  assert not np.allclose(
    jax.tree.leaves(plain)[1], jax.tree.leaves(expected)[1]
  )
  # The reported loss is that of the unperturbed weights.
  _, without = make_step()(fresh_state(), batch)
  np.testing.assert_allclose(
    metrics.read()["loss"], without.read()["loss"], rtol=1e-5
  )


def test_awp_attacks_once_a_step():
  points = []

  def spy(network, batch, key, *, progress):
    points.append(network.points)
    return PGD(network, batch, key, progress=progress)

  make_step(spy, awp_gamma=0.01)(fresh_state(), batch_of())
  assert points[0] is None
  assert points[1] is not None
  assert len(points) == 2


def test_awp_waits_for_its_warm_up():
  passes = []

  def counted(network, batch, key, *, progress):
    jax.debug.callback(lambda: passes.append(None))
    return objectives.standard(network, batch, key, progress=progress)

  step = make_step(counted, awp_gamma=0.3, awp_warmup=0.1)
  with_awp, without = fresh_state(), fresh_state()
  for number in range(2):
    with_awp, _ = step(with_awp, batch_of(number))
    without, _ = make_step()(without, batch_of(number))
    gap = jnp.abs(
      jax.tree.leaves(with_awp.params)[1] - jax.tree.leaves(without.params)[1]
    ).max()
    # Of ten steps the first one is warm-up.
    assert (gap < 1e-6) == (number == 0)
    jax.effects_barrier()
    assert len(passes) == (1 if number == 0 else 3)


def test_average_is_exponential_with_a_decay_that_starts_low():
  state = fresh_state(averaged=True)
  average = jax.tree.map(np.array, state.params)
  step = make_step(ema_decay=0.2)
  for number in range(4):
    state, _ = step(state, batch_of(number))
    # (1 + k) / (10 + k) exceeds 0.2 at the third step.
    decay = min(0.2, (1 + number) / (10 + number))
    average = jax.tree.map(
      lambda a, w, d=decay: d * a + (1 - d) * np.asarray(w),
      average,
      state.params,
    )
    assert_close(state.average["params"], average)
  assert_close(state.evaluated, {"params": average})


def test_average_covers_batch_statistics():
  state = train_state_lib.create(
    {"params": {"w": jnp.zeros(2)}, "batch_stats": {"mean": jnp.zeros(3)}},
    OPTIMIZER,
    jax.random.key(0),
    averaged=True,
  )
  new = {"params": {"w": jnp.ones(2)}, "batch_stats": {"mean": jnp.ones(3)}}
  average = train_state_lib.updated_average(state, new, decay=0.9)
  np.testing.assert_allclose(average["batch_stats"]["mean"], 0.9, rtol=1e-6)
  np.testing.assert_allclose(average["params"]["w"], 0.9, rtol=1e-6)


def test_without_an_average_the_variables_are_evaluated():
  state = fresh_state()
  assert state.average == {}
  assert state.evaluated["params"] is state.params


def test_each_rollback_halves_the_step():
  states = []
  for rollbacks in (0, 2):
    state = dataclasses.replace(
      fresh_state(), rollbacks=jnp.asarray(rollbacks, jnp.int32)
    )
    before = jax.tree.map(np.array, state.params)
    after, _ = make_step()(state, batch_of())
    states.append(
      jax.tree.map(lambda a, b: np.asarray(a) - b, after.params, before)
    )
  assert_close(jax.tree.map(lambda full: full / 4, states[0]), states[1])


def crops(image, padding):
  """All possible results of cropping and flipping."""
  height, width, _ = image.shape
  padded = np.pad(image, ((padding,) * 2, (padding,) * 2, (0, 0)))
  for top in range(2 * padding + 1):
    for left in range(2 * padding + 1):
      crop = padded[top : top + height, left : left + width]
      yield crop.tobytes()
      yield crop[:, ::-1].tobytes()


@pytest.mark.parametrize("padding", [0, 1])
def test_crop_flip_draws_uniformly_from_the_crops_of_the_padded_image(padding):
  image = np.arange(1, 25, dtype=np.uint8).reshape(4, 3, 2)
  possible = list(crops(image, padding))
  draws = 200 * len(possible)
  images = np.broadcast_to(image, (draws, *image.shape))
  found = jax.jit(functools.partial(data.crop_flip, padding=padding))(
    images, jax.random.key(0)
  )
  assert found.dtype == np.uint8
  assert found.shape == images.shape
  counts = dict.fromkeys(possible, 0)
  for row in np.asarray(found):
    counts[row.tobytes()] += 1
  chi_square = sum((n - 200) ** 2 / 200 for n in counts.values())
  degrees = len(possible) - 1
  assert abs(chi_square - degrees) < 5 * np.sqrt(2 * degrees)


def test_augmentation_is_new_each_step_and_leaves_labels_and_masks():
  seen = []

  def spy(images, key):
    jax.debug.callback(
      lambda k, x: seen.append((k.tolist(), x)),
      jax.random.key_data(key),
      images,
    )
    return 255 - images

  step, batch = make_step(augment=spy), batch_of()
  state, metrics = step(fresh_state(), batch)
  params = jax.tree.map(np.array, state.params)
  step(state, batch)
  jax.effects_barrier()
  assert seen[0][0] != seen[1][0]
  assert seen[0][1].dtype == np.uint8
  np.testing.assert_array_equal(seen[0][1], batch.image)
  inverted = dataclasses.replace(batch, image=255 - batch.image)
  expected, _ = make_step()(fresh_state(), inverted)
  assert_close(params, expected.params)
  assert metrics.read()["count"] == 5


@pytest.mark.parametrize(
  ("images", "padding", "error", "message"),
  [
    (np.zeros((2, 4, 4)), 1, ValueError, r"\[N, H, W, channels\]"),
    (np.zeros((2, 4, 4, 1)), -1, ValueError, "Expected padding in"),
    (np.zeros((2, 4, 4, 1)), 0.5, TypeError, "Expected padding to be an int"),
  ],
)
def test_bad_augmentation_is_named(images, padding, error, message):
  with pytest.raises(error, match=message):
    data.crop_flip(images, jax.random.key(0), padding=padding)


def test_cyclic_schedule_with_warm_up_is_refused():
  given = config_lib.defaults()
  given.train.schedule, given.train.warmup = "cyclic", 0.1
  with pytest.raises(ValueError, match=r"no config.train.warmup .* got 0.1"):
    config_lib.from_config_dict(given)
