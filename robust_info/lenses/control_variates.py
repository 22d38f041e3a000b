"""Control variates: means from samples and correlated known means.

Shapes: `P` samples (pairs), `K` control variates.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Real

from robust_info import _validate
from robust_info._xla import compiled, explicit_meshes


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
    variance_reduction: [], the factor by which the plain mean would need more
      pairs for the same error: `1 / (1 - r^2)` for a control whose mean is
      known; at least about 1.
  """

  mean: jax.Array
  standard_error: jax.Array
  plain_mean: jax.Array
  plain_standard_error: jax.Array
  coefficient: jax.Array
  variance_reduction: jax.Array


@explicit_meshes.accepted(rows=False)
def pair_mean(
  values: Float[ArrayLike, " P"],
  control: Float[ArrayLike, "*K P"],
  control_mean: Real[ArrayLike, " *K"],
  *,
  control_error: Real[ArrayLike, " *K"] = 0.0,
  where: Bool[ArrayLike, " P"] | None = None,
) -> PairMean:
  """Mean of `values`, given the means of correlated quantities.

  `mean(values) - b (mean(control) - control_mean)`, b by least squares.

  Args:
    values: [P], at independently drawn pairs.
    control: [P], the control variate at the same pairs, or [K, P].
    control_mean: [] or [K], its mean over the population.
    control_error: [] or [K], the standard error of that mean if it is itself
      an estimate, from other pairs; 0 for exact means.
    where: [P] booleans; `False` pairs do not count.

  Returns:
    `PairMean`. The estimate has a bias of order 1/P because b is estimated. A
    constant control, or one that is determined by those before it, changes
    nothing (b = 0). NaN errors for P < K + 2, NaN for P = 0.

  Raises:
    ValueError: the shapes differ.
  """
  values = _validate.float_array("values", values)
  control = _validate.float_array("control", control)
  _validate.rank("values", values, 1, "[P]")
  for row in control if control.ndim > 1 else (control,):
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
  # Arrays are arguments of the compiled program, floats a part of it.
  control_mean, control_error = map(jnp.asarray, (control_mean, control_error))
  return _pair_mean(values, control, control_mean, control_error, where)


@compiled.once
def _pair_mean(values, control, control_mean, control_error, where):
  controls = control if control.ndim > 1 else control[None]
  where = _validate.filled_mask(where, values.shape[0])
  num_pairs = jnp.sum(where).astype(values.dtype)
  plain = jnp.mean(values, where=where)
  deviation = jnp.where(where, values - plain, 0.0)
  controls_plain = jnp.mean(controls, axis=1, where=where[None])
  control_deviation = jnp.where(
    where[None], controls - controls_plain[:, None], 0.0
  )
  sizes = jnp.sum(controls**2, axis=1, where=where[None])
  slopes = _slopes(deviation, control_deviation, sizes)
  rest = jnp.sum((deviation - weighted_sum(slopes, control_deviation)) ** 2)
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


def weighted_sum(slopes: jax.Array, controls: jax.Array) -> jax.Array:
  """Sum of the rows of `controls` [K, P] with weights [K]: [P]."""
  return jnp.sum(slopes[:, None] * controls, axis=0)


def _slopes(values, controls, sizes):
  """Least squares of [P] on [K, P], all of mean 0: [K].

  `sizes` [K] are the sums of squares of the controls before their means were
  subtracted.
  """
  slopes = jnp.zeros(controls.shape[0], values.dtype)
  basis = []
  for row, size, weights in zip(
    controls,
    sizes,
    jnp.eye(len(controls), dtype=values.dtype),
    strict=True,
  ):
    rest = row
    for other, square, other_weights in basis:
      share = _ratio(jnp.sum(rest * other), square)
      rest, weights = rest - share * other, weights - share * other_weights
    square = jnp.sum(rest**2)
    # The remainder of a constant control, or of one determined by those before
    # it, is the rounding of its values and of their mean.
    rounding = row.shape[0] * jnp.finfo(row.dtype).eps ** 2 * size
    square = jnp.where(square <= rounding, 0.0, square)
    basis.append((rest, square, weights))
    slopes = slopes + _ratio(jnp.sum(values * rest), square) * weights
  return slopes


def _ratio(numerator, denominator):
  """The quotient, or 0 where the denominator is 0."""
  is_zero = denominator == 0
  return jnp.where(is_zero, 0.0, numerator / jnp.where(is_zero, 1, denominator))
