"""Tests on real prepared data, where TFDS_DATA_DIR has them."""

import os
import pathlib
import subprocess
import sys
import time

import numpy as np
import pytest

from robust_info import data

pytestmark = pytest.mark.real_data

_START = """
import sys
from robust_info import data
source = data.load("mnist", cache_dir=sys.argv[1])
print(len(source.train), source.train.images[0].sum())
"""


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
  return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def mnist(cache):
  root = os.environ.get("TFDS_DATA_DIR")
  if not root or not (pathlib.Path(root) / "mnist").is_dir():
    pytest.skip("needs prepared mnist in TFDS_DATA_DIR")
  return data.load("mnist", cache_dir=cache, progress=False)


def test_mnist_has_its_known_sizes_and_class_counts(mnist):
  assert mnist.image_shape == (28, 28, 1)
  assert mnist.num_classes == 10
  sizes = [len(s) for s in (mnist.train, mnist.validation, mnist.test)]
  assert sizes == [54000, 6000, 10000]
  # Published counts of the ten digits.
  np.testing.assert_array_equal(
    np.bincount(mnist.test.labels),
    [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009],
  )
  np.testing.assert_array_equal(
    np.bincount(mnist.train.labels) + np.bincount(mnist.validation.labels),
    [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949],
  )


def test_mnist_has_its_known_brightness(mnist):
  whole = np.concatenate([mnist.train.images, mnist.validation.images])
  assert whole.mean() / 255 == pytest.approx(0.1307, abs=5e-5)
  assert whole.std() / 255 == pytest.approx(0.3081, abs=5e-5)


def test_the_second_start_takes_under_two_seconds(mnist, cache):
  start = time.perf_counter()
  result = subprocess.run(
    [sys.executable, "-c", _START, str(cache)],
    capture_output=True,
    text=True,
    check=True,
  )
  elapsed = time.perf_counter() - start
  assert result.stdout.split() == ["54000", str(mnist.train.images[0].sum())]
  assert elapsed < 2, f"{elapsed:.1f} s"
