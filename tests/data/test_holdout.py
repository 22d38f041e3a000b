"""Hold-outs: exact size, stratified, disjoint, a pure function."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from robust_info.data import holdout

CLASS_COUNTS = st.lists(st.integers(2, 40), min_size=1, max_size=8)


def shuffled_labels(counts, seed=0):
  labels = np.repeat(np.arange(len(counts)), counts)
  return np.random.default_rng(seed).permutation(labels)


@hypothesis.settings(deadline=None, max_examples=50)
@hypothesis.given(CLASS_COUNTS, st.floats(0.05, 0.5), st.integers(0, 2**64 - 1))
def test_parts_are_disjoint_complete_ascending_and_proportional(
  counts, fraction, seed
):
  labels = shuffled_labels(counts)
  size = int(fraction * len(labels))
  hypothesis.assume(size > 0)
  kept, held_out = holdout.stratified(labels, size, seed=seed)
  assert len(held_out) == size
  np.testing.assert_array_equal(
    np.sort(np.concatenate([kept, held_out])), np.arange(len(labels))
  )
  assert np.all(np.diff(kept) > 0)
  assert np.all(np.diff(held_out) > 0)
  shares = np.bincount(labels[held_out], minlength=len(counts))
  proportional = np.array(counts) * size / len(labels)
  assert np.all(np.abs(shares - proportional) < 1)


def test_holdout_is_a_pure_function_of_labels_size_and_seed():
  labels = shuffled_labels([30, 50, 20])
  first = holdout.stratified(labels, 10, seed=3)
  np.testing.assert_array_equal(
    first[1], holdout.stratified(labels, 10, seed=3)[1]
  )
  assert set(first[1]) != set(holdout.stratified(labels, 10, seed=4)[1])


def test_which_examples_of_a_class_go_is_uniform():
  # Each of 10 examples of a class is held out with probability 0.3; five
  # standard deviations of the binomial over 1,000 seeds.
  labels = np.zeros(10, np.int32)
  counts = np.zeros(10)
  for seed in range(1000):
    counts[holdout.stratified(labels, 3, seed=seed)[1]] += 1
  assert np.all(np.abs(counts - 300) < 5 * np.sqrt(1000 * 0.3 * 0.7))


def test_largest_remainders_decide_and_ties_go_to_the_lower_class():
  labels = np.repeat([0, 1, 2], [4, 4, 2])
  # Shares of 5: 2, 2, 1. Of 4: 1.6, 1.6, 0.8: the 0.8 first, then class 0.
  for size, expected in ((5, [2, 2, 1]), (4, [2, 1, 1])):
    _, held_out = holdout.stratified(labels, size, seed=0)
    assert list(np.bincount(labels[held_out], minlength=3)) == expected


def test_a_class_never_loses_all_its_examples():
  labels = np.array([0] * 9 + [1])
  with pytest.raises(ValueError, match="none of class 1"):
    holdout.stratified(labels, 9, seed=0)


@pytest.mark.parametrize(
  ("num_examples", "fraction", "size"),
  [(60000, 0.1, 6000), (1297, 0.1, 130), (3, 0.5, 2), (10, 0.25, 2)],
)
def test_holdout_size_is_rounded(num_examples, fraction, size):
  assert holdout.holdout_size(num_examples, fraction) == size


@pytest.mark.parametrize("fraction", [0.001, 0.999])
def test_an_empty_side_is_refused(fraction):
  with pytest.raises(ValueError, match=f"validation_fraction={fraction}"):
    holdout.holdout_size(20, fraction)
