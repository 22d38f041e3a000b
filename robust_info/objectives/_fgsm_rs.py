"""Cross-entropy one step from a random start, with gradient alignment."""

import dataclasses

import jax
import jax.numpy as jnp

from robust_info._xla import contractions
from robust_info.attacks import initial
from robust_info.objectives import _pgd, base


def fgsm_rs(
  network: base.Network,
  batch: base.Examples,
  key: jax.Array,
  *,
  progress: jax.Array | float = 1.0,
  epsilon: jax.Array | float,
  norm: str = "linf",
  step_size: float = 1.25,
  epsilon_ramp: float = 0.0,
  alignment: float = 0.0,
  label_smoothing: float = 0.0,
) -> base.Outcome:
  """Adversarial training with one step from a random start.

  Wong, Rice, Kolter, "Fast is better than free", 2020. Training with one step
  can collapse within an epoch to a network that resists single steps only
  (watch `robust_accuracy` of the validation, not `adversarial_accuracy`).
  Gradient alignment (Andriushchenko & Flammarion 2020) guards against this: a
  penalty on 1 - cos of the angle between the input gradients at the image and
  at a random point of the ball.

  Cost: one forward and backward pass for the attack, one forward pass for the
  loss; with `alignment` two more gradients, differentiated a second time.

  Args:
    network: network, in evaluation mode in the attack and the alignment, in
      training mode in the loss.
    batch: batch of N examples.
    key: typed PRNG key; consumed.
    progress: share of training done, in [0, 1]; may be traced.
    epsilon: radius of the ball in input units; may be traced. With 0, and
      without alignment, the loss is that of `standard`.
    norm: `linf` or `l2`.
    step_size: size of the one step, in units of the (ramped) epsilon.
    epsilon_ramp: share of training over which epsilon rises from 0.
    alignment: weight of the penalty; 0 leaves it out.
    label_smoothing: label smoothing of the loss; the attack has none.

  Returns:
    As `pgd`; with alignment also the metric `gradient_alignment`, the cosine.
  """
  attack_key, align_key = jax.random.split(key)
  outcome = _pgd.pgd(
    network,
    batch,
    attack_key,
    progress=progress,
    epsilon=epsilon,
    norm=norm,
    step_size=step_size,
    num_steps=1,
    epsilon_ramp=epsilon_ramp,
    label_smoothing=label_smoothing,
  )
  if alignment == 0.0:
    return outcome
  radius = base.ramped(epsilon, progress, epsilon_ramp)
  keys = jax.random.split(align_key, batch.image.shape[0])
  noise = initial.BY_NORM[norm](keys, batch.image, radius)
  cosine = gradient_alignment(
    network,
    batch.image,
    jnp.clip(batch.image + noise, 0.0, 1.0),
    batch.label,
  )
  return dataclasses.replace(
    outcome,
    loss=outcome.loss + alignment * (1.0 - cosine),
    metrics={**outcome.metrics, "gradient_alignment": cosine},
  )


def gradient_alignment(
  network: base.Network, x: jax.Array, x_other: jax.Array, labels: jax.Array
) -> jax.Array:
  """Cosine between the input gradients of the cross-entropy at two points.

  Args:
    network: network, in evaluation mode; differentiated through.
    x: [N, ...] first points.
    x_other: [N, ...] second points.
    labels: [N] labels.

  Returns:
    [N] cosines in [-1, 1]; 1, with gradient 0, where one of the two input
    gradients vanishes.
  """
  one, other = (
    contractions.flat(base.input_gradient(network, point, labels)[1])
    for point in (x, x_other)
  )
  (one, size), (other, other_size) = map(_scaled, (one, other))
  defined = (size > 0.0) & (other_size > 0.0)
  # The square root has no finite gradient at 0, so mask before it.
  squares = jnp.sum(one**2, axis=-1) * jnp.sum(other**2, axis=-1)
  norms = jnp.sqrt(jnp.where(defined, squares, 1.0))
  return jnp.where(defined, jnp.sum(one * other, axis=-1) / norms, 1.0)


def _scaled(gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Rows [N, D] of largest entry 1, and these entries [N]; 0 stays.

  The squares of the tiny gradients of confident predictions would underflow. A
  cosine does not depend on the scale, nor does its gradient.
  """
  size = jax.lax.stop_gradient(jnp.max(jnp.abs(gradient), axis=-1))
  return gradient / jnp.where(size > 0.0, size, 1.0)[:, None], size
