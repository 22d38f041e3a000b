"""The jackknife against textbook errors, and the groups it works on."""

import operator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import robust_info as ri

stats_of = jax.jit(ri.information_stats)
grouped_stats = jax.jit(
  ri.grouped_information_stats, static_argnames="num_groups"
)


def groups(logits, labels, count):
  """Groups of ten examples of three classes, so that tests share programs."""
  return [stats_of(logits[g::count], labels[g::count]) for g in range(count)]


def accuracy(stats):
  return ri.summarize(stats).accuracy


def test_jackknife_error_of_a_mean_is_the_textbook_error():
  rng = np.random.default_rng(0)
  labels = rng.integers(0, 2, 400)
  right = rng.random(400) < 0.8
  logits = np.eye(3, dtype=np.float32)[np.where(right, labels, 1 - labels)]
  result = ri.jackknife(groups(logits, labels, 40), accuracy)
  np.testing.assert_allclose(result.estimate, right.mean(), rtol=1e-6)
  np.testing.assert_allclose(
    result.standard_error,
    (right.mean() * (1 - right.mean()) / 400) ** 0.5,
    rtol=0.35,
  )
  np.testing.assert_allclose(result.bias, 0.0, atol=1e-4)
  np.testing.assert_allclose(
    result.high - result.low, 2 * 1.959964 * result.standard_error, rtol=1e-4
  )


def test_the_bias_of_many_groups_is_not_that_of_their_mean_in_float32():
  part = stats_of(np.zeros((10, 3), np.float32), np.arange(10) % 3)
  constant = np.float32([0.1, 0.3])
  result = ri.jackknife([part] * 400, lambda stats: constant)
  np.testing.assert_allclose(result.bias, 0.0, atol=1e-9)
  assert result.bias.dtype == np.float32


def test_jackknife_error_matches_the_spread_over_data_sets():
  def draw(seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, 300)
    logits = rng.normal(size=(300, 3)) + 2 * np.eye(3)[labels]
    return logits.astype(np.float32), labels

  values = [float(ri.cckl(*draw(seed))) for seed in range(60)]
  result = ri.jackknife(groups(*draw(99), 30), ri.summarize)
  np.testing.assert_allclose(
    result.standard_error.cckl, np.std(values), rtol=0.5
  )
  np.testing.assert_allclose(
    result.estimate.cckl, ri.cckl(*draw(99)), rtol=1e-5
  )
  assert result.low.cckl < np.mean(values) < result.high.cckl


def test_jackknife_finds_the_bias_of_hard_information():
  rng = np.random.default_rng(2)
  guesses, labels = rng.integers(0, 3, (2, 600))
  logits = np.eye(3, dtype=np.float32)[guesses]
  result = ri.jackknife(groups(logits, labels, 60), ri.summarize)
  # Independent: the truth is 0, the plug-in value about (3-1)^2 / 2N.
  np.testing.assert_allclose(
    result.bias.hard_label_information, 4 / 1200, rtol=0.5
  )


def masked_batch():
  rng = np.random.default_rng(3)
  logits = rng.normal(size=(40, 3)).astype(np.float32)
  labels, where = rng.integers(0, 3, 40), rng.random(40) < 0.8
  logits[~where] = np.nan
  return logits, labels, where


def assert_same_summary(one, other):
  for name, value in vars(ri.summarize(one)).items():
    np.testing.assert_allclose(
      value, getattr(ri.summarize(other), name), rtol=1e-5, err_msg=name
    )


def test_groups_hold_their_own_examples_and_merge_to_all():
  logits, labels, where = masked_batch()
  group, rows = np.arange(40) % 4, np.arange(40)
  grouped = [
    grouped_stats(logits, labels, group, num_groups=4, where=where & half)
    for half in (rows < 23, rows >= 23)
  ]
  stacked = jax.vmap(operator.add)(*grouped)
  third = jax.tree.map(lambda leaf: np.asarray(leaf)[2], stacked)
  assert_same_summary(
    third, stats_of(logits, labels, where=where & (group == 2))
  )
  whole = stats_of(logits, labels, where=where)
  assert_same_summary(ri.merge_groups(stacked), whole)


def test_a_label_out_of_range_does_not_land_in_another_group():
  _, labels, where = masked_batch()
  labels[np.argmax(where)] = 3
  grouped = grouped_stats(
    np.zeros((40, 3), np.float32),
    labels,
    np.arange(40) % 4,
    num_groups=4,
    where=where,
  )
  assert np.isnan(ri.summarize(ri.merge_groups(grouped)).cckl)


def test_stacked_and_listed_parts_are_the_same():
  logits, labels, where = masked_batch()
  group = np.arange(40) % 4
  stacked = grouped_stats(logits, labels, group, num_groups=4, where=where)
  listed = [
    jax.tree.map(lambda leaf, g=g: np.asarray(leaf)[g], stacked)
    for g in range(4)
  ]
  one, other = (ri.jackknife(p, accuracy) for p in (stacked, listed))
  np.testing.assert_array_equal(one.standard_error, other.standard_error)
  assert one.standard_error > 0
  right = (logits.argmax(-1) == labels) & where
  np.testing.assert_allclose(
    one.deleted,
    [right[group != g].sum() / where[group != g].sum() for g in range(4)],
    rtol=1e-6,
  )


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (lambda: ri.jackknife([], accuracy), "at least two groups.*got 0"),
    (
      lambda: ri.jackknife(
        [ri.InformationStats.identity(2)] * 2, accuracy, level=95
      ),
      r"Expected level in \(0, 1\), got level=95",
    ),
    (
      lambda: ri.grouped_information_stats(
        jnp.zeros((2, 3)), np.array([0, 1]), np.array([0, 2]), num_groups=2
      ),
      r"Expected groups in \[0, 2\), num_groups, got groups\[1\]=2",
    ),
  ],
)
def test_bad_input_is_named(call, message):
  with pytest.raises(ValueError, match=message):
    call()


@pytest.mark.parametrize(
  "call",
  [
    ri.summarize,
    lambda stacked: stacked + stacked,
    lambda stacked: stacked + ri.InformationStats.identity(3),
    lambda stacked: ri.jackknife([stacked, stacked], accuracy),
    lambda stacked: ri.pointwise_information(jnp.eye(3), stats=stacked),
  ],
)
def test_as_many_groups_as_classes_are_no_statistics_of_one_set(call):
  zeros = ri.InformationStats.identity(3)
  stacked = jax.tree.map(lambda leaf: jnp.stack([leaf] * 3), zeros)
  with pytest.raises(ValueError, match=r"one set .* got stacked .*_groups"):
    call(stacked)


@pytest.mark.parametrize(
  "call", [ri.merge_groups, lambda one: ri.jackknife(one, accuracy)]
)
def test_statistics_of_one_set_are_no_groups(call):
  one = ri.InformationStats.identity(3)
  with pytest.raises(
    ValueError, match=r"with fields \[G, ...\], as of grouped"
  ):
    call(one)
  with pytest.raises(TypeError, match="InformationStats"):
    ri.summarize(np.zeros((3, 3)))
