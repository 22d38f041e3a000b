"""Streamed and decoded training data are the same data."""

import jax
import numpy as np
import pytest
import toy_data as toys

from robust_info import data
from robust_info.evaluation import cache as measurement_cache


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
  """Toy data sets, without and with a validation split of their own."""
  directory = tmp_path_factory.mktemp("prepared")
  toys.prepare(directory)
  sizes = {"train": 20, "validation": 8, "test": 6}
  toys.prepare(directory, name="own", sizes=sizes)
  return directory


@pytest.fixture(params=["toy", "own"])
def both(request, prepared, tmp_path):
  """The decoded and the streamed data, and the cache of the latter."""

  def load(**knobs):
    return data.load(
      request.param,
      data_dir=prepared,
      cache_dir=tmp_path / str(len(knobs)),
      progress=False,
      **knobs,
    )

  return load(), load(streaming=True), tmp_path / "1"


def test_batches_are_identical_in_any_order(both):
  decoded, streamed, _ = both
  for step in (0, 3, 11, 2):
    one, two = (
      data.train_batch(
        s.train, seed=5, step=step, batch_size=7, rows=slice(2, None)
      )
      for s in (decoded, streamed)
    )
    jax.tree.map(np.testing.assert_array_equal, one, two)


def test_everything_else_is_identical(both):
  decoded, streamed, _ = both
  assert len(streamed.train) == len(decoded.train)
  np.testing.assert_array_equal(streamed.train.images[:], decoded.train.images)
  for role in ("train", "validation", "test"):
    one, two = getattr(decoded, role), getattr(streamed, role)
    np.testing.assert_array_equal(one.labels, two.labels)
  for role in ("validation", "test"):
    one, two = getattr(decoded, role), getattr(streamed, role)
    np.testing.assert_array_equal(one.images, two.images)
  assert data.channel_moments(streamed.train.images) == data.channel_moments(
    decoded.train.images
  )
  assert streamed.image_shape == decoded.image_shape


def test_training_images_are_not_written(both):
  *_, cache = both
  files = {path.name for path in cache.rglob("*.npy")}
  assert "train-labels.npy" in files
  assert "train-images.npy" not in files


def test_fingerprints_tell_streamed_data_apart(prepared, tmp_path):
  prints = {
    measurement_cache.fingerprint(
      data.load(
        name,
        data_dir=prepared,
        cache_dir=tmp_path,
        validation_seed=seed,
        streaming=True,
        progress=False,
      ).train.images
    )
    for name, seed in (("toy", 0), ("toy", 1), ("own", 0))
  }
  assert len(prints) == 3
