"""From sampled pairs to data-set numbers with an error.

The mean of a part of the divergence is estimated with the divergence itself
as control variate: its mean over *all* cross-category pairs (CCKL) is known
exactly, and what follows it loses that much of the sampling noise [ours].

Shapes: `P` pairs, `C` classes, `G` groups of examples. All values in nats.
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
    coefficient: [], the regression slope of the values on the control.
    variance_reduction: [], how many times as many pairs the plain mean would
      need for the same error, `1 / (1 - r^2)`; at least about 1.
  """

  mean: jax.Array
  standard_error: jax.Array
  plain_mean: jax.Array
  plain_standard_error: jax.Array
  coefficient: jax.Array
  variance_reduction: jax.Array


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
  where: jax.Array | None = None,
) -> PairMean:
  """Mean of `values`, given the exact mean of something that follows them.

  `mean(values) - b (mean(control) - control_mean)`, b by least squares.

  Args:
    values: [P], at independently drawn pairs.
    control: [P], the control variate at the same pairs.
    control_mean: [], its exact mean over the population.
    where: [P] booleans; `False` pairs do not count.

  Returns:
    `PairMean`. The estimate has a bias of order 1/P from estimating b. A
    constant control changes nothing (b = 0). NaN errors for P < 3, NaN for
    P = 0.

  Raises:
    ValueError: shapes differ.
  """
  values = _validate.float_array("values", values)
  control = _validate.float_array("control", control)
  _validate.rank("values", values, 1, "[P]")
  _validate.same_shape("control", control, "values", values)
  where = _validate.mask("where", where, values.shape[0])
  num_pairs = jnp.sum(where).astype(values.dtype)
  plain = jnp.mean(values, where=where)
  control_plain = jnp.mean(control, where=where)
  deviation = jnp.where(where, values - plain, 0.0)
  control_deviation = jnp.where(where, control - control_plain, 0.0)
  control_square = jnp.sum(control_deviation**2)
  is_constant = control_square == 0
  slope = jnp.where(
    is_constant,
    0.0,
    jnp.sum(deviation * control_deviation)
    / jnp.where(is_constant, 1.0, control_square),
  )
  rest = jnp.sum((deviation - slope * control_deviation) ** 2)
  enough = jnp.where(num_pairs < 3, jnp.nan, num_pairs)
  plain_square = jnp.sum(deviation**2) / (enough - 1)
  square = rest / (enough - 2)
  return PairMean(
    mean=plain - slope * (control_plain - control_mean),
    standard_error=jnp.sqrt(square / num_pairs),
    plain_mean=plain,
    plain_standard_error=jnp.sqrt(plain_square / num_pairs),
    coefficient=slope,
    variance_reduction=plain_square / square,
  )


def lens_means(
  components: disentangle.Components, cckl: jax.Array
) -> LensMeans:
  """Mean parts over all cross-category pairs, from sampled ones.

  Args:
    components: of either lens, at pairs from `sample_cross_pairs`.
    cckl: [], the exact mean of their total over the set that the pairs were
      drawn from (`summarize(stats).cckl`).

  Returns:
    `LensMeans`. The standard errors are those of drawing pairs from this
    data set; for those of drawing the data set see `lens_errors`. The
    quadrature error of a path lens is in neither.
  """
  cckl = jnp.asarray(cckl)
  return LensMeans(
    total=cckl,
    non_robust=pair_mean(components.non_robust, components.total, cckl),
    robust=pair_mean(components.robust, components.total, cckl),
  )


def lens_errors(
  components: disentangle.Components,
  groups: jax.Array,
  groups_other: jax.Array,
  cckl_deleted: jax.Array,
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

  Returns:
    `LensErrors`. NaN if all pairs touch one group. Cost: O(G P).

  Raises:
    ValueError: wrong shapes, or groups out of range.
  """
  num_pairs = components.total.shape[0]
  deleted = _validate.float_array("cckl_deleted", cckl_deleted)
  _validate.rank("cckl_deleted", deleted, 1, "[G]")
  num_groups = deleted.shape[0]
  sides = []
  for name, value in (("groups", groups), ("groups_other", groups_other)):
    value = _validate.labels(name, value, num_pairs)
    _validate.labels_in_range(
      name, value, num_groups, meaning="the length of cckl_deleted"
    )
    sides.append(value)

  def without(group, cckl):
    where = (sides[0] != group) & (sides[1] != group)
    mean = pair_mean(
      components.non_robust, components.total, cckl, where=where
    ).mean
    return LensErrors(cckl, mean, cckl - mean, mean / cckl)

  found = jax.vmap(without)(jnp.arange(num_groups), deleted)
  return jax.tree.map(resampling.standard_error, found)


def lens_matrices(
  components: disentangle.Components,
  labels: jax.Array,
  labels_other: jax.Array,
  cckl_matrix: jax.Array,
) -> LensMatrices:
  """Mean parts by ordered pair of classes.

  Within a cell the control variate has the slope of all pairs together, so
  that a cell with a single pair is estimated, too.

  Args:
    components: of either lens, at pairs from `sample_cross_pairs`.
    labels: [P] integers, the classes of x, in [0, C).
    labels_other: [P] integers, the classes of x'.
    cckl_matrix: [C, C], exact, of the set that the pairs were drawn from.

  Returns:
    `LensMatrices`. Cost: O(P + C^2).

  Raises:
    ValueError: wrong shapes, or labels out of range.
  """
  num_pairs = components.total.shape[0]
  matrix = _validate.float_array("cckl_matrix", cckl_matrix)
  _validate.rank("cckl_matrix", matrix, 2, "[C, C]")
  num_classes = matrix.shape[0]
  cells = []
  for name, value in (("labels", labels), ("labels_other", labels_other)):
    value = _validate.labels(name, value, num_pairs)
    _validate.labels_in_range(name, value, num_classes)
    cells.append(value)
  cell = cells[0] * num_classes + cells[1]

  def by_cell(values):
    sums = jax.ops.segment_sum(values, cell, num_classes**2)
    return sums.reshape(num_classes, num_classes)

  count = by_cell(jnp.ones((num_pairs,), jnp.int32))
  slope = pair_mean(components.non_robust, components.total, 0.0).coefficient
  rest = components.non_robust - slope * components.total
  off_diagonal = ~jnp.eye(num_classes, dtype=bool)
  divisor = jnp.where((count > 0) & off_diagonal, count, jnp.nan)
  mean = by_cell(rest) / divisor
  deviation = rest - mean.reshape(-1)[cell]
  spread = by_cell(deviation**2) / jnp.where(count > 1, count - 1, jnp.nan)
  total = jnp.where(off_diagonal, matrix, jnp.nan)
  non_robust = mean + slope * total
  return LensMatrices(
    total=total,
    non_robust=non_robust,
    robust=total - non_robust,
    standard_error=jnp.sqrt(spread / divisor),
    count=count,
  )
