import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

import robust_info as ri

EXAMPLES, CLASSES, SIZE = 60, 3, 6

# One program per function and shape, instead of one per operation.
lens_means, lens_errors, lens_matrices, pair_mean, fit_temperature = map(
  jax.jit,
  (
    ri.lens_means,
    ri.lens_errors,
    ri.lens_matrices,
    ri.pair_mean,
    ri.fit_temperature,
  ),
)


@functools.cache
def population():
  """A small set whose pairs can all be computed."""
  rng = np.random.default_rng(0)
  labels = rng.integers(0, CLASSES, EXAMPLES)
  centres = 1.5 * rng.normal(size=(CLASSES, SIZE))
  x = centres[labels] + 0.5 * rng.normal(size=(EXAMPLES, SIZE))
  first = rng.normal(size=(SIZE, 12)) / SIZE**0.5
  second = rng.normal(size=(12, CLASSES))
  x, first, second = (jnp.asarray(np.float32(a)) for a in (x, first, second))

  def fn(x):
    return jnp.tanh(x @ first) @ second

  @functools.cache
  def table(num_nodes):
    """The lens of all ordered pairs, row by row."""
    path = functools.partial(ri.disentangle_path, fn, num_nodes=num_nodes)
    first, second = np.divmod(np.arange(EXAMPLES**2), EXAMPLES)
    return jax.tree.map(np.asarray, jax.jit(path)(x[first], x[second]))

  def split(a, b, num_nodes=16):
    rows = np.asarray(a) * EXAMPLES + np.asarray(b)
    return jax.tree.map(lambda part: part[rows], table(num_nodes))

  return fn(x), labels, split


@functools.cache
def all_pairs():
  _, labels, split = population()
  first, second = np.nonzero(labels[:, None] != labels[None, :])
  return split(first, second), labels[first], labels[second]


def drawn(seed, num_pairs):
  """Independent pairs: the first of 6000, so that one program draws them."""
  _, labels, _ = population()
  sides = ri.sample_cross_pairs(jax.random.key(seed), labels, num_pairs=6000)
  return [np.asarray(side)[:num_pairs] for side in sides]


def sampled(seed, num_pairs=400):
  _, labels, split = population()
  first, second = drawn(seed, num_pairs)
  return split(first, second), labels[first], labels[second]


def in_two_levels(seed, num_pairs=100, num_coarse=1600):
  """A lens at few pairs and a coarse one at many, with their classes."""
  _, labels, split = population()
  pairs, many = drawn(seed, num_pairs), drawn(1000 + seed, num_coarse)
  coarse = ri.CoarseLens(split(*many, num_nodes=2), split(*pairs, num_nodes=2))
  classes = [[labels[side] for side in sides] for sides in (pairs, many)]
  return split(*pairs), coarse, *classes


@functools.cache
def exact_summary():
  logits, labels, _ = population()
  return ri.summarize(ri.information_stats(logits, labels))


@functools.cache
def estimates():
  exact = exact_summary().cckl
  return [lens_means(sampled(seed)[0], exact) for seed in range(30)]


@functools.cache
def estimates_in_two_levels():
  exact, found = exact_summary().cckl, []
  for seed in range(30):
    components, coarse, _, _ = in_two_levels(seed)
    found.append(lens_means(components, exact, coarse=coarse))
  return found


both_estimates = pytest.mark.parametrize(
  "estimates", [estimates, estimates_in_two_levels]
)


@both_estimates
def test_control_variates_are_unbiased_with_the_stated_error(estimates):
  true = float(all_pairs()[0].non_robust.mean())
  means = np.array([float(e.non_robust.mean) for e in estimates()])
  stated = np.array([float(e.non_robust.standard_error) for e in estimates()])
  assert abs(means.mean() - true) < 4 * means.std() / 30**0.5
  np.testing.assert_allclose(stated.mean(), means.std(), rtol=0.5)


def test_control_variate_reduces_the_variance_as_it_says():
  plain = np.array([float(e.non_robust.plain_mean) for e in estimates()])
  means = np.array([float(e.non_robust.mean) for e in estimates()])
  claimed = np.mean(
    [float(e.non_robust.variance_reduction) for e in estimates()]
  )
  assert claimed > 3
  assert plain.var() / means.var() > claimed / 3


@both_estimates
def test_mean_parts_add_up_to_the_exact_cckl(estimates):
  for lens in estimates()[:5]:
    np.testing.assert_allclose(
      lens.non_robust.mean + lens.robust.mean, lens.total, rtol=1e-5
    )
    np.testing.assert_allclose(
      lens.non_robust.standard_error, lens.robust.standard_error, rtol=1e-3
    )


def test_two_levels_reduce_the_variance_of_both_parts_as_they_say():
  exact = estimates()[0].total
  for name in ("non_robust", "robust"):
    found = [getattr(lens, name) for lens in estimates_in_two_levels()]
    plain = np.array([float(e.plain_mean) for e in found])
    means = np.array([float(e.mean) for e in found])
    claimed = np.mean([float(e.variance_reduction) for e in found])
    one_level = [
      getattr(lens_means(in_two_levels(seed)[0], exact), name)
      for seed in range(5)
    ]
    assert claimed > 2 * np.mean(
      [float(e.variance_reduction) for e in one_level]
    )
    assert plain.var() / means.var() > claimed / 3


def test_a_control_that_another_determines_changes_nothing():
  rng = np.random.default_rng(0)
  values, one, two = rng.normal(size=(3, 50)).astype(np.float32)
  values = values + one - two
  pair = pair_mean(values, np.stack([one, two]), np.array([0.1, -0.1]))
  more = pair_mean(
    values,
    # The mean of 50 values 0.3 is not the float32 number 0.3.
    np.stack([one, one, two, np.ones_like(one), np.full_like(one, 0.3)]),
    np.array([0.1, 0.1, -0.1, 5.0, 5.0]),
  )
  np.testing.assert_allclose(more.mean, pair.mean, rtol=1e-5)
  np.testing.assert_allclose(
    np.asarray(more.coefficient)[[0, 2]], pair.coefficient, rtol=1e-4
  )
  design = np.stack([one - one.mean(), two - two.mean()], axis=1)
  wanted = np.linalg.lstsq(design, values - values.mean(), rcond=None)[0]
  np.testing.assert_allclose(pair.coefficient, wanted, rtol=1e-4)


def test_the_error_of_a_control_mean_adds_to_that_of_the_estimate():
  rng = np.random.default_rng(0)
  control = rng.normal(size=40)
  values = 2 * control + 0.1 * rng.normal(size=40)
  exact = pair_mean(values, control, 0.0, control_error=0.0)
  vague = pair_mean(values, control, 0.0, control_error=0.3)
  assert vague.mean == exact.mean
  np.testing.assert_allclose(
    vague.standard_error**2,
    exact.standard_error**2 + (0.3 * exact.coefficient) ** 2,
    rtol=1e-5,
  )


def test_a_control_that_is_the_value_leaves_no_error():
  values = jnp.arange(10.0)
  result = pair_mean(values, values, 3.0)
  np.testing.assert_allclose(result.mean, 3.0, rtol=1e-6)
  np.testing.assert_allclose(result.standard_error, 0.0, atol=1e-6)


def test_a_constant_control_changes_nothing():
  values = jnp.arange(10.0)
  result = pair_mean(values, jnp.ones(10), 7.0)
  np.testing.assert_allclose(result.mean, 4.5)
  np.testing.assert_allclose(
    result.plain_standard_error, np.arange(10).std(ddof=1) / 10**0.5, rtol=1e-6
  )
  assert np.isnan(pair_mean(values[:2], values[:2], 0.0).standard_error)


def matrices_with_and_without(num_coarse):
  """Matrices of 300 pairs in two levels and in one; the coarse pairs' classes.

  Runs one operation at a time, so that equal steps of the two round equally.
  """
  components, coarse, classes, many = in_two_levels(0, 300, num_coarse)
  matrix = exact_summary().cckl_matrix
  both = ri.lens_matrices(
    components, *classes, matrix, coarse=coarse, coarse_labels=many
  )
  return both, ri.lens_matrices(components, *classes, matrix), many


def test_matrices_match_the_means_over_all_pairs():
  matrix = exact_summary().cckl_matrix
  result = lens_matrices(*sampled(0, 4000), matrix)
  parts, first, second = all_pairs()
  for a in range(CLASSES):
    for b in range(CLASSES):
      if a == b:
        assert np.isnan(result.non_robust[a, b])
        continue
      cell = (first == a) & (second == b)
      true = np.asarray(parts.non_robust)[cell].mean()
      error = float(result.standard_error[a, b])
      assert abs(float(result.non_robust[a, b]) - true) < 5 * error
  off = ~np.eye(CLASSES, dtype=bool)
  np.testing.assert_allclose(
    (result.non_robust + result.robust)[off], matrix[off], rtol=1e-5
  )
  assert int(result.count.sum()) == 4000


def test_matrices_in_two_levels_match_the_means_over_all_pairs():
  found, one_level, _ = matrices_with_and_without(6000)
  parts, first, second = all_pairs()
  off = ~np.eye(CLASSES, dtype=bool)
  true = np.zeros((CLASSES, CLASSES))
  for a, b in zip(*np.nonzero(off), strict=True):
    true[a, b] = np.asarray(parts.non_robust)[
      (first == a) & (second == b)
    ].mean()
  error = np.asarray(found.standard_error)
  assert (np.abs(found.non_robust - true)[off] < 5 * error[off]).all()
  assert np.median(error[off] / one_level.standard_error[off]) < 0.7
  np.testing.assert_allclose(
    (found.non_robust + found.robust)[off],
    exact_summary().cckl_matrix[off],
    rtol=1e-5,
  )


# On GPUs, sums by cell add in any order.
@pytest.mark.usefixtures("on_cpu")
def test_cells_without_coarse_pairs_are_estimated_without_them():
  found, one_level, coarse_classes = matrices_with_and_without(4)
  count = np.zeros((CLASSES, CLASSES), int)
  np.add.at(count, tuple(coarse_classes), 1)
  few = count < 2
  assert 0 < few.sum() < CLASSES**2
  for name in ("non_robust", "robust", "standard_error"):
    two, one = (np.asarray(getattr(m, name)) for m in (found, one_level))
    np.testing.assert_array_equal(two[few], one[few])
    assert np.isfinite(two[~np.eye(CLASSES, dtype=bool)]).all()
    assert (two[~few] != one[~few]).all()


def test_matrices_from_all_pairs_are_exact():
  matrix = exact_summary().cckl_matrix
  parts, first, second = all_pairs()
  result = lens_matrices(parts, first, second, matrix)
  cell = (first == 0) & (second == 2)
  np.testing.assert_allclose(
    result.non_robust[0, 2],
    np.asarray(parts.non_robust)[cell].mean(),
    rtol=1e-4,
  )


def drawn_lens_means(seed, num_pairs, num_coarse=None):
  """Lens means and errors of a data set that is drawn from `seed`.

  Parts of a pair are sums of contributions of its two examples, and a small one
  of its own; the exact mean total is known in closed form.
  """
  num_examples, num_groups = 200, 25
  rng = np.random.default_rng(seed)
  brings = rng.exponential(size=(2, num_examples))
  own = rng.normal(size=num_examples)

  def components(total, non_robust):
    parts = total, non_robust, total - non_robust
    return ri.Components(*(part.astype(np.float32) for part in parts))

  def draw(num_pairs):
    first, second = rng.integers(0, num_examples, (2, num_pairs))
    total = brings[0, first] + brings[1, second]
    rest = own[first] + own[second] + 0.5 * rng.normal(size=num_pairs)
    cheap = 0.4 * total + 0.3 * rest
    fine = cheap + 0.05 * rng.normal(size=num_pairs)
    groups = [side % num_groups for side in (first, second)]
    return components(total, fine), components(total, cheap), groups

  lens, same, groups = draw(num_pairs)
  options, error_options = {}, {}
  if num_coarse is not None:
    _, many, coarse_groups = draw(num_coarse)
    options = {"coarse": ri.CoarseLens(many, same)}
    error_options = {**options, "coarse_groups": coarse_groups}
  group = np.arange(num_examples) % num_groups
  deleted = [
    brings[:, group != g].mean(axis=1).sum() for g in range(num_groups)
  ]
  means = lens_means(lens, brings.mean(axis=1).sum(), **options)
  errors = lens_errors(lens, *groups, np.array(deleted), **error_options)
  return (
    [
      float(means.total),
      float(means.non_robust.mean),
      float(means.robust.mean),
    ],
    [float(errors.total), float(errors.non_robust), float(errors.robust)],
  )


@pytest.mark.parametrize(
  ("num_pairs", "num_coarse", "most"),
  [(100, None, 1.6), (4000, None, 1.2), (100, 4000, 1.2)],
  ids=["few", "many", "two levels"],
)
def test_lens_errors_cover_the_spread_over_data_sets(
  num_pairs, num_coarse, most
):
  means, errors = zip(
    *(drawn_lens_means(seed, num_pairs, num_coarse) for seed in range(60)),
    strict=True,
  )
  ratio = np.mean(errors, axis=0) / np.std(means, axis=0)
  # Sixty draws estimate a spread to 9 %. Beyond that, errors are never too
  # small.
  assert (ratio > 0.8).all()
  assert (ratio < most + 0.2).all()


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (
      lambda: ri.pair_mean(jnp.ones(3), jnp.ones(4), 0.0),
      "Expected control of the shape of values",
    ),
    (
      lambda: ri.pair_mean(jnp.ones(3), jnp.ones((2, 4)), jnp.zeros(2)),
      "Expected control of the shape of values",
    ),
    (
      lambda: ri.pair_mean(jnp.ones(3), jnp.ones((2, 3)), jnp.zeros(3)),
      r"Expected control_mean of shape \(2,\), one for each control, got",
    ),
    (
      lambda: ri.lens_means(
        sampled(0)[0], jnp.ones(()), coarse=in_two_levels(0)[1]
      ),
      "Expected coarse.same.total of the shape of components.total",
    ),
    (
      lambda: ri.lens_errors(
        in_two_levels(0)[0],
        np.zeros(100, int),
        np.ones(100, int),
        jnp.ones(2),
        coarse=in_two_levels(0)[1],
      ),
      "Expected coarse_groups with coarse",
    ),
    (
      lambda: ri.lens_errors(
        ri.Components(*(jnp.ones(3) for _ in range(3))),
        np.array([0, 1, 2]),
        np.array([0, 1, 1]),
        jnp.ones(2),
      ),
      r"Expected groups in \[0, 2\), the length of cckl_deleted, got groups\[2",
    ),
  ],
)
def test_bad_input_is_named(call, message):
  with pytest.raises(ValueError, match=message):
    call()


def test_indices_out_of_range_poison_under_jit():
  total = jnp.array([1.0, 2.0, 3.0])
  pairs = ri.Components(total, total / 2, total / 2)
  # Of three classes, (0, 3) must not count as (1, 0).
  matrices = jax.jit(ri.lens_matrices)(
    pairs, jnp.array([0, 0, 1]), jnp.array([1, 3, 2]), jnp.ones((3, 3))
  )
  errors = jax.jit(ri.lens_errors)(
    pairs, jnp.array([0, 1, 7]), jnp.array([1, 0, 7]), jnp.ones(2)
  )
  np.testing.assert_array_equal(
    matrices.count, [[0, 1, 0], [0, 0, 1], [0, 0, 0]]
  )
  for name in ("total", "non_robust", "robust", "standard_error"):
    assert np.isnan(getattr(matrices, name)).all()
  for error in jax.tree.leaves(errors):
    assert np.isnan(error).all()


# --- Temperature.


def test_temperature_minimises_the_cross_entropy():
  rng = np.random.default_rng(0)
  logits = rng.normal(size=(500, 4)).astype(np.float32)
  p = oracles.softmax(logits).astype(np.float64)
  labels = np.array([rng.choice(4, p=row / row.sum()) for row in p])
  every = np.ones(500, bool)
  best = float(fit_temperature(3 * logits, labels, where=every))

  def cross_entropy(temperature):
    log_p = oracles.log_softmax(3 * logits / temperature)
    return -log_p[np.arange(500), labels].mean()

  assert cross_entropy(best) < cross_entropy(best * 1.05)
  assert cross_entropy(best) < cross_entropy(best / 1.05)
  np.testing.assert_allclose(best, 3.0, rtol=0.2)
  where = np.arange(500) < 400
  np.testing.assert_allclose(
    fit_temperature(
      np.where(where[:, None], logits, np.nan), labels, where=where
    ),
    fit_temperature(logits[:400], labels[:400]),
    rtol=1e-5,
  )


def test_temperature_of_a_perfect_classifier_is_at_the_lower_end():
  labels = np.arange(6) % 3
  np.testing.assert_allclose(
    fit_temperature(np.eye(3, dtype=np.float32)[labels], labels),
    1e-3,
    rtol=1e-3,
  )
