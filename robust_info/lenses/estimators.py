"""Data-set means of a lens with standard errors, from sampled pairs.

The mean of a part of the divergence is estimated with the divergence itself
as control variate: its mean over *all* cross-category pairs (CCKL) is known
exactly, which removes the correlated share of the sampling noise [ours]. The
path lens with few segments is a second control variate: its mean is not known,
but is cheap to estimate from many more pairs (two levels, as in multilevel
Monte Carlo, Giles 2008; one segment is the divergence itself, so that CCKL is
the level below both).

Shapes: `P` pairs, `Q` more pairs of a coarse lens, `C` classes, `G` groups of
examples. All values in nats.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Float, Integer, Real

from robust_info import _validate
from robust_info._xla import compiled, explicit_meshes
from robust_info.information import _jackknife
from robust_info.lenses import components as components_lib
from robust_info.lenses import control_variates


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class CoarseLens:
  """A cheaper version of a lens at many pairs, and at the pairs of the lens.

  For the path lens: `disentangle_path(..., num_nodes=8)`.

  Attributes:
    many: components at Q pairs from `sample_cross_pairs`, drawn with another
      key.
    same: components at the P pairs at which the lens itself is known.
  """

  many: components_lib.Components
  same: components_lib.Components


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LensMeans:
  """The mean of a lens over all cross-category pairs.

  Attributes:
    total: [], the exact CCKL.
    non_robust: the Fisher part.
    robust: the robust rest. The two means add up to `total` exactly, and have
      the same standard error.
  """

  total: jax.Array
  non_robust: control_variates.PairMean
  robust: control_variates.PairMean


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
    count: [C, C] int32, number of sampled pairs.
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
    total: [], standard error of the exact CCKL.
    non_robust: [], standard error of the mean of the Fisher part.
    robust: [], standard error of the mean of the rest.
    non_robust_share: [], standard error of `non_robust / total`.
  """

  total: jax.Array
  non_robust: jax.Array
  robust: jax.Array
  non_robust_share: jax.Array


@explicit_meshes.accepted(rows=False)
def lens_means(
  components: components_lib.Components,
  cckl: Real[ArrayLike, ""],
  *,
  coarse: CoarseLens | None = None,
) -> LensMeans:
  """Mean parts over all cross-category pairs, from sampled pairs.

  Args:
    components: result of either lens, at pairs from `sample_cross_pairs`.
    cckl: [], the exact mean of their total over the set that the pairs were
      drawn from (`summarize(stats).cckl`).
    coarse: a cheaper version of the lens, for a second control variate whose
      mean is estimated from its many pairs.

  Returns:
    `LensMeans`. The standard errors are those of drawing pairs from this
    data set; for those of drawing the data set see `lens_errors`. Neither
    includes the quadrature error of a path lens; that of `coarse` does not
    matter. The variance reduction counts pairs and not passes: it does not
    account for the cost of the many coarse pairs.
  """
  return _means(components, jnp.asarray(cckl), coarse)


@compiled.once
def _means(components, cckl, coarse):
  control, means, errors = _controls(components, cckl, coarse)
  return LensMeans(
    total=cckl,
    non_robust=control_variates.pair_mean(
      components.non_robust, control, means, **errors
    ),
    robust=control_variates.pair_mean(
      components.robust, control, means, **errors
    ),
  )


def _controls(components, cckl, coarse, where=None):
  """Control variates of a lens, their means, and the errors of these means."""
  if coarse is None:
    return components.total, cckl, {}
  _check_same(coarse, components)
  many = control_variates.pair_mean(
    coarse.many.non_robust, coarse.many.total, cckl, where=where
  )
  return (
    jnp.stack([coarse.same.non_robust, components.total]),
    jnp.stack([many.mean, jnp.asarray(cckl, many.mean.dtype)]),
    {"control_error": jnp.stack([many.standard_error, jnp.zeros_like(cckl)])},
  )


def _check_same(coarse, components):
  _validate.same_shape(
    "coarse.same.total", coarse.same.total, "components.total", components.total
  )


@explicit_meshes.accepted(rows=False)
def lens_errors(
  components: components_lib.Components,
  groups: Integer[ArrayLike, " P"],
  groups_other: Integer[ArrayLike, " P"],
  cckl_deleted: Float[ArrayLike, " G"],
  *,
  coarse: CoarseLens | None = None,
  coarse_groups: tuple[Integer[ArrayLike, " Q"], Integer[ArrayLike, " Q"]]
  | None = None,
) -> LensErrors:
  """Uncertainty over examples of `lens_means`, by the jackknife [ours].

  Deletes a group of examples with all pairs that involve it, G times. Examples
  and pairs are both drawn, and the result contains both errors. Since a pair
  belongs to two groups, the part that comes from drawing pairs counts twice
  (Efron and Stein 1981): the error is at most a factor of sqrt(2) too large,
  and correct where there are many pairs per example.

  Args:
    components: result of either lens, at pairs from `sample_cross_pairs`.
    groups: [P] integers in [0, G), the group of x in the jackknife.
    groups_other: [P] integers in [0, G), the group of x'.
    cckl_deleted: [G], the exact CCKL without each group:
      `jackknife(parts, lambda s: summarize(s).cckl).deleted`.
    coarse: as in `lens_means`.
    coarse_groups: with `coarse`, the groups of x and x' of its many pairs, both
      [Q].

  Returns:
    `LensErrors`. NaN if one group is part of all pairs. A group out of range
    raises where groups are concrete; under `jax.jit` all errors are then NaN.
    Cost: O(G (P + Q)).

  Raises:
    ValueError: a shape is wrong, a group is out of range, or `coarse` is given
      without its groups.
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
  return _errors(components, sides, deleted, coarse, coarse_sides)


@compiled.once
def _errors(components, sides, deleted, coarse, coarse_sides):
  num_groups = deleted.shape[0]

  def without(group, cckl):
    where, coarse_where = (
      None if pair is None else (pair[0] != group) & (pair[1] != group)
      for pair in (sides, coarse_sides)
    )
    control, means, errors = _controls(components, cckl, coarse, coarse_where)
    mean = control_variates.pair_mean(
      components.non_robust, control, means, where=where, **errors
    ).mean
    return LensErrors(cckl, mean, cckl - mean, mean / cckl)

  found = jax.vmap(without)(jnp.arange(num_groups, dtype=jnp.int32), deleted)
  errors = jax.tree.map(_jackknife.standard_error, found)
  known = _all_in_range(num_groups, sides, coarse_sides)
  return jax.tree.map(lambda error: jnp.where(known, error, jnp.nan), errors)


@explicit_meshes.accepted(rows=False)
@_validate.promises_nan
def lens_matrices(
  components: components_lib.Components,
  labels: Integer[ArrayLike, " P"],
  labels_other: Integer[ArrayLike, " P"],
  cckl_matrix: Float[ArrayLike, "C C"],
  *,
  coarse: CoarseLens | None = None,
  coarse_labels: tuple[Integer[ArrayLike, " Q"], Integer[ArrayLike, " Q"]]
  | None = None,
) -> LensMatrices:
  """Mean parts by ordered pair of classes.

  Within a cell the control variates have the slopes of all pairs together, so
  that a cell with a single pair is estimated, too. A cell of fewer than two
  coarse pairs is estimated as if there was no `coarse`.

  Args:
    components: result of either lens, at pairs from `sample_cross_pairs`.
    labels: [P] integers, the classes of x, in [0, C).
    labels_other: [P] integers, the classes of x'.
    cckl_matrix: [C, C], exact matrix of the set the pairs were drawn from.
    coarse: as in `lens_means`.
    coarse_labels: with `coarse`, the classes of x and x' of its many pairs,
      both [Q].

  Returns:
    `LensMatrices`. A label out of range raises where labels are concrete; under
    `jax.jit` all matrices but `count`, which leaves the pair out, are then NaN.
    Cost: O(P + Q + C^2).

  Raises:
    ValueError: a shape is wrong, a label is out of range, or `coarse` is given
      without its labels.
  """
  matrix = _validate.float_array("cckl_matrix", cckl_matrix)
  _validate.rank("cckl_matrix", matrix, 2, "[C, C]")
  num_classes = matrix.shape[0]
  sides = _sides("labels", (labels, labels_other), components, num_classes)
  coarse_sides = _coarse_sides(
    "coarse_labels", coarse_labels, coarse, num_classes
  )
  return _matrices(components, sides, matrix, coarse, coarse_sides)


@compiled.once
def _matrices(components, sides, matrix, coarse=None, coarse_sides=None):
  num_classes = matrix.shape[0]
  off_diagonal = ~jnp.eye(num_classes, dtype=bool)
  known = _all_in_range(num_classes, sides, coarse_sides)
  total = jnp.where(off_diagonal & known, matrix, jnp.nan)
  cell = _cells(num_classes, *sides)

  def by_cell(values):
    sums = jax.ops.segment_sum(values, cell, num_classes**2)
    return sums.reshape(num_classes, num_classes)

  count = by_cell(jnp.ones(cell.shape, jnp.int32))
  number = count.astype(matrix.dtype)
  divisor = jnp.where((count > 0) & off_diagonal & known, number, jnp.nan)

  def estimate(controls, means, variances):
    """Non-robust part by cell and its variance, from those of the controls."""
    slopes = control_variates.pair_mean(
      components.non_robust, controls, 0.0
    ).coefficient
    rest = components.non_robust - control_variates.weighted_sum(
      slopes, controls
    )
    mean = by_cell(rest) / divisor
    deviation = rest - mean.reshape(-1)[cell]
    spread = by_cell(deviation**2) / jnp.where(count > 1, number - 1, jnp.nan)
    weights = slopes[:, None, None]
    return (
      mean + jnp.sum(weights * means, axis=0),
      spread / divisor + jnp.sum(weights**2 * variances, axis=0),
    )

  exact = jnp.zeros_like(total)
  non_robust, variance = estimate(
    components.total[None], total[None], exact[None]
  )
  if coarse is not None:
    _check_same(coarse, components)
    many = _matrices(coarse.many, coarse_sides, matrix)
    in_two_levels = estimate(
      jnp.stack([coarse.same.non_robust, components.total]),
      jnp.stack([many.non_robust, total]),
      jnp.stack([many.standard_error**2, exact]),
    )
    non_robust, variance = (
      jnp.where(many.count > 1, finer, coarser)
      for finer, coarser in zip(
        in_two_levels, (non_robust, variance), strict=True
      )
    )
  return LensMatrices(
    total=total,
    non_robust=non_robust,
    robust=total - non_robust,
    standard_error=jnp.sqrt(variance),
    count=count,
  )


def _cells(num_classes, side, other):
  """Indices [P] of the cells of pairs.

  A pair of a class that does not exist must not count in another cell: its
  index is past the last cell, where sums leave it out.
  """
  known = _in_range(num_classes, side, other)
  return jnp.where(known, side * num_classes + other, num_classes**2)


def _sides(name, pair, components, bound, meaning="the number of classes"):
  """Validates the integers of x and x'."""
  return tuple(
    _checked(side, value, components.total.shape[0], bound, meaning)
    for side, value in zip((name, f"{name}_other"), pair, strict=True)
  )


def _coarse_sides(name, pair, coarse, bound, meaning="the number of classes"):
  if coarse is None:
    return None
  if pair is None:
    raise ValueError(f"Expected {name} with coarse, got {name}=None.")
  num_pairs = coarse.many.total.shape[0]
  return tuple(
    _checked(f"{name}[{k}]", value, num_pairs, bound, meaning)
    for k, value in enumerate(pair)
  )


def _checked(name, value, num_pairs, bound, meaning):
  value = _validate.labels(name, value, num_pairs)
  _validate.labels_in_range(name, value, bound, meaning=meaning)
  return value


def _in_range(bound, side, other):
  """[P] bool, whether both integers of a pair lie in [0, bound)."""
  return (side >= 0) & (side < bound) & (other >= 0) & (other < bound)


def _all_in_range(bound, *pairs):
  """[] bool, whether all integers of these pairs, or `None`, are in range."""
  found = [jnp.all(_in_range(bound, *pair)) for pair in pairs if pair]
  return functools.reduce(jnp.logical_and, found)
