"""Batches: every example once per epoch, pure in (seed, step), one shape."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robust_info import data

SIZES = [(10, 4), (12, 4), (1, 1), (3, 7), (97, 16), (5, 5)]


def make_split(num_examples, shape=(2, 3, 1)):
  """Example i has label i, and an image that encodes i."""
  rows = np.arange(num_examples)
  images = np.broadcast_to(
    rows[:, None, None, None], (num_examples, *shape)
  ).astype(np.uint8)
  return data.Split(images, rows.astype(np.int32))


def epoch_batches(split, *, seed, epoch, batch_size):
  steps = data.steps_per_epoch(len(split), batch_size)
  return [
    data.train_batch(
      split, seed=seed, step=epoch * steps + i, batch_size=batch_size
    )
    for i in range(steps)
  ]


@pytest.mark.parametrize("compile", [lambda f: f, jax.jit])
def test_to_float_is_division_by_255(compile):
  images = np.arange(256, dtype=np.uint8).reshape(4, 8, 8, 1)
  floats = np.asarray(compile(data.to_float)(images))
  assert floats.dtype == np.float32
  # NumPy divides in float32 with correct rounding.
  np.testing.assert_array_equal(floats, images / np.float32(255))


@pytest.mark.parametrize("dtype", [np.float32, np.int32, bool])
def test_to_float_refuses_what_is_not_bytes(dtype):
  with pytest.raises(TypeError, match="Expected uint8 images"):
    data.to_float(np.zeros((1, 2, 2, 1), dtype))


@pytest.mark.parametrize("num_examples", [1, 2, 1000])
def test_epoch_permutation_is_a_permutation(num_examples):
  order = data.epoch_permutation(3, 5, num_examples)
  np.testing.assert_array_equal(np.sort(order), np.arange(num_examples))


def test_epoch_permutation_depends_on_nothing_but_its_arguments():
  first = data.epoch_permutation(0, 7, 50).copy()
  np.random.default_rng(1).permutation(3)
  for epoch in range(20):  # More than a cache of earlier calls holds.
    data.epoch_permutation(0, epoch, 50)
  np.testing.assert_array_equal(first, data.epoch_permutation(0, 7, 50))


def test_epoch_permutation_differs_between_epochs_and_seeds():
  orders = [
    tuple(data.epoch_permutation(seed, epoch, 50))
    for seed in range(5)
    for epoch in range(5)
  ]
  assert len(set(orders)) == 25


def test_epoch_permutation_is_uniform():
  # Each of 5 examples comes first in about a fifth of 2,000 epochs; five
  # standard deviations of the binomial.
  first = [data.epoch_permutation(0, epoch, 5)[0] for epoch in range(2000)]
  counts = np.bincount(first, minlength=5)
  assert np.all(np.abs(counts - 400) < 5 * np.sqrt(2000 * 0.2 * 0.8))


def test_epoch_permutation_cannot_be_overwritten():
  with pytest.raises(ValueError, match="read-only"):
    data.epoch_permutation(0, 0, 10)[0] = 1


@pytest.mark.parametrize(("num_examples", "batch_size"), SIZES)
def test_steps_per_epoch_rounds_up(num_examples, batch_size):
  steps = data.steps_per_epoch(num_examples, batch_size)
  assert (steps - 1) * batch_size < num_examples <= steps * batch_size


@pytest.mark.parametrize("epoch", [0, 3])
@pytest.mark.parametrize(("num_examples", "batch_size"), SIZES)
def test_every_example_is_seen_exactly_once_an_epoch(
  num_examples, batch_size, epoch
):
  split = make_split(num_examples)
  seen = np.concatenate(
    [
      batch.label[batch.mask]
      for batch in epoch_batches(
        split, seed=1, epoch=epoch, batch_size=batch_size
      )
    ]
  )
  np.testing.assert_array_equal(np.sort(seen), np.arange(num_examples))
  np.testing.assert_array_equal(
    seen, data.epoch_permutation(1, epoch, num_examples)
  )


@pytest.mark.parametrize(("num_examples", "batch_size"), SIZES)
def test_all_batches_have_one_shape_and_only_the_last_is_padded(
  num_examples, batch_size
):
  split = make_split(num_examples)
  for batches in (
    epoch_batches(split, seed=0, epoch=0, batch_size=batch_size),
    list(data.eval_batches(split, batch_size=batch_size)),
  ):
    for batch in batches:
      assert batch.image.shape == (batch_size, 2, 3, 1)
      assert batch.image.dtype == np.uint8
      assert batch.label.shape == batch.mask.shape == (batch_size,)
      assert batch.label.dtype == np.int32
      assert batch.mask.dtype == bool
    assert all(batch.mask.all() for batch in batches[:-1])
    assert batches[-1].mask.sum() == (num_examples - 1) % batch_size + 1


def test_images_travel_with_their_labels():
  split = make_split(30)
  for batch in epoch_batches(split, seed=0, epoch=2, batch_size=8):
    for image, label in zip(batch.image, batch.label, strict=True):
      assert np.all(image == label)


def test_train_batch_is_a_pure_function_of_seed_and_step():
  split = make_split(23)
  forwards = [
    data.train_batch(split, seed=4, step=step, batch_size=5)
    for step in range(40)
  ]
  for step in reversed(range(40)):  # In any order, as in resumed runs.
    again = data.train_batch(split, seed=4, step=step, batch_size=5)
    jax.tree.map(np.testing.assert_array_equal, forwards[step], again)


def test_train_batch_depends_on_the_seed():
  split = make_split(100)
  batches = [
    tuple(data.train_batch(split, seed=seed, step=0, batch_size=50).label)
    for seed in range(4)
  ]
  assert len(set(batches)) == 4


@pytest.mark.parametrize(("num_examples", "batch_size"), SIZES)
def test_eval_batches_keep_file_order_and_drop_nothing(
  num_examples, batch_size
):
  batches = list(
    data.eval_batches(make_split(num_examples), batch_size=batch_size)
  )
  labels = np.concatenate([batch.label[batch.mask] for batch in batches])
  np.testing.assert_array_equal(labels, np.arange(num_examples))


def test_a_batch_is_a_copy():
  split = make_split(6)
  batch = data.train_batch(split, seed=0, step=0, batch_size=6)
  batch.image[:] = 255
  batch.label[:] = -1
  np.testing.assert_array_equal(split.labels, np.arange(6))
  assert split.images.max() == 5


def test_a_batch_is_a_pytree_and_a_run_compiles_once():
  split = make_split(23)
  traces = []

  @jax.jit
  def masked_mean(batch):
    traces.append(batch)
    images = data.to_float(batch.image).mean((1, 2, 3))
    return jnp.sum(images * batch.mask) / jnp.sum(batch.mask)

  for step in range(12):
    masked_mean(data.train_batch(split, seed=0, step=step, batch_size=5))
  for batch in data.eval_batches(split, batch_size=5):
    masked_mean(batch)
  assert len(traces) == 1


@pytest.mark.parametrize(
  ("call", "error", "match"),
  [
    (lambda s: data.steps_per_epoch(4, 0), ValueError, "batch_size >= 1"),
    (lambda s: data.steps_per_epoch(4, 2.0), TypeError, "batch_size"),
    (lambda s: data.steps_per_epoch(0, 2), ValueError, "num_examples >= 1"),
    (lambda s: data.epoch_permutation(-1, 0, 3), ValueError, "seed in"),
    (lambda s: data.epoch_permutation(2**64, 0, 3), ValueError, "seed in"),
    (lambda s: data.epoch_permutation(0, -1, 3), ValueError, "epoch in"),
    (
      lambda s: data.train_batch(s, seed=0, step=-1, batch_size=2),
      ValueError,
      "step in",
    ),
    (
      lambda s: data.train_batch(s, seed=0.5, step=0, batch_size=2),
      TypeError,
      "seed to be an int",
    ),
    (
      lambda s: data.eval_batches(s, batch_size=-3),
      ValueError,
      "batch_size >= 1, got batch_size=-3",
    ),
  ],
)
def test_bad_arguments_are_named_at_once(call, error, match):
  with pytest.raises(error, match=match):
    call(make_split(4))


@pytest.mark.parametrize(
  ("images", "labels", "error"),
  [
    (np.zeros((2, 3, 3, 1)), np.zeros(2, np.int32), TypeError),
    (np.zeros((2, 3, 3, 1), np.uint8), np.zeros(2, np.int64), TypeError),
    (np.zeros((2, 3, 3), np.uint8), np.zeros(2, np.int32), ValueError),
    (np.zeros((2, 3, 3, 1), np.uint8), np.zeros(3, np.int32), ValueError),
    (np.zeros((0, 3, 3, 1), np.uint8), np.zeros(0, np.int32), ValueError),
  ],
)
def test_a_split_checks_its_arrays(images, labels, error):
  with pytest.raises(error, match="Expected"):
    data.Split(images, labels)
