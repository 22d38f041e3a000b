"""Cross-entropy plus the Fisher part of a divergence between classes [ours].

This follows the direction that the paper suggests, networks that rely more on
the robust component; `epsilon_lens` is another such objective.
"""

import jax
import jax.numpy as jnp

from robust_info import _validate
from robust_info.fisher import products
from robust_info.information import divergences
from robust_info.lenses import pairs, path
from robust_info.objectives import base

PARTS = ("local", "path")


def pair_lens(
  network: base.Network,
  batch: base.Examples,
  key: jax.Array,
  *,
  progress: jax.Array | float = 1.0,
  non_robust: float = 1.0,
  part: str = "local",
  reward: float = 0.1,
  reward_scale: float = 10.0,
  label_smoothing: float = 0.0,
) -> base.Outcome:
  """Rewards divergence between classes and penalises its Fisher part.

  Each image x gets a random partner x' of another class in the batch. With
  d = x' - x and T = KL(p(x) || p(x')), whose mean is CCKL, the loss is

      cross-entropy + non_robust * Q + reward * scale * exp(-T / scale)

  Q is the non-robust part of T: `1/2 d^T F(x) d` in the local lens, an unbiased
  one-point estimate of the integral in the path lens (for linear logits Q is
  then T, up to the noise). The last term rewards T: its slope is -`reward` at
  T = 0 and fades beyond `scale` nats. A reward of T itself would diverge: the
  logits of a network that separates the classes can grow without bound, and the
  local Q, which vanishes for confident predictions, would not prevent it. Here
  every term is at least 0.

  Cost: one forward pass and one JVP (about two forward passes), differentiated.

  Args:
    network: network, in training mode in the cross-entropy and in T; in
      evaluation mode in Q, differentiated through.
    batch: batch of N examples. Rows without a partner (all labels equal) have
      no Q and no T.
    key: typed PRNG key; consumed by the partners and the points on the paths.
    progress: not used.
    non_robust: weight of Q.
    part: lens of Q, `local` or `path`.
    reward: weight of the last term; with both weights 0 the loss is that of
      `standard`.
    reward_scale: scale of the reward in nats, > 0.
    label_smoothing: label smoothing of the cross-entropy.

  Returns:
    Loss [N] with the metrics of `standard`, and `pair_divergence` (T) and
    `pair_non_robust` (Q), which are 0 without a partner.

  Raises:
    ValueError: the part is unknown.
  """
  del progress
  _validate.one_of("part", part, PARTS)
  partner_key, point_key = jax.random.split(key)
  partner, exists = pairs.sample_partners(
    partner_key, batch.label, where=batch.mask
  )
  logits, batch_stats = network.train(batch.image, batch.mask)
  total = divergences.kl_divergence(logits, logits[partner])
  x, x_other = batch.image, batch.image[partner]
  if part == "local":
    quadratic = products.fisher_quadratic(network.evaluate, x, x_other - x)
    fisher_part = 0.5 * quadratic
  else:
    fisher_part = path.path_fisher_estimate(
      network.evaluate, x, x_other, point_key
    )
  shortfall = reward_scale * jnp.exp(-total / reward_scale)
  penalty = non_robust * fisher_part + reward * shortfall
  plain = base.smoothed_cross_entropy(logits, batch.label, label_smoothing)
  return base.Outcome(
    loss=plain + jnp.where(exists, penalty, 0.0),
    metrics={
      "cross_entropy": base.cross_entropy(logits, batch.label),
      "accuracy": base.correct(logits, batch.label),
      "pair_divergence": jnp.where(exists, total, 0.0),
      "pair_non_robust": jnp.where(exists, fisher_part, 0.0),
    },
    batch_stats=batch_stats,
  )
