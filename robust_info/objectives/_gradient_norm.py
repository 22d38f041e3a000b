"""Cross-entropy plus the norm of its gradient in the input."""

import dataclasses

import jax
import jax.numpy as jnp

from robust_info import _validate
from robust_info._xla import contractions
from robust_info.attacks import projections, steps
from robust_info.objectives import _standard, base

ESTIMATORS = ("exact", "finite_difference")
NORMS = ("linf", "l2")


def gradient_norm(
  network: base.Network,
  batch: base.Examples,
  key: jax.Array,
  *,
  progress: jax.Array | float = 1.0,
  norm: str = "linf",
  coefficient: float = 0.1,
  estimator: str = "exact",
  difference: float = 0.01,
  label_smoothing: float = 0.0,
) -> base.Outcome:
  """Cross-entropy plus `coefficient` times the norm of its input gradient.

      l(x) + coefficient * |g|_*,   g = grad_x l(x)

  The norm is dual to that of the ball: l1 for `linf`, l2 for `l2`. So the sum
  is, to first order, the largest loss in a ball of radius `coefficient`.
  Drucker & Le Cun, "Double backpropagation increasing generalization
  performance", 1991; Simon-Gabriel et al., "First-order adversarial
  vulnerability of neural networks and input dimension", 2019. There is no
  attack, no epsilon and no random number.

  Args:
    network: network, in training mode in the cross-entropy; in evaluation mode
      in the penalty, differentiated through.
    batch: batch of N examples.
    key: not used.
    progress: not used.
    norm: norm of the ball, `linf` or `l2`; the penalty has its dual.
    coefficient: weight of the penalty, in input units; with 0 the loss is that
      of `standard`.
    estimator: form of the penalty. Its cost comes on top of the forward pass of
      the cross-entropy:

      - `exact`: one forward and one backward pass, which are differentiated a
        second time (double backpropagation). A network of ReLUs has no second
        derivative except through the softmax;
      - `finite_difference`: Finlay & Oberman, "Scaleable input gradient
        regularization for adversarial robustness", 2019: one gradient, which
        gives the direction d of steepest ascent (sign g, or g / |g|_2), and
        (l(x + h d) - l(x)) / h with h = `difference`, one more forward pass. d
        is a constant to the gradient, so it is differentiated only once. The
        error is h d'Hd / 2 for the Hessian H, and the value may be negative.
        The step is not cut to [0, 1]. Its authors penalise half the square.
    difference: h, in input units: length of the step in `norm`. In float32
      rounding adds about 1e-7 l(x) / h; in bfloat16 so much more that h below
      0.01 for `linf`, or 0.1 for `l2`, gives noise.
    label_smoothing: label smoothing of the cross-entropy; the penalty has none.

  Returns:
    Loss [N] with the metrics of `standard` and `input_gradient_norm`. The
    points of `finite_difference` are x + h d.

  Raises:
    ValueError: the norm or the estimator is unknown.
  """
  _validate.one_of("norm", norm, NORMS)
  _validate.one_of("estimator", estimator, ESTIMATORS)
  outcome = _standard.standard(
    network, batch, key, label_smoothing=label_smoothing
  )
  points = None
  if estimator == "exact":
    penalty = _dual_norm(
      base.input_gradient(network, batch.image, batch.label)[1], norm
    )
  else:
    penalty, points = _slope(network, batch, norm, difference)
  return dataclasses.replace(
    outcome,
    loss=outcome.loss + coefficient * penalty,
    metrics={**outcome.metrics, "input_gradient_norm": penalty},
    points=points,
  )


def _dual_norm(gradient: jax.Array, norm: str) -> jax.Array:
  """[N] dual norms of gradients [N, ...]; their own gradient at 0 is 0."""
  flat = contractions.flat(gradient)
  if norm == "linf":
    return jnp.sum(jnp.abs(flat), axis=-1)
  # The squares of the tiny gradients of a saturated loss would underflow.
  largest = jax.lax.stop_gradient(projections.norm(gradient, "linf"))
  scale = jnp.where(largest > 0, largest, 1.0)
  squares = jnp.sum((flat / scale[:, None]) ** 2, axis=-1)
  return scale * base.safe_sqrt(squares)


def _slope(
  network: base.Network, batch: base.Examples, norm: str, difference: float
) -> tuple[jax.Array, jax.Array]:
  """Finite difference [N] of the loss along its steepest ascent, and x + h d.

  If the network carries these points, they are not computed again.
  """
  x, points = batch.image, network.points
  if points is None:
    losses, gradient = base.input_gradient(network, x, batch.label)
    direction = steps.BY_NORM[norm](gradient, x, low=0.0, high=1.0)
    points = jax.lax.stop_gradient(x + difference * direction)
  else:
    losses = base.cross_entropy(network.evaluate(x), batch.label)
  ahead = base.cross_entropy(network.evaluate(points), batch.label)
  return (ahead - losses) / difference, points
