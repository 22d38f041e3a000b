"""From sampled pairs to data-set numbers with an error.

The mean of a part of the divergence is estimated with the divergence itself
as control variate: its mean over *all* cross-category pairs (CCKL) is known
exactly, and what follows it loses that much of the sampling noise [ours]. The
path lens with few segments is a second one: its mean is not known, but cheap to
find from many more pairs (two levels, as in multilevel Monte Carlo, Giles 2008;
one segment is the divergence itself, so that CCKL is the level below both).

Shapes: `P` pairs, `Q` more pairs of a coarse lens, `K` control variates, `C`
classes, `G` groups of examples. All values in nats.
"""

import dataclasses

import jax
import jax.numpy as jnp

from robust_info import _validate, disentangle, resampling


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PairMean:
  """A mean over all cross-category pairs, estimated from P of them.

  Attributes:
    mean: [], the estimate with the control variate.
    standard_error: [], its standard error over pairs.
    plain_mean: [], the mean of the sampled values alone.
    plain_standard_error: [], its standard error.
    coefficient: [], the regression slope of the values on the control; [K] for
      several.
    variance_reduction: [], how many times as many pairs the plain mean would
      need for the same error: `1 / (1 - r^2)` for a control whose mean is
      known; at least about 1.
  """

  mean: jax.Array
  standard_error: jax.Array
  plain_mean: jax.Array
  plain_standard_error: jax.Array
  coefficient: jax.Array
  variance_reduction: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class CoarseLens:
  """A cheaper version of a lens at many pairs, and at those of the lens.

  For the path lens: `disentangle_path(..., num_nodes=8)`.

  Attributes:
    many: of Q pairs from `sample_cross_pairs`, drawn by another key.
    same: of the P pairs at which the lens itself is known.
  """

  many: disentangle.Components
  same: disentangle.Components


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LensMeans:
  """The mean of a lens over all cross-category pairs.

  Attributes:
    total: [], the exact CCKL.
    non_robust: the Fisher part.
    robust: the rest. The two means add up to `total` exactly, and have one
      standard error.
  """

  total: jax.Array
  non_robust: PairMean
  robust: PairMean


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LensMatrices:
  """A lens by ordered pair of classes (row: class of x, column: of x').

  NaN on the diagonal and where no pair was sampled.

  Attributes:
    total: [C, C], the exact CCKL matrix off the diagonal.
    non_robust: [C, C], estimated means of the Fisher part.
    robust: [C, C], `total - non_robust`.
    standard_error: [C, C], of both estimates; NaN with fewer than two pairs.
    count: [C, C] int32, sampled pairs.
  """

  total: jax.Array
  non_robust: jax.Array
  robust: jax.Array
  standard_error: jax.Array
  count: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LensErrors:
  """Standard errors over examples of the means in `LensMeans`.

  Attributes:
    total: [], of the exact CCKL.
    non_robust: [], of the mean of the Fisher part.
    robust: [], of the mean of the rest.
    non_robust_share: [], of `non_robust / total`.
  """

  total: jax.Array
  non_robust: jax.Array
  robust: jax.Array
  non_robust_share: jax.Array


def pair_mean(
  values: jax.Array,
  control: jax.Array,
  control_mean: jax.Array,
  *,
  control_error: jax.Array = 0.0,
  where: jax.Array | None = None,
) -> PairMean:
  """Mean of `values`, given the means of things that follow them.

  `mean(values) - b (mean(control) - control_mean)`, b by least squares.

  Args:
    values: [P], at independently drawn pairs.
    control: [P], the control variate at the same pairs, or [K, P].
    control_mean: [] or [K], its mean over the population.
    control_error: [] or [K], the standard error of that mean where it is itself
      an estimate, from other pairs; 0 for exact ones.
    where: [P] booleans; `False` pairs do not count.

  Returns:
    `PairMean`. The estimate has a bias of order 1/P from estimating b. A
    constant control, or one that those before it determine, changes nothing
    (b = 0). NaN errors for P < K + 2, NaN for P = 0.

  Raises:
    ValueError: shapes differ.
  """
  values = _validate.float_array("values", values)
  control = _validate.float_array("control", control)
  _validate.rank("values", values, 1, "[P]")
  controls = control if control.ndim > 1 else control[None]
  for row in controls:
    _validate.same_shape("control", row, "values", values)
  for name, known in (
    ("control_mean", control_mean),
    ("control_error", control_error),
  ):
    if jnp.shape(known) not in ((), control.shape[:-1]):
      raise ValueError(
        f"Expected {name} of shape {control.shape[:-1]}, one for each control, "
        f"got {jnp.shape(known)}."
      )
  where = _validate.mask("where", where, values.shape[0])
  num_pairs = jnp.sum(where).astype(values.dtype)
  plain = jnp.mean(values, where=where)
  deviation = jnp.where(where, values - plain, 0.0)
  controls_plain = jnp.mean(controls, axis=1, where=where[None])
  control_deviation = jnp.where(
    where[None], controls - controls_plain[:, None], 0.0
  )
  slopes = _slopes(deviation, control_deviation)
  rest = jnp.sum((deviation - _weighted(slopes, control_deviation)) ** 2)
  least = len(controls) + 2
  enough = jnp.where(num_pairs < least, jnp.nan, num_pairs)
  plain_square = jnp.sum(deviation**2) / (enough - 1)
  square = rest / (enough - len(controls) - 1)
  excess = controls_plain - control_mean
  variance = square / num_pairs + jnp.sum((slopes * control_error) ** 2)
  return PairMean(
    mean=plain - jnp.sum(slopes * excess),
    standard_error=jnp.sqrt(variance),
    plain_mean=plain,
    plain_standard_error=jnp.sqrt(plain_square / num_pairs),
    coefficient=slopes if control.ndim > 1 else slopes[0],
    variance_reduction=plain_square / num_pairs / variance,
  )


def _slopes(values, controls):
  """Least squares of [P] on [K, P], all of mean 0: [K]."""
  slopes = jnp.zeros(controls.shape[0], values.dtype)
  basis = []
  for row, weights in zip(
    controls, jnp.eye(len(controls), dtype=values.dtype), strict=True
  ):
    rest = row
    for other, square, other_weights in basis:
      share = _ratio(jnp.sum(rest * other), square)
      rest, weights = rest - share * other, weights - share * other_weights
    square = jnp.sum(rest**2)
    # What is left of a control that those before determine is rounding.
    rounding = row.shape[0] * jnp.finfo(row.dtype).eps ** 2 * jnp.sum(row**2)
    square = jnp.where(square <= rounding, 0.0, square)
    basis.append((rest, square, weights))
    slopes = slopes + _ratio(jnp.sum(values * rest), square) * weights
  return slopes


def _ratio(numerator, denominator):
  """0 where the denominator is."""
  is_zero = denominator == 0
  return jnp.where(is_zero, 0.0, numerator / jnp.where(is_zero, 1, denominator))


def _weighted(slopes, controls):
  return jnp.sum(slopes[:, None] * controls, axis=0)


def lens_means(
  components: disentangle.Components,
  cckl: jax.Array,
  *,
  coarse: CoarseLens | None = None,
) -> LensMeans:
  """Mean parts over all cross-category pairs, from sampled ones.

  Args:
    components: of either lens, at pairs from `sample_cross_pairs`.
    cckl: [], the exact mean of their total over the set that the pairs were
      drawn from (`summarize(stats).cckl`).
    coarse: a cheaper version of the lens, for a second control variate whose
      mean is taken from its many pairs.

  Returns:
    `LensMeans`. The standard errors are those of drawing pairs from this
    data set; for those of drawing the data set see `lens_errors`. The
    quadrature error of a path lens is in neither; that of `coarse` does not
    matter. The variance reduction counts pairs and not passes: it says nothing
    of what the many coarse ones cost.
  """
  cckl = jnp.asarray(cckl)
  control, means, errors = _controls(components, cckl, coarse)
  return LensMeans(
    total=cckl,
    non_robust=pair_mean(components.non_robust, control, means, **errors),
    robust=pair_mean(components.robust, control, means, **errors),
  )


def _controls(components, cckl, coarse, where=None):
  """Control variates of a lens, their means, and how well these are known."""
  if coarse is None:
    return components.total, cckl, {}
  _check_same(coarse, components)
  many = pair_mean(coarse.many.non_robust, coarse.many.total, cckl, where=where)
  return (
    jnp.stack([coarse.same.non_robust, components.total]),
    jnp.stack([many.mean, jnp.asarray(cckl, many.mean.dtype)]),
    {"control_error": jnp.stack([many.standard_error, jnp.zeros_like(cckl)])},
  )


def _check_same(coarse, components):
  _validate.same_shape(
    "coarse.same.total", coarse.same.total, "components.total", components.total
  )


def lens_errors(
  components: disentangle.Components,
  groups: jax.Array,
  groups_other: jax.Array,
  cckl_deleted: jax.Array,
  *,
  coarse: CoarseLens | None = None,
  coarse_groups: tuple[jax.Array, jax.Array] | None = None,
) -> LensErrors:
  """Uncertainty over examples of `lens_means`, by the jackknife [ours].

  Deletes a group of examples with all pairs that touch it, G times. Examples
  and pairs are both drawn, and both errors are in the result; since a pair
  belongs to two groups, the part that comes from drawing pairs counts twice
  (Efron and Stein 1981): the error is at most a factor of sqrt(2) too large,
  and right where there are many pairs for each example.

  Args:
    components: of either lens, at pairs from `sample_cross_pairs`.
    groups: [P] integers in [0, G), the group of x in the jackknife.
    groups_other: [P] integers in [0, G), the group of x'.
    cckl_deleted: [G], the exact CCKL without each group:
      `jackknife(parts, lambda s: summarize(s).cckl).deleted`.
    coarse: as in `lens_means`.
    coarse_groups: with `coarse`, the groups of x and x' of its many pairs, both
      [Q].

  Returns:
    `LensErrors`. NaN if all pairs touch one group. Cost: O(G (P + Q)).

  Raises:
    ValueError: wrong shapes, groups out of range, or `coarse` without its
      groups.
  """
  deleted = _validate.float_array("cckl_deleted", cckl_deleted)
  _validate.rank("cckl_deleted", deleted, 1, "[G]")
  num_groups = deleted.shape[0]
  sides = _sides(
    "groups",
    (groups, groups_other),
    components,
    num_groups,
    "the length of cckl_deleted",
  )
  coarse_sides = _coarse_sides(
    "coarse_groups",
    coarse_groups,
    coarse,
    num_groups,
    "the length of cckl_deleted",
  )

  def without(group, cckl):
    where, coarse_where = (
      None if pair is None else (pair[0] != group) & (pair[1] != group)
      for pair in (sides, coarse_sides)
    )
    control, means, errors = _controls(components, cckl, coarse, coarse_where)
    mean = pair_mean(
      components.non_robust, control, means, where=where, **errors
    ).mean
    return LensErrors(cckl, mean, cckl - mean, mean / cckl)

  found = jax.vmap(without)(jnp.arange(num_groups), deleted)
  return jax.tree.map(resampling.standard_error, found)


def lens_matrices(
  components: disentangle.Components,
  labels: jax.Array,
  labels_other: jax.Array,
  cckl_matrix: jax.Array,
  *,
  coarse: CoarseLens | None = None,
  coarse_labels: tuple[jax.Array, jax.Array] | None = None,
) -> LensMatrices:
  """Mean parts by ordered pair of classes.

  Within a cell the control variates have the slopes of all pairs together, so
  that a cell with a single pair is estimated, too.

  Args:
    components: of either lens, at pairs from `sample_cross_pairs`.
    labels: [P] integers, the classes of x, in [0, C).
    labels_other: [P] integers, the classes of x'.
    cckl_matrix: [C, C], exact, of the set that the pairs were drawn from.
    coarse: as in `lens_means`.
    coarse_labels: with `coarse`, the classes of x and x' of its many pairs,
      both [Q].

  Returns:
    `LensMatrices`. Cost: O(P + Q + C^2).

  Raises:
    ValueError: wrong shapes, labels out of range, or `coarse` without its
      labels.
  """
  matrix = _validate.float_array("cckl_matrix", cckl_matrix)
  _validate.rank("cckl_matrix", matrix, 2, "[C, C]")
  num_classes = matrix.shape[0]
  sides = _sides("labels", (labels, labels_other), components, num_classes)
  coarse_sides = _coarse_sides(
    "coarse_labels", coarse_labels, coarse, num_classes
  )
  off_diagonal = ~jnp.eye(num_classes, dtype=bool)
  total = jnp.where(off_diagonal, matrix, jnp.nan)
  # Controls at the pairs, their mean in each cell, and its error.
  controls, means = components.total[None], total[None]
  variances = jnp.zeros_like(means)
  if coarse is not None:
    _check_same(coarse, components)
    many = lens_matrices(coarse.many, *coarse_sides, matrix)
    controls = jnp.stack([coarse.same.non_robust, components.total])
    means = jnp.stack([many.non_robust, total])
    variances = jnp.stack([many.standard_error**2, jnp.zeros_like(total)])
  slopes = pair_mean(components.non_robust, controls, 0.0).coefficient
  cell = sides[0] * num_classes + sides[1]

  def by_cell(values):
    sums = jax.ops.segment_sum(values, cell, num_classes**2)
    return sums.reshape(num_classes, num_classes)

  count = by_cell(jnp.ones(cell.shape, jnp.int32))
  rest = components.non_robust - _weighted(slopes, controls)
  divisor = jnp.where((count > 0) & off_diagonal, count, jnp.nan)
  mean = by_cell(rest) / divisor
  deviation = rest - mean.reshape(-1)[cell]
  spread = by_cell(deviation**2) / jnp.where(count > 1, count - 1, jnp.nan)
  weights = slopes[:, None, None]
  non_robust = mean + jnp.sum(weights * means, axis=0)
  variance = spread / divisor + jnp.sum(weights**2 * variances, axis=0)
  return LensMatrices(
    total=total,
    non_robust=non_robust,
    robust=total - non_robust,
    standard_error=jnp.sqrt(variance),
    count=count,
  )


def _sides(name, pair, components, bound, meaning="the number of classes"):
  """Checked integers of x and x'."""
  return tuple(
    _in_range(side, value, components.total.shape[0], bound, meaning)
    for side, value in zip((name, f"{name}_other"), pair, strict=True)
  )


def _coarse_sides(name, pair, coarse, bound, meaning="the number of classes"):
  if coarse is None:
    return None
  if pair is None:
    raise ValueError(f"Expected {name} with coarse, got {name}=None.")
  num_pairs = coarse.many.total.shape[0]
  return tuple(
    _in_range(f"{name}[{k}]", value, num_pairs, bound, meaning)
    for k, value in enumerate(pair)
  )


def _in_range(name, value, num_pairs, bound, meaning):
  value = _validate.labels(name, value, num_pairs)
  _validate.labels_in_range(name, value, bound, meaning=meaning)
  return value
