"""Other measures of a network's sensitivity, to compare the norms with.

Shapes: `N` examples, `B` rows of a batch, `C` classes.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from robust_info import attacks, fisher
from robust_info.evaluation import evaluator as evaluator_lib

# CLEVER (Weng et al. 2018): images, and batches of points around each.
_CLEVER_IMAGES, _CLEVER_BATCHES, _CLEVER_POINTS = 64, 16, 32
_DISTANCE_IMAGES, _DISTANCE_STEPS, _DISTANCE_TARGETS = 200, 30, 9


def measure(
  evaluator: evaluator_lib.Evaluator, variables: Any
) -> dict[str, float]:
  """Baselines of one network on the split of an evaluator.

  Args:
    evaluator: evaluator of its architecture; `settings` name the norm and the
      radius.
    variables: variables of the network.

  Returns:
    Means and medians over examples:

    * `gradient_norm_*`: dual norm of the input gradient of the cross-entropy.
    * `margin_*`: logit of the label minus the largest other logit.
    * `first_order_distance_*`: that margin, at least 0, divided by the dual
      norm of its input gradient.
    * `clever_*`: the CLEVER score of the same margin, by the maximum-likelihood
      fit of a reverse Weibull distribution to the largest gradient norms of 16
      batches of 32 points in the ball, over the first 64 examples; at most the
      radius.
    * `random_quotient_*`: the Rayleigh quotient of the Fisher information at a
      random combination of the gradients of the classes, a lower bound of its
      largest eigenvalue [our reading of arXiv:2606.04767].
    * `distance_*`: norm of the smallest change that misclassifies, found by
      FAB-T with 30 steps towards the 9 most likely wrong classes over the first
      200 examples: 0 for examples that are misclassified as they are. This is
      an upper bound found by an attack, not a baseline.

    Cost per example, for any C: four gradients; 512 for each of the 64; 810
    passes for each of the 200.
  """
  found = evaluator.over_examples(
    _local, variables, evaluator.keys.probes, norm=evaluator.settings.norm
  )
  found |= {
    "clever": _clever(evaluator, variables),
    "distance": _distances(evaluator, variables),
  }
  numbers = {}
  for name, values in found.items():
    values = np.asarray(values, np.float64)
    numbers[f"{name}_mean"] = float(values.mean())
    numbers[f"{name}_median"] = float(np.median(values))
  return numbers


def _local(logits_fn, rows, key, *, norm):
  def cross_entropy(x):
    log_p = jax.nn.log_softmax(logits_fn(x))
    return -jnp.sum(jnp.take_along_axis(log_p, rows.label[:, None], axis=1))

  size, margin = _margins(logits_fn, rows.x, rows.label, norm)
  return {
    "gradient_norm": _dual(jax.grad(cross_entropy)(rows.x), norm),
    "margin": margin,
    "first_order_distance": jnp.maximum(margin, 0) / jnp.maximum(size, 1e-30),
    "random_quotient": _quotient(
      logits_fn, rows.x, jax.random.fold_in(key, rows.start)
    ),
  }


def _quotient(logits_fn, x, key):
  """A random Rayleigh quotient `v^T F v / v^T v`, v in the range of F."""
  logits, pullback = jax.vjp(logits_fn, x)
  prob = jax.nn.softmax(logits)
  weights = jnp.sqrt(prob) * jax.random.normal(key, logits.shape)
  # `A u` with F = (J^T A) (J^T A)^T: the part of u that moves the prediction.
  (v,) = pullback(weights - prob * jnp.sum(weights, axis=1, keepdims=True))
  squared = jnp.sum(jnp.square(v).reshape(len(x), -1), axis=1)
  # Units do not matter, and small gradients would underflow when squared.
  scale = jnp.sqrt(jnp.where(squared > 0, squared, 1.0))
  unit = v / scale.reshape(-1, *[1] * (x.ndim - 1))
  return fisher.fisher_quadratic(logits_fn, x, unit)


def _margins(logits_fn, x, label, norm):
  """Dual norm of the gradient of the margin [B], and the margin [B]."""

  def margin(x):
    logits = logits_fn(x)
    own = jax.nn.one_hot(label, logits.shape[1], dtype=bool)
    values = jnp.max(jnp.where(own, logits, -jnp.inf), axis=1) - jnp.max(
      jnp.where(own, -jnp.inf, logits), axis=1
    )
    return jnp.sum(values), values

  gradient, values = jax.grad(margin, has_aux=True)(x)
  return _dual(gradient, norm), values


def _dual(gradient, norm):
  flat = gradient.reshape(len(gradient), -1)
  if norm == "linf":
    return jnp.sum(jnp.abs(flat), axis=1)
  return jnp.sqrt(jnp.sum(jnp.square(flat), axis=1))


def _clever(evaluator, variables):
  """CLEVER scores of the first examples, NumPy."""
  settings = evaluator.settings
  radius = settings.epsilon
  indices = np.arange(min(_CLEVER_IMAGES, len(evaluator.split)))
  if radius == 0:
    return np.zeros(len(indices))
  # Of each batch the largest gradient norm, [batches, images].
  largest = np.stack(
    [
      evaluator.at(
        _largest_gradient,
        variables,
        indices,
        jax.random.fold_in(evaluator.keys.probes, number),
        radius,
        norm=settings.norm,
      )[0]
      for number in range(_CLEVER_BATCHES)
    ]
  )
  margin = evaluator.at(_margin_at, variables, indices, norm=settings.norm)
  return np.array(
    [
      min(max(float(m), 0.0) / _weibull_end(maxima), radius)
      for m, maxima in zip(margin, largest.T, strict=True)
    ]
  )


def _margin_at(logits_fn, rows, *, norm):
  return _margins(logits_fn, rows.x, rows.label, norm)[1]


def _largest_gradient(logits_fn, rows, key, radius, *, norm):
  x = jnp.repeat(rows.x, _CLEVER_POINTS, axis=0)
  label = jnp.repeat(rows.label, _CLEVER_POINTS)
  if norm == "linf":
    change = jax.random.uniform(key, x.shape, minval=-radius, maxval=radius)
  else:
    direction_key, length_key = jax.random.split(key)
    change = jax.random.normal(direction_key, x.shape)
    flat = change.reshape(len(x), -1)
    length = radius * jax.random.uniform(length_key, (len(x),)) ** (
      1 / flat.shape[1]
    )
    scale = length / jnp.linalg.norm(flat, axis=1)
    change = change * scale.reshape(-1, *[1] * (x.ndim - 1))
  size, _ = _margins(logits_fn, jnp.clip(x + change, 0, 1), label, norm)
  return jnp.max(size.reshape(-1, _CLEVER_POINTS), axis=1)[None]


def _weibull_end(maxima: np.ndarray) -> float:
  """The end point of a reverse Weibull distribution fitted to maxima."""
  top = float(maxima.max())
  spread = float(np.ptp(maxima))
  if not spread > 1e-6 * top:
    return max(top, 1e-30)
  # In units of the spread, in which the optimiser of the fit is well scaled.
  fitted = stats.weibull_max.fit((maxima - top) / spread, 1.0, loc=0.1)
  end = top + spread * float(fitted[1])
  # A fit that fails ends below the sample, or anywhere.
  return end if math.isfinite(end) and top <= end <= 10 * top else top


def _distances(evaluator, variables):
  """Distances to the boundary of the first examples, NumPy."""
  indices = np.arange(min(_DISTANCE_IMAGES, len(evaluator.split)))
  return evaluator.at(
    _distance,
    variables,
    indices,
    evaluator.keys.attack,
    norm=evaluator.settings.norm,
  )


def _distance(logits_fn, rows, key, *, norm):
  whole = {"linf": 1.0, "l2": math.sqrt(rows.x[0].size)}[norm]
  clean = jnp.argmax(logits_fn(rows.x), axis=1) == rows.label
  found = attacks.fab_targeted(
    logits_fn,
    rows.x,
    rows.label,
    key,
    epsilon=whole,
    num_steps=_DISTANCE_STEPS,
    norm=norm,
    num_targets=_DISTANCE_TARGETS,
    example_ids=rows.ids,
  )
  change = (found.x_adv - rows.x).reshape(len(rows.x), -1)
  ord_ = {"linf": jnp.inf, "l2": 2}[norm]
  distance = jnp.linalg.norm(change, ord=ord_, axis=1)
  # Where nothing was found, the whole box is the bound.
  distance = jnp.where(found.success, distance, whole)
  return jnp.where(clean, distance, 0.0)
