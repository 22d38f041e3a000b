import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import robust_info as ri
from robust_info.information import stats as stats_lib


def data(num_examples=1000, num_classes=10, scale=3.0, seed=0, signal=2.0):
  rng = np.random.default_rng(seed)
  labels = rng.integers(0, num_classes, num_examples)
  logits = scale * rng.normal(size=(num_examples, num_classes))
  logits[np.arange(num_examples), labels] += signal * scale
  return logits.astype(np.float32), labels


def summary(logits, labels, **kwargs):
  return ri.summarize(ri.information_stats(logits, labels, **kwargs))


def padded(rows, shape=(1000, 10)):
  """A few rows in a shape shared with other calls, and a mask of the real rows.

  The rows below them are NaN, and the classes to their right impossible.
  """
  rows = np.asarray(rows, np.float32)
  logits = np.full(shape, np.nan, np.float32)
  logits[: len(rows), : rows.shape[1]] = rows
  logits[: len(rows), rows.shape[1] :] = -np.inf
  return logits, np.arange(shape[0]) < len(rows)


def padded_labels(labels, length=1000):
  return np.concatenate([labels, np.full(length - len(labels), -7)])


def padded_summary(rows, labels):
  logits, where = padded(rows)
  return summary(logits, padded_labels(labels), where=where)


def assert_summaries_close(actual, expected, rtol):
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-30),
    actual,
    expected,
  )


TRACES = []


@jax.jit
def step(stats, logits, labels, where):
  """One more batch; all tests call it with 64 rows of two classes."""
  TRACES.append(1)
  return stats + ri.information_stats(logits, labels, where=where)


@functools.cache
def thousand():
  logits, labels = data()
  return logits, labels, oracles.pairwise_kl(logits).astype(np.float64)


def brute_force(pairs, labels, num_classes):
  cross = labels[:, None] != labels[None, :]
  matrix = [
    [pairs[np.ix_(labels == a, labels == b)].mean() for b in range(num_classes)]
    for a in range(num_classes)
  ]
  return pairs[cross].mean(), np.array(matrix)


def test_cckl_equals_the_mean_over_all_pairs_of_a_thousand_examples():
  logits, labels, pairs = thousand()
  cckl, matrix = brute_force(pairs, labels, 10)
  result = summary(logits, labels)
  np.testing.assert_allclose(result.cckl, cckl, rtol=1e-5)
  np.testing.assert_allclose(result.cckl_matrix, matrix, rtol=1e-5)
  np.testing.assert_allclose(ri.cckl(logits, labels), cckl, rtol=1e-5)


def test_identity_a_mean_over_all_pairs_is_mutual_plus_lautum():
  logits, _, pairs = thousand()
  total = ri.mutual_information(logits) + ri.lautum_information(logits)
  np.testing.assert_allclose(total, pairs.mean(), rtol=1e-5)


@pytest.mark.parametrize(
  ("num_examples", "num_classes", "scale"),
  [(1000, 10, 5.0), (1000, 10, 1e-2), (1000, 10, 20.0), (7, 100, 2.0)],
)
def test_information_matches_extended_precision(
  num_examples, num_classes, scale
):
  logits, labels = data(num_examples, num_classes, scale)
  result = summary(logits, labels)
  expected = {
    "mutual_information": oracles.mutual_information(logits),
    "lautum_information": oracles.lautum_information(logits),
    "label_information": oracles.label_information(logits, labels),
    "cross_entropy": -oracles.log_softmax(logits)[
      np.arange(num_examples), labels
    ].mean(),
  }
  for name, value in expected.items():
    np.testing.assert_allclose(
      getattr(result, name), float(value), rtol=1e-5, err_msg=name
    )


@pytest.mark.parametrize("scale", [5.0, 1e-2, 20.0])
def test_functions_of_a_batch_are_fields_of_its_summary(scale):
  logits, labels = data(scale=scale)
  result = summary(logits, labels)
  np.testing.assert_allclose(
    ri.mutual_information(logits), result.mutual_information, rtol=1e-5
  )
  np.testing.assert_allclose(
    ri.lautum_information(logits), result.lautum_information, rtol=1e-5
  )
  np.testing.assert_allclose(
    ri.label_information(logits, labels), result.label_information, rtol=1e-5
  )


def test_information_in_float64(x64):
  logits, labels = data(20, 3)
  logits = logits.astype(np.float64)
  result, *_ = everything(logits, labels, np.ones(20, bool))
  cckl, matrix = brute_force(
    oracles.pairwise_kl(logits).astype(np.float64), labels, 3
  )
  np.testing.assert_allclose(result.cckl, cckl, rtol=1e-10)
  np.testing.assert_allclose(result.cckl_matrix, matrix, rtol=1e-10)
  np.testing.assert_allclose(
    result.mutual_information,
    float(oracles.mutual_information(logits)),
    rtol=1e-10,
  )
  np.testing.assert_allclose(
    result.label_information,
    float(oracles.label_information(logits, labels)),
    rtol=1e-10,
  )


@pytest.mark.parametrize("scale", [1e-2, 1.0, 10.0])
def test_chain_rule_and_bounds(scale):
  logits, labels = data(scale=scale)
  result = summary(logits, labels)
  label, mutual = result.label_information, result.mutual_information
  np.testing.assert_allclose(
    label + result.conditional_information, mutual, rtol=1e-6
  )
  assert 0 <= label <= mutual <= np.log(10)
  np.testing.assert_allclose(
    result.variational_bound,
    result.label_entropy - result.cross_entropy,
    atol=1e-6,
  )
  assert result.variational_bound <= result.label_entropy
  np.testing.assert_allclose(
    result.prediction_entropy - np.mean(ri.entropy(logits)),
    mutual,
    atol=1e-5,
  )


def test_mutual_information_is_bounded_by_the_number_of_examples():
  logits, where = padded(100.0 * np.eye(3, 10))
  np.testing.assert_allclose(
    ri.mutual_information(logits, where=where), np.log(3), rtol=1e-6
  )


def test_pytorch_ignite_documented_value():
  # The example in the documentation of ignite.metrics.MutualInformation 0.5.3.
  logits, where = padded(
    [[0.0, 0.6931, 1.0986], [1.3863, 1.6094, 1.6094], [0.0, -2.3026, -2.3026]]
  )
  np.testing.assert_allclose(
    ri.mutual_information(logits, where=where), 0.18599730730056763, rtol=1e-6
  )


@pytest.mark.parametrize("sizes", [(1, 999), (7, 100, 893), (500, 500)])
def test_streaming_masked_uneven_batches_equals_one_shot(sizes):
  logits, labels = data()
  stats, start = ri.InformationStats.identity(10), 0
  for size in sizes:
    padded = 1000
    where = np.arange(padded) < size
    batch = np.full((padded, 10), np.nan, np.float32)
    batch[:size] = logits[start : start + size]
    batch_labels = np.full(padded, -7)
    batch_labels[:size] = labels[start : start + size]
    stats = stats + ri.information_stats(batch, batch_labels, where=where)
    start += size
  assert_summaries_close(ri.summarize(stats), summary(logits, labels), 2e-6)


def test_blocks_inside_one_call_equal_merged_calls():
  logits, labels = data(40_001, 3)
  merged = ri.InformationStats.identity(3)
  for start in range(0, 40_001, 16_384):
    rows = slice(start, start + 16_384)
    batch, where = padded(logits[rows], (16_384, 3))
    merged += ri.information_stats(
      batch, padded_labels(labels[rows], 16_384), where=where
    )
  assert_summaries_close(
    ri.summarize(merged), summary(logits, labels), rtol=2e-6
  )


@pytest.mark.parametrize("scale", [3.0, 30.0])
def test_long_sums_do_not_lose_digits(scale):
  # Sixteen thousand successive additions lose 2e-6 at scale 30.
  logits, labels = data(40_001, 3, scale=scale)
  result = summary(logits, labels)
  for name in ("mutual_information", "label_information"):
    expected = {
      "mutual_information": lambda: oracles.mutual_information(logits),
      "label_information": lambda: oracles.label_information(logits, labels),
    }[name]()
    np.testing.assert_allclose(
      getattr(result, name), float(expected), rtol=5e-7, err_msg=name
    )


def test_many_groups_take_no_more_memory_than_the_rows():
  def temporaries(num_groups):
    rows = 13_000  # A single block, for any number of groups.
    compiled = stats_lib.stats_of_groups.lower(
      jax.ShapeDtypeStruct((rows, 20), jnp.float32),
      jax.ShapeDtypeStruct((rows,), jnp.int32),
      jax.ShapeDtypeStruct((rows,), bool),
      num_groups,
    ).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  assert temporaries(6000) < 3 * temporaries(20)


def test_merging_is_commutative_and_the_identity_is_neutral():
  logits, labels = data()
  first = np.arange(1000) < 400
  a, b = (
    ri.information_stats(logits, labels, where=where)
    for where in (first, ~first)
  )
  assert_summaries_close(ri.summarize(a + b), ri.summarize(b + a), rtol=1e-6)
  zero = ri.InformationStats.identity(10)
  assert_summaries_close(ri.summarize(a + zero), ri.summarize(a), rtol=1e-6)
  assert_summaries_close(ri.summarize(zero + a), ri.summarize(a), rtol=1e-6)


def test_many_small_merges_of_nearly_identical_predictions():
  # Each merge adds the divergence between two means that agree to 1e-5: in
  # single precision its rounding noise would swamp the spread.
  rng = np.random.default_rng(0)
  logits = (1e-2 * rng.normal(size=(32_000, 2))).astype(np.float32)
  stats = ri.InformationStats.identity(2)
  for rows in np.split(logits, 500):
    stats = step(stats, rows, np.zeros(64, int), np.ones(64, bool))
  np.testing.assert_allclose(
    ri.summarize(stats).mutual_information,
    float(oracles.mutual_information(logits)),
    rtol=1e-5,
  )


def test_a_million_examples_keep_their_digits():
  # Rows of known information, repeated in whole blocks: the truth is theirs.
  logits, labels = data(1024, 3, scale=2.0)
  rows, where = padded(logits, (16_384, 3))
  expected = summary(rows, padded_labels(labels, 16_384), where=where)
  repeated = np.tile(logits, (992, 1))
  result = summary(repeated, np.tile(labels, 992))
  assert int(result.count) == 62 * 16_384
  for name in (
    "mutual_information",
    "lautum_information",
    "label_information",
    "cross_entropy",
    "cckl",
  ):
    np.testing.assert_allclose(
      getattr(result, name), getattr(expected, name), rtol=1e-6, err_msg=name
    )
  np.testing.assert_allclose(
    result.label_information,
    float(oracles.label_information(logits, labels)),
    rtol=1e-6,
  )


@pytest.mark.slow
def test_a_million_examples_of_a_thousand_classes():
  num_classes = 1000
  rng = np.random.default_rng(0)
  labels = np.tile(np.arange(num_classes), 8)
  logits = rng.normal(size=(8000, num_classes)).astype(np.float32)
  logits[np.arange(8000), labels] += 6.0

  @jax.jit
  def stream(logits, labels, order):
    def add(stats, rows):
      return stats + ri.information_stats(logits[rows], labels[rows]), None

    start = ri.InformationStats.identity(num_classes)
    return jax.lax.scan(add, start, order)[0]

  order = np.tile(np.arange(8000), (125, 1))
  result = ri.summarize(stream(logits, labels, order))
  assert int(result.count) == 1_000_000
  np.testing.assert_allclose(
    result.label_information,
    float(oracles.label_information(logits, labels)),
    rtol=1e-6,
  )
  np.testing.assert_allclose(
    result.mutual_information,
    float(oracles.mutual_information(logits)),
    rtol=1e-6,
  )


def all_metrics(logits, labels, where):
  result = summary(logits, labels, where=where)
  # Metrics of labels are fields of the summary, with and without a gradient.
  metrics = jnp.stack(
    [
      ri.mutual_information(logits, where=where),
      ri.lautum_information(logits, where=where),
      result.label_information,
      result.cckl,
    ]
  )
  return metrics, (metrics, result)


@jax.jit
def everything(logits, labels, where):
  """For logits [20, 3]: summary, `all_metrics` [4], and their gradients."""
  gradients, (values, result) = jax.jacrev(all_metrics, has_aux=True)(
    logits, labels, where
  )
  return result, values, gradients


def test_masked_rows_reach_neither_values_nor_gradients(x64):
  logits, labels = data(20, 3)
  where = np.arange(20) < 15
  logits = logits.astype(np.float64)
  poisoned = np.where(where[:, None], logits, np.nan)
  bad_labels = np.where(where, labels, 99)
  result, values, gradients = everything(poisoned, bad_labels, where)
  kept = logits[:15], labels[:15]
  expected = [
    oracles.mutual_information(kept[0]),
    oracles.lautum_information(kept[0]),
    oracles.label_information(*kept),
    oracles.cckl(*kept),
  ]
  np.testing.assert_allclose(values, np.array(expected, float), rtol=1e-6)
  assert int(result.count) == 15
  assert np.isfinite(gradients).all()
  assert (gradients[:, 15:] == 0).all()


def test_gradients_match_finite_differences(x64):
  logits, labels = data(20, 3, scale=1.0)
  logits = logits.astype(np.float64)
  where = np.arange(20) < 6

  def values(logits):
    return np.asarray(everything(logits, labels, where)[1])

  gradients = everything(logits, labels, where)[2]
  for index in np.ndindex(6, 3):
    step = np.zeros_like(logits)
    step[index] = 1e-5
    np.testing.assert_allclose(
      gradients[(slice(None), *index)],
      (values(logits + step) - values(logits - step)) / 2e-5,
      rtol=1e-5,
      atol=1e-7,
    )


@settings(max_examples=40, deadline=None)
@given(
  hnp.arrays(np.float32, (4, 3), elements=st.floats(-1e4, 1e4, width=32)),
  st.booleans(),
)
def test_no_nan_on_finite_logits(logits, identical):
  if identical:
    logits = np.broadcast_to(logits[:1], logits.shape)
  labels = padded_labels([0, 1, 2, 1], 20)
  logits, where = padded(logits, (20, 3))
  _, values, gradients = everything(logits, labels, where)
  assert np.isfinite(values).all()
  assert (np.asarray(values) >= 0).all()
  assert np.isfinite(gradients).all()
  assert (gradients[:, 4:] == 0).all()


def test_identical_predictions_have_no_information():
  rows = np.tile(np.float32([1.0, -2.0, 0.5]), (9, 1))
  result = padded_summary(rows, np.arange(9) % 3)
  for name in ("mutual_information", "lautum_information", "cckl"):
    np.testing.assert_allclose(getattr(result, name), 0.0, atol=1e-13)


def test_impossible_classes():
  inf = np.inf
  logits, where = padded([[0.0, -inf], [-inf, 0.0]])
  labels = padded_labels([0, 1])
  np.testing.assert_allclose(
    ri.mutual_information(logits, where=where), np.log(2), rtol=1e-6
  )
  assert ri.lautum_information(logits, where=where) == inf
  assert ri.cckl(logits, labels, where=where) == inf
  np.testing.assert_allclose(
    ri.label_information(logits, labels, where=where), np.log(2), rtol=1e-6
  )
  shared = np.array([[0.0, 1.0], [2.0, 0.0]])
  logits, where = padded(shared)
  np.testing.assert_allclose(
    ri.lautum_information(logits, where=where),
    float(oracles.lautum_information(shared)),
    rtol=1e-6,
  )


def test_impossible_classes_survive_merging():
  inf = np.inf
  logits, where = padded([[0.0, 1.0, -inf], [2.0, 0.0, -inf], [1.0, 0.5, 0.0]])
  labels = padded_labels([0, 0, 1])
  one_by_one = ri.InformationStats.identity(10)
  for row in range(3):
    one_by_one += ri.information_stats(
      logits, labels, where=np.arange(1000) == row
    )
  assert_summaries_close(
    ri.summarize(one_by_one), summary(logits, labels, where=where), rtol=1e-5
  )


def test_a_class_that_only_some_predictions_exclude_survives_merging():
  # The union excludes the last class, one of its parts does not.
  logits = [[0.0, 1.0, -np.inf], [0.3, 1.0, -np.inf], [0.3, 1.0, 0.4]]
  logits, _ = padded(logits)
  labels = padded_labels([0, 1, 1])
  parts = [
    ri.information_stats(logits, labels, where=np.isin(np.arange(1000), rows))
    for rows in ([0, 1], [2])
  ]
  p, *others = (oracles.softmax(row[:3].astype("d")) for row in logits[:3])
  exact = np.mean(
    [sum(p[k] * np.log(p[k] / q[k]) for k in (0, 1)) for q in others]
  )
  found = ri.summarize(parts[0] + parts[1]).cckl_matrix
  np.testing.assert_allclose(found[0, 1], exact, rtol=1e-5)


@pytest.mark.parametrize(
  ("labels", "expected"), [([0, 0], np.nan), ([0, 1], 0.0)]
)
def test_cckl_needs_two_classes(labels, expected):
  logits, where = padded(np.zeros((2, 2)))
  np.testing.assert_equal(
    np.asarray(ri.cckl(logits, padded_labels(labels), where=where)),
    np.float32(expected),
  )


def test_no_examples_give_nan():
  none = np.zeros((0, 10), np.float32)
  assert ri.information_stats(none, []).num_classes == 10
  result = summary(none, np.zeros((0,), np.int32))
  assert int(result.count) == 0
  for name in ("mutual_information", "cckl", "accuracy", "label_entropy"):
    assert np.isnan(getattr(result, name))


# Of many classes, only rows of those with examples are computed.
@pytest.mark.parametrize("num_classes", [10, 70])
def test_classes_without_examples_are_nan_in_the_matrix_only(num_classes):
  logits, _ = data(num_examples=60, num_classes=num_classes)
  present = np.array([0, 3, num_classes - 2])
  labels = present[np.arange(60) % 3]
  result = summary(logits, labels)
  matrix = np.full((num_classes, num_classes), np.nan)
  cckl, matrix[np.ix_(present, present)] = brute_force(
    oracles.pairwise_kl(logits), np.arange(60) % 3, 3
  )
  np.testing.assert_allclose(result.cckl_matrix, matrix, rtol=1e-4)
  np.testing.assert_allclose(result.cckl, cckl, rtol=1e-5)
  is_nan = np.isnan(np.asarray(result.class_information))
  np.testing.assert_array_equal(np.flatnonzero(~is_nan), present)


def test_labels_out_of_range_poison_under_jit_and_raise_outside():
  logits, labels = data(64, 2)
  labels[4] = 2
  with pytest.raises(ValueError, match=r"labels in \[0, 2\).*labels\[4\]=2"):
    ri.cckl(logits, labels)
  result = ri.summarize(
    step(ri.InformationStats.identity(2), logits, labels, np.ones(64, bool))
  )
  assert_all_nan(result)


# The last of the groups would be 0 when multiplied by the number of classes.
@pytest.mark.parametrize("group", [2, -1, 2**30])
def test_groups_out_of_range_poison_under_jit(group):
  logits = np.zeros((6, 4), np.float32)
  groups = np.array([0, 1, 0, 1, group, 1], np.int32)
  found = jax.jit(ri.grouped_information_stats, static_argnames="num_groups")(
    logits, np.arange(6, dtype=np.int32) % 4, groups, num_groups=2
  )
  assert_all_nan(found)


def assert_all_nan(result):
  for leaf in jax.tree.leaves(result):
    if jnp.issubdtype(leaf.dtype, jnp.floating):
      assert np.isnan(leaf).all()


def test_a_class_of_tiny_probability_has_finite_pointwise_information():
  # One row gives the last class 1e-38, and the mean over rows rounds to 0.
  logits = np.zeros((20, 3), np.float32)
  logits[:, 2] = -300
  logits[0, 2] = -86
  found = np.asarray(ri.pointwise_information(logits))
  assert (found >= 0).all()
  assert found.max() < 1e-36


def test_a_nan_row_gives_nan():
  logits, labels = data()
  logits[2, 1] = np.nan
  assert np.isnan(ri.mutual_information(logits))
  assert np.isnan(summary(logits, labels).cckl)


def test_class_information_averages_to_label_information():
  logits, labels = data()
  result = summary(logits, labels)
  np.testing.assert_allclose(
    np.sum(result.class_count * result.class_information) / 1000,
    result.label_information,
    rtol=1e-6,
  )


def test_pointwise_information_averages_to_mutual_information():
  logits, labels = data()
  pointwise = np.asarray(ri.pointwise_information(logits))
  np.testing.assert_allclose(
    pointwise.mean(), ri.mutual_information(logits), rtol=1e-6
  )
  stats = ri.information_stats(logits, labels)
  others = np.where(np.arange(1000)[:, None] < 7, logits, -logits)
  np.testing.assert_allclose(
    ri.pointwise_information(others, stats=stats)[:7], pointwise[:7], rtol=1e-5
  )
  where = np.arange(1000) < 100
  masked = np.asarray(
    ri.pointwise_information(
      np.where(where[:, None], logits, np.nan), where=where
    )
  )
  log_pbar = np.log(oracles.softmax(logits[:100]).mean(axis=0))
  expected = oracles.kl_divergence(
    logits[:100], np.broadcast_to(log_pbar, (100, 10))
  )
  np.testing.assert_allclose(masked[:100], expected.astype(float), rtol=1e-5)
  np.testing.assert_array_equal(masked[100:], 0.0)


def test_hard_information_of_a_perfect_and_of_a_useless_classifier():
  labels = np.arange(40) % 4
  perfect = padded_summary(10.0 * np.eye(4)[labels], labels)
  np.testing.assert_allclose(
    perfect.hard_label_information, np.log(4), rtol=1e-6
  )
  # The correction is (4 + 4 - 4 - 1) / 2N, from the occupied cells.
  np.testing.assert_allclose(
    perfect.hard_label_information_corrected, np.log(4) + 3 / 80, rtol=1e-6
  )
  useless = padded_summary(np.tile([1, 0, 0, 0], (40, 1)), labels)
  np.testing.assert_allclose(useless.hard_label_information, 0.0, atol=1e-7)
  np.testing.assert_allclose(
    useless.hard_label_information_corrected, 0.0, atol=1e-7
  )


def test_miller_madow_removes_most_of_the_bias_of_independent_guesses():
  rng = np.random.default_rng(1)
  plug_in, corrected = [], []
  for _ in range(40):
    guesses, labels = rng.integers(0, 3, (2, 60))
    result = padded_summary(np.eye(3)[guesses], labels)
    plug_in.append(float(result.hard_label_information))
    corrected.append(float(result.hard_label_information_corrected))
  assert np.mean(plug_in) > 0.02
  assert abs(np.mean(corrected)) < 0.3 * np.mean(plug_in)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_logits_are_computed_in_float32(dtype):
  logits, labels = data()
  low = jnp.asarray(logits, dtype)
  assert_summaries_close(
    summary(low, labels), summary(low.astype(jnp.float32), labels), rtol=1e-6
  )


def test_vmap_over_batches():
  batches = [data(seed=seed) for seed in range(3)]
  stacked = [np.stack(part) for part in zip(*batches, strict=True)]
  plain = [ri.cckl(*batch) for batch in batches]
  np.testing.assert_allclose(
    jax.vmap(ri.cckl)(*stacked), np.array(plain), rtol=1e-5
  )


def test_stats_do_not_recompile_across_batches():
  stats = ri.InformationStats.identity(2)
  TRACES.clear()
  for seed in range(3):
    logits, labels = data(64, 2, seed=seed)
    stats = step(stats, logits, labels, np.arange(64) < 64 - seed)
  # No trace at all if another test has used this step before.
  assert len(TRACES) <= 1
  assert int(ri.summarize(stats).count) == 189


@pytest.mark.parametrize(
  ("call", "error", "message"),
  [
    (
      lambda: ri.cckl(jnp.zeros((3,)), jnp.zeros((3,), int)),
      ValueError,
      r"Expected logits of shape \[N, C\]",
    ),
    (
      lambda: ri.cckl(jnp.zeros((3, 2)), jnp.zeros((4,), int)),
      ValueError,
      r"Expected labels of shape \(3,\)",
    ),
    (
      lambda: ri.cckl(jnp.zeros((3, 2)), jnp.zeros((3, 2))),
      TypeError,
      r"Expected integer labels.*argmax",
    ),
    (
      lambda: ri.mutual_information(jnp.zeros((3, 2)), where=jnp.ones((3,))),
      ValueError,
      r"Expected where to be a boolean mask of shape \(3,\)",
    ),
    (
      lambda: ri.InformationStats.identity(2) + ri.InformationStats.identity(3),
      ValueError,
      "num_classes=2 and num_classes=3",
    ),
    (
      lambda: ri.InformationStats.identity(0),
      ValueError,
      "Expected num_classes >= 1",
    ),
    (
      lambda: ri.pointwise_information(
        jnp.zeros((3, 2)), stats=ri.InformationStats.identity(3)
      ),
      ValueError,
      "Expected stats of the 2 classes",
    ),
  ],
)
def test_bad_input_is_named(call, error, message):
  with pytest.raises(error, match=message):
    call()


def test_summary_of_a_single_example():
  result = summary(np.float32([[2.0, 0.0]]), np.array([1]))
  np.testing.assert_allclose(result.mutual_information, 0.0, atol=1e-13)
  np.testing.assert_allclose(
    result.cross_entropy, -oracles.log_softmax(np.array([2.0, 0.0]))[1]
  )
  assert np.isnan(result.cckl)
