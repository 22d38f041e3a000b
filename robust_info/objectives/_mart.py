"""MART: misclassification-aware adversarial training."""

import jax
import jax.numpy as jnp

from robust_info.information import divergences
from robust_info.objectives import base, inner_attack


def mart(
  network: base.Network,
  batch: base.Examples,
  key: jax.Array,
  *,
  progress: jax.Array | float = 1.0,
  epsilon: jax.Array | float,
  norm: str = "linf",
  step_size: float = 0.25,
  num_steps: int = 10,
  random_start: bool = True,
  epsilon_ramp: float = 0.0,
  coefficient: float = 5.0,
  margin: float = 1.0,
) -> base.Outcome:
  """Misclassification-aware adversarial training.

  Wang, Zou, Yi, Bailey, Ma, Gu, "Improving Adversarial Robustness Requires
  Revisiting Misclassified Examples", 2020. The loss is

      -log p'_y - margin * log(1 - p'_k) + coefficient * (1 - p_y) KL(p || p')

  where x' is found by PGD on the cross-entropy, k is the most likely wrong
  class at x', `p = p(x)` and `p' = p(x')`. It is computed in log space
  throughout and needs C >= 2.

  Cost: `num_steps` forward and backward passes for the attack, two forward
  passes for the loss.

  Args:
    network: network, in evaluation mode and frozen in the attack; in training
      mode, first at the images and then at the adversarial points, in the loss.
    batch: batch of N examples.
    key: typed PRNG key; consumed by the random start.
    progress: share of training done, in [0, 1]; may be traced.
    epsilon: radius of the ball in input units; may be traced.
    norm: `linf` or `l2`.
    step_size: step size of the attack in units of the (ramped) epsilon.
    num_steps: number of steps of the attack.
    random_start: whether the attack starts at a random point of the ball.
    epsilon_ramp: share of training over which epsilon rises from 0.
    coefficient: weight of the divergence term.
    margin: weight of the second term, 1 in the paper. With margin 0,
      coefficient 0 and epsilon 0 the loss is that of `standard`.

  Returns:
    Loss [N] with metrics `cross_entropy` and `adversarial_accuracy` at x',
    `accuracy` at x, and `divergence`, KL(p || p').
  """
  x_adv = inner_attack.pgd(
    network,
    batch,
    key,
    radius=base.ramped(epsilon, progress, epsilon_ramp),
    norm=norm,
    step_size=step_size,
    num_steps=num_steps,
    random_start=random_start,
  )
  clean, attacked, batch_stats = base.train_pair(
    network, batch.image, x_adv, batch.mask
  )
  is_label = jax.nn.one_hot(base.labels_of(batch), clean.shape[-1], dtype=bool)
  wrong = jnp.argmax(jnp.where(is_label, -jnp.inf, attacked), axis=-1)
  is_wrong = jax.nn.one_hot(wrong, clean.shape[-1], dtype=bool)
  divergence = divergences.kl_divergence(clean, attacked)
  doubt = jnp.exp(_log_of_the_others(clean, is_label))
  plain = base.cross_entropy(attacked, batch.label)
  loss = (
    plain
    - margin * _log_of_the_others(attacked, is_wrong)
    + coefficient * doubt * divergence
  )
  return base.Outcome(
    loss=loss,
    metrics={
      "cross_entropy": plain,
      "accuracy": base.correct(clean, batch.label),
      "adversarial_accuracy": base.correct(attacked, batch.label),
      "divergence": divergence,
    },
    batch_stats=batch_stats,
    points=x_adv,
  )


def _log_of_the_others(logits: jax.Array, chosen: jax.Array) -> jax.Array:
  """log(1 - p_chosen), exact where p_chosen rounds to 1; [N, C] to [N]."""
  others = jax.nn.logsumexp(logits, axis=-1, where=~chosen)
  return others - jax.nn.logsumexp(logits, axis=-1)
