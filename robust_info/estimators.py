"""From samples to data-set numbers with an error: pairs and examples.

* Over sampled pairs: the mean of a part of the divergence, with the divergence
  itself as control variate. Its mean over *all* cross-category pairs (CCKL) is
  known exactly, and the parts follow it closely, so that most of the sampling
  noise cancels [ours].
* Over examples: the delete-a-group jackknife for anything computed from
  `InformationStats` (Kott 2001).

Shapes: `P` pairs, `C` classes, `G` groups of examples. All values in nats.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from robust_info import _validate, accumulator, disentangle


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
class Jackknife:
  """A statistic of a data set and its uncertainty over examples.

  Every field is a pytree of the structure of the statistic.

  Attributes:
    estimate: the statistic of all examples.
    standard_error: of it.
    bias: the jackknife estimate of its bias; `estimate - bias` is corrected to
      first order in 1/N.
    low: `estimate - z standard_error`.
    high: `estimate + z standard_error`, z the normal quantile of the level.
  """

  estimate: Any
  standard_error: Any
  bias: Any
  low: Any
  high: Any


def pair_mean(
  values: jax.Array, control: jax.Array, control_mean: jax.Array
) -> PairMean:
  """Mean of `values`, given the exact mean of something that follows them.

  `mean(values) - b (mean(control) - control_mean)`, b by least squares.

  Args:
    values: [P], at independently drawn pairs.
    control: [P], the control variate at the same pairs.
    control_mean: [], its exact mean over the population.

  Returns:
    `PairMean`. The estimate has a bias of order 1/P from estimating b. A
    constant control changes nothing (b = 0). NaN errors for P < 3.

  Raises:
    ValueError: shapes differ.
  """
  values = _validate.float_array("values", values)
  control = _validate.float_array("control", control)
  _validate.rank("values", values, 1, "[P]")
  _validate.same_shape("control", control, "values", values)
  num_pairs = values.shape[0]
  plain = jnp.mean(values)
  deviation = values - plain
  control_deviation = control - jnp.mean(control)
  control_square = jnp.sum(control_deviation**2)
  is_constant = control_square == 0
  slope = jnp.where(
    is_constant,
    0.0,
    jnp.sum(deviation * control_deviation)
    / jnp.where(is_constant, 1.0, control_square),
  )
  rest = jnp.sum((deviation - slope * control_deviation) ** 2)
  plain_square = jnp.sum(deviation**2) / (num_pairs - 1)
  square = rest / (num_pairs - 2)
  if num_pairs < 3:
    square = plain_square = jnp.full_like(plain, jnp.nan)
  return PairMean(
    mean=plain - slope * (jnp.mean(control) - control_mean),
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
    `LensMeans`. The quadrature error of a path lens is not part of the
    standard errors.
  """
  cckl = jnp.asarray(cckl)
  return LensMeans(
    total=cckl,
    non_robust=pair_mean(components.non_robust, components.total, cckl),
    robust=pair_mean(components.robust, components.total, cckl),
  )


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


def jackknife(
  parts: Sequence[accumulator.InformationStats],
  statistic: Callable[[accumulator.InformationStats], Any],
  *,
  level: float = 0.95,
) -> Jackknife:
  """Uncertainty over examples of any statistic of a data set.

  Args:
    parts: the statistics of G disjoint groups of examples, similar in size and
      drawn alike (example i to group i mod G, not sorted by class); 20 or more
      for a usable error.
    statistic: from `InformationStats` to a pytree of float arrays, for example
      `summarize` or `lambda s: summarize(s).cckl`. Must be traceable.
    level: of the interval, in (0, 1).

  Returns:
    `Jackknife`. Integer leaves of the statistic become floats. Cost: O(G)
    merges and G + 1 evaluations of the statistic.

  Raises:
    ValueError: fewer than two groups, or a level outside (0, 1).
  """
  parts = list(parts)
  if len(parts) < 2:
    raise ValueError(
      f"Expected parts of at least two groups of examples, got {len(parts)}."
    )
  if not 0 < level < 1:
    raise ValueError(f"Expected level in (0, 1), got level={level}.")
  stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *parts)
  estimate, deleted = _delete_each(stacked, statistic)
  quantile = jax.scipy.special.ndtri(0.5 + level / 2)
  scale = (len(parts) - 1) / len(parts)

  def error(without):
    mean = jnp.mean(without, axis=0, keepdims=True)
    return jnp.sqrt(scale * jnp.sum((without - mean) ** 2, axis=0))

  standard_error = jax.tree.map(error, deleted)

  def bound(sign):
    return jax.tree.map(
      lambda e, s: e + sign * quantile * s, estimate, standard_error
    )

  return Jackknife(
    estimate=estimate,
    standard_error=standard_error,
    bias=jax.tree.map(
      lambda without, e: (len(parts) - 1) * (jnp.mean(without, axis=0) - e),
      deleted,
      estimate,
    ),
    low=bound(-1),
    high=bound(1),
  )


@functools.partial(jax.jit, static_argnames="statistic")
def _delete_each(stacked, statistic):
  """The statistic of all groups, and [G] of all but one, from running sums."""
  zero = jax.tree.map(lambda leaf: jnp.zeros_like(leaf[0]), stacked)

  def add(total, part):
    return total + part, total

  total, before = jax.lax.scan(add, zero, stacked)
  _, after = jax.lax.scan(add, zero, stacked, reverse=True)

  def measure(stats):
    return jax.tree.map(
      lambda leaf: leaf.astype(stacked.spread.high.dtype), statistic(stats)
    )

  def without(_, sides):
    return None, measure(sides[0] + sides[1])

  return measure(total), jax.lax.scan(without, None, (before, after))[1]
