"""Cross-entropy plus a divergence from the clean to an attacked prediction.

The objectives are `trades`, `kl` and `fire`. For the signature, the modes of
the network and the units see the package.
"""

from collections.abc import Callable

import jax

from robust_info.information import divergences
from robust_info.objectives import base, inner_attack


def trades(
  network: base.Network,
  batch: base.Examples,
  key: jax.Array,
  *,
  progress: jax.Array | float = 1.0,
  epsilon: jax.Array | float,
  norm: str = "linf",
  step_size: float = 0.25,
  num_steps: int = 10,
  epsilon_ramp: float = 0.0,
  coefficient: float = 6.0,
  label_smoothing: float = 0.0,
) -> base.Outcome:
  """TRADES: `kl` with other defaults, ten steps of size 0.25 and coefficient 6.

  Zhang, Yu, Jiao, Xing, El Ghaoui, Jordan, "Theoretically Principled
  Trade-off between Robustness and Accuracy", 2019. Its authors start the
  attack from Gaussian noise of size 0.001; here the attack starts uniformly in
  the ball, as everywhere in this package. Arguments, cost and metrics: see
  `kl`.
  """
  return kl(
    network,
    batch,
    key,
    progress=progress,
    epsilon=epsilon,
    norm=norm,
    step_size=step_size,
    num_steps=num_steps,
    epsilon_ramp=epsilon_ramp,
    coefficient=coefficient,
    label_smoothing=label_smoothing,
  )


def kl(
  network: base.Network,
  batch: base.Examples,
  key: jax.Array,
  *,
  progress: jax.Array | float = 1.0,
  epsilon: jax.Array | float,
  norm: str = "linf",
  step_size: float = 1.0,
  num_steps: int = 1,
  epsilon_ramp: float = 0.0,
  coefficient: float = 3.0,
  anchor: str = "clean",
  label_smoothing: float = 0.0,
) -> base.Outcome:
  """Penalises the change of the prediction within a small ball.

      cross-entropy(p(x), y) + coefficient * KL(p(x) || p(x'))

  where x' maximises that divergence in the ball. For a small ball the
  divergence is half the largest quadratic form of the Fisher information, and
  the penalty regularises the non-robust component. The paper's public code
  trains with this objective ([code]; there with ten steps, and anchored at the
  random start). One step is the cheap version [ours].

  Cost: `num_steps` forward and backward passes and one forward pass for the
  attack, two forward passes for the loss.

  Args:
    network: network, in evaluation mode and frozen in the attack; in training
      mode, first at the images and then at the attacked points, in the loss.
      Gradients flow into both predictions.
    batch: batch of N examples.
    key: typed PRNG key; consumed by the random start.
    progress: share of training done, in [0, 1]; may be traced.
    epsilon: radius of the ball in input units; may be traced.
    norm: `linf` or `l2`.
    step_size: step size of the attack in units of the (ramped) epsilon.
    num_steps: number of steps of the attack.
    epsilon_ramp: share of training over which epsilon rises from 0.
    coefficient: weight of the divergence term; with 0 the loss is that of
      `standard`.
    anchor: reference of the attack: `clean`, the prediction at the image, or
      `start`, the prediction at the random start. With `start` the first
      gradient is rounding noise: for comparison with the public code only.
    label_smoothing: label smoothing of the cross-entropy.

  Returns:
    Loss [N] with metrics `cross_entropy` and `accuracy` at x,
    `adversarial_accuracy` at x', and `divergence`.
  """
  radius = base.ramped(epsilon, progress, epsilon_ramp)
  x_adv = inner_attack.kl_pgd(
    network,
    batch,
    key,
    radius=radius,
    norm=norm,
    step_size=step_size,
    num_steps=num_steps,
    anchor=anchor,
  )
  return _penalised(
    network,
    batch,
    x_adv,
    divergences.kl_divergence,
    coefficient=coefficient,
    label_smoothing=label_smoothing,
  )


def fire(
  network: base.Network,
  batch: base.Examples,
  key: jax.Array,
  *,
  progress: jax.Array | float = 1.0,
  epsilon: jax.Array | float,
  norm: str = "linf",
  step_size: float = 0.25,
  num_steps: int = 10,
  epsilon_ramp: float = 0.0,
  coefficient: float = 5.0,
  label_smoothing: float = 0.0,
) -> base.Outcome:
  """FIRE: `trades` with the squared Fisher-Rao distance instead of KL.

      cross-entropy(p(x), y) + coefficient * d(p(x), p(x'))^2

  Picot, Messina, Boudiaf, Labeau, Ben Ayed, Piantanida, "Adversarial Robustness
  via Fisher-Rao Regularization", 2021, with d = 2 arccos sum_k sqrt(p_k p'_k).
  For a small ball the penalty is twice that of `trades`; beyond, it is bounded
  by pi^2. As in its authors' code the attack maximises the same distance. That
  code penalises arccos^2, a quarter of the square, with weight 20, which is a
  coefficient of 5; it starts the attack from Gaussian noise of size 0.001, here
  the attack starts uniformly in the ball. Near p = p', where the gradient of
  arccos is infinite, value and gradient are exact (see
  `squared_fisher_rao_distance`); the code moves the sum away from 1 instead.

  Arguments and cost: see `kl`.

  Returns:
    As `kl`; the metric `divergence` is the squared distance.
  """
  x_adv = inner_attack.fisher_rao_pgd(
    network,
    batch,
    key,
    radius=base.ramped(epsilon, progress, epsilon_ramp),
    norm=norm,
    step_size=step_size,
    num_steps=num_steps,
  )
  return _penalised(
    network,
    batch,
    x_adv,
    divergences.squared_fisher_rao_distance,
    coefficient=coefficient,
    label_smoothing=label_smoothing,
  )


def _penalised(
  network: base.Network,
  batch: base.Examples,
  x_adv: jax.Array,
  divergence_of: Callable[[jax.Array, jax.Array], jax.Array],
  *,
  coefficient: float,
  label_smoothing: float,
) -> base.Outcome:
  """Cross-entropy plus `coefficient` times `divergence_of(clean, attacked)`."""
  clean, attacked, batch_stats = base.train_pair(
    network, batch.image, x_adv, batch.mask
  )
  divergence = divergence_of(clean, attacked)
  plain = base.smoothed_cross_entropy(clean, batch.label, label_smoothing)
  return base.Outcome(
    loss=plain + coefficient * divergence,
    metrics={
      "cross_entropy": base.cross_entropy(clean, batch.label),
      "accuracy": base.correct(clean, batch.label),
      "adversarial_accuracy": base.correct(attacked, batch.label),
      "divergence": divergence,
    },
    batch_stats=batch_stats,
    points=x_adv,
  )
