"""Cross-entropy one step from a point with noise, not cut to the ball."""

import dataclasses

import jax
import jax.numpy as jnp

from robust_info.attacks import initial
from robust_info.objectives import _pgd, base


def n_fgsm(
  network: base.Network,
  batch: base.Examples,
  key: jax.Array,
  *,
  progress: jax.Array | float = 1.0,
  epsilon: jax.Array | float,
  norm: str = "linf",
  noise: float = 2.0,
  step_size: float = 1.0,
  epsilon_ramp: float = 0.0,
  label_smoothing: float = 0.0,
) -> base.Outcome:
  """Adversarial training with one step from a point with much noise.

  de Jorge, Bibi, Volpi, Sanyal, Torr, Rogez, Dokania, "Make Some Noise:
  Reliable and Efficient Single-Step Adversarial Training", 2022: the noise is
  uniform in [-2 epsilon, 2 epsilon], the step has size epsilon, and the sum is
  not cut back to the ball, so it may lie `noise + step_size` radii from the
  image. This avoids the collapse of `fgsm_rs` at the same cost. As in its
  authors' code, the noisy image and the result are cut to [0, 1], the former
  before the gradient is taken. Unlike that code, the attack sees the evaluation
  mode, as everywhere in this package. For `l2` [ours] the noise is uniform in
  the ball of radius 2 epsilon.

  Cost: one forward and backward pass for the attack, one forward pass for the
  loss.

  Args:
    network: network, in evaluation mode in the attack, in training mode in the
      loss.
    batch: batch of N examples.
    key: typed PRNG key; consumed.
    progress: share of training done, in [0, 1]; may be traced.
    epsilon: radius of the ball in input units; may be traced. With 0 the loss
      is that of `standard`.
    norm: `linf` or `l2`.
    noise: radius of the noise, in units of the (ramped) epsilon.
    step_size: size of the one step, in units of the (ramped) epsilon.
    epsilon_ramp: share of training over which epsilon rises from 0.
    label_smoothing: label smoothing of the loss; the attack has none.

  Returns:
    As `pgd`.
  """
  radius = base.ramped(epsilon, progress, epsilon_ramp)
  keys = jax.random.split(key, batch.image.shape[0])
  moved = batch.image + initial.BY_NORM[norm](keys, batch.image, noise * radius)
  # One step in a ball of its own size is not cut, except to [0, 1].
  return _pgd.pgd(
    network,
    dataclasses.replace(batch, image=jnp.clip(moved, 0.0, 1.0)),
    key,
    epsilon=step_size * radius,
    norm=norm,
    step_size=1.0,
    num_steps=1,
    random_start=False,
    label_smoothing=label_smoothing,
  )
