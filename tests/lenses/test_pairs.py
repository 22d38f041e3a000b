import jax
import jax.numpy as jnp
import numpy as np
import pytest

import robust_info as ri
from robust_info.lenses import pairs

LABELS = np.array([0] * 5 + [1] * 3 + [2] * 2 + [7])


def counts(labels, where=None, num_pairs=200_000):
  draw = jax.jit(
    lambda key, labels: ri.sample_cross_pairs(
      key, labels, num_pairs=num_pairs, where=where
    )
  )
  first, second = draw(jax.random.key(0), labels)
  table = np.zeros((len(labels),) * 2)
  np.add.at(table, (np.asarray(first), np.asarray(second)), 1)
  return table


def test_pairs_are_uniform_over_ordered_pairs_with_different_labels():
  labels = np.random.default_rng(0).permutation(LABELS)
  table = counts(labels)
  cross = labels[:, None] != labels[None, :]
  assert table[~cross].sum() == 0
  expected = 200_000 / cross.sum()
  chi_square = ((table[cross] - expected) ** 2 / expected).sum()
  # Mean and standard deviation of chi-square with cells - 1 degrees.
  degrees = cross.sum() - 1
  assert abs(chi_square - degrees) < 6 * np.sqrt(2 * degrees)


def test_masked_examples_are_never_drawn():
  where = np.arange(11) % 3 != 0
  table = counts(LABELS, where)
  assert table[~where].sum() == 0
  assert table[:, ~where].sum() == 0
  cross = (LABELS[:, None] != LABELS[None, :]) & where[:, None] & where[None]
  assert (table[cross] > 0).all()


def test_pairs_are_a_function_of_the_key():
  draws = [
    ri.sample_cross_pairs(jax.random.key(s), LABELS, num_pairs=50)
    for s in (0, 0, 1)
  ]
  np.testing.assert_array_equal(draws[0][0], draws[1][0])
  assert (draws[0][0] != draws[2][0]).any()


def test_mean_over_drawn_pairs_approaches_the_exact_cckl():
  rng = np.random.default_rng(3)
  labels = rng.integers(0, 3, 40)
  logits = rng.normal(size=(40, 3)).astype(np.float32)
  first, second = ri.sample_cross_pairs(
    jax.random.key(1), labels, num_pairs=20_000
  )
  samples = np.asarray(ri.kl_divergence(logits[first], logits[second]))
  error = samples.std() / 20_000**0.5
  assert abs(samples.mean() - ri.cckl(logits, labels)) < 5 * error


@pytest.mark.parametrize("num_examples", [4, 0])
def test_one_label_raises_outside_jit_and_gives_minus_one_inside(num_examples):
  labels = jnp.zeros((num_examples,), jnp.int32)
  with pytest.raises(ValueError, match="at least two different values, got"):
    ri.sample_cross_pairs(jax.random.key(0), labels, num_pairs=3)
  draw = jax.jit(
    lambda labels: ri.sample_cross_pairs(jax.random.key(0), labels, num_pairs=3)
  )
  np.testing.assert_array_equal(draw(labels), -np.ones((2, 3)))


def test_partners_are_uniform_over_the_counted_rows_of_other_labels():
  labels = np.random.default_rng(0).permutation(LABELS)
  where = np.arange(11) != 4
  draw = jax.jit(
    jax.vmap(lambda key: pairs.sample_partners(key, labels, where=where))
  )
  draws = 20_000
  partner, exists = draw(jax.random.split(jax.random.key(0), draws))
  np.testing.assert_array_equal(exists, np.tile(where, (draws, 1)))
  possible = (labels[:, None] != labels[None, :]) & where[:, None] & where
  table = np.stack([np.bincount(column, minlength=11) for column in partner.T])
  assert table[where][~possible[where]].sum() == 0
  assert table[4, 4] == draws
  expected = (draws / np.maximum(possible.sum(1, keepdims=True), 1))[where]
  square = (table[where] - expected) ** 2 / expected
  chi_square = square[possible[where]].sum()
  degrees = possible.sum() - where.sum()
  assert abs(chi_square - degrees) < 6 * np.sqrt(2 * degrees)


@pytest.mark.parametrize("where", [None, np.zeros(4, bool)])
def test_without_another_label_every_row_is_its_own_partner(where):
  partner, exists = jax.jit(pairs.sample_partners)(
    jax.random.key(0), np.zeros(4, int), where=where
  )
  np.testing.assert_array_equal(partner, np.arange(4))
  assert not exists.any()


@pytest.mark.parametrize(
  ("labels", "num_pairs", "error", "message"),
  [
    (np.zeros((2, 2), int), 3, ValueError, r"Expected labels of shape \[N\]"),
    (np.zeros(3), 3, TypeError, "Expected integer labels"),
    (LABELS, 0, ValueError, "Expected num_pairs >= 1"),
    (LABELS, 2.5, TypeError, "Expected num_pairs to be a Python int"),
  ],
)
def test_bad_input_is_named(labels, num_pairs, error, message):
  with pytest.raises(error, match=message):
    ri.sample_cross_pairs(jax.random.key(0), labels, num_pairs=num_pairs)
