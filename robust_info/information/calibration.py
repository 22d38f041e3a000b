"""Temperature scaling: corrects the confidence of a classifier.

Information quantities depend on the scale of the logits. At the temperature
that minimises cross-entropy (Guo et al. 2017) they compare classifiers instead
of their calibration: `label_information(logits / fit_temperature(...))`.
"""

import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Integer

from robust_info import _validate
from robust_info._xla import compiled, explicit_meshes
from robust_info.information import divergences, stats

# The range of the search, and the halvings that exhaust float64 in it.
MIN_TEMPERATURE = 1e-3
MAX_TEMPERATURE = 1e3
_NUM_HALVINGS = 60


@explicit_meshes.accepted(rows=False)
def fit_temperature(
  logits: Float[ArrayLike, "N C"],
  labels: Integer[ArrayLike, " N"],
  *,
  where: Bool[ArrayLike, " N"] | None = None,
) -> Float[Array, ""]:
  """The T that minimises the cross-entropy of `softmax(logits / T)`.

  Cross-entropy is convex in 1/T, so the minimum is the only zero of its
  derivative, `mean_i (E_p[z_i] - z_i(k_i))`, which bisection finds.

  Args:
    logits: [N, C].
    labels: [N] integers in [0, C).
    where: [N] booleans; `False` rows do not count.

  Returns:
    [], in [1e-3, 1e3], and an end of this range if the minimum lies outside it:
    for a classifier without a mistake the best T is 0, for one that is no
    better than chance it is infinite. NaN if no row counts, or if a counted row
    holds NaN, `inf`, an impossible label (logit `-inf`) or (under `jax.jit`) a
    label out of range. A class of logit `-inf` that is not the label is left
    out. Not differentiable. Cost: 60 passes over the logits.

  Raises:
    TypeError: labels that are not integers.
    ValueError: wrong shapes, or labels out of range.
  """
  return _temperature(*stats.check_labelled(logits, labels, where))


@compiled.once
def _temperature(logits, labels, where):
  num_examples, num_classes = logits.shape
  where = _validate.filled_mask(where, num_examples)
  logits = jax.lax.stop_gradient(jnp.where(where[:, None], logits, 0.0))
  labels = jnp.where(where, labels, 0)
  # A label of logit -inf has an infinite loss at every temperature.
  own = jnp.take_along_axis(
    logits, jnp.clip(labels, 0, num_classes - 1)[:, None], axis=-1
  )
  is_valid = (
    jnp.any(where)
    & ~jnp.any(jnp.isnan(logits) | (logits == jnp.inf))
    & jnp.all(jnp.isfinite(own))
    & jnp.all((labels >= 0) & (labels < num_classes))
  )
  # Relative to the label's logit, so that the label's own term is zero.
  margin = logits - own

  def slope(log_beta):
    p = jnp.exp(divergences.log_softmax(margin * jnp.exp(log_beta)))
    surplus = jnp.sum(jnp.where(p == 0, 0.0, p * margin), axis=-1)
    return jnp.sum(jnp.where(where, surplus, 0.0))

  def halve(_, ends):
    low, high = ends
    middle = (low + high) / 2
    is_rising = slope(middle) > 0
    return (
      jnp.where(is_rising, low, middle),
      jnp.where(is_rising, middle, high),
    )

  # Inside `jax.shard_map` a loop must not change whether its carry differs by
  # device: the ends take that property from the logits.
  ends = tuple(
    jnp.full_like(margin, math.log(1 / end), shape=())
    for end in (MAX_TEMPERATURE, MIN_TEMPERATURE)
  )
  low, high = jax.lax.fori_loop(0, _NUM_HALVINGS, halve, ends)
  temperature = jnp.exp(-(low + high) / 2)
  return jnp.where(is_valid, temperature, jnp.nan)
