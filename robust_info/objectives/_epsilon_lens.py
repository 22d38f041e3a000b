"""Cross-entropy plus the information that an attack takes away [ours].

This follows the direction that the paper suggests, networks that rely more on
the robust component; `pair_lens` is another such objective.
"""

import jax
import jax.numpy as jnp

from robust_info import _validate, information
from robust_info.objectives import base, inner_attack

QUANTITIES = ("variational_bound", "label_information", "cckl")


ATTACKS = ("pgd", "kl_pgd")


def epsilon_lens(
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
  attack: str = "pgd",
  quantity: str = "variational_bound",
  coefficient: float = 3.0,
  label_smoothing: float = 0.0,
) -> base.Outcome:
  """Penalises the information in a batch that an adversary can remove.

      cross-entropy(p(x), y) + coefficient * max(V(x) - V(x'), 0)

  where x' are the attacked images and V is a statistic of the predictions of
  the whole batch, so that V(x) - V(x') is the non-robust component of the
  epsilon lens. V(x) is a constant to the gradient: otherwise less information
  on clean images would lower the penalty.

  - `variational_bound`: V = H(K) - cross-entropy, a lower bound of the
    information about the class. Its gradient is that of cross-entropy(x) +
    coefficient * cross-entropy(x').
  - `label_information`, I(K;Y^), at most log C, and `cckl` do not depend on
    which label stands for which class. An attack that exchanges predictions
    lowers neither, and training learns to allow that: these two keep the
    information under attack, but not the accuracy (see the measurements in the
    documentation). I(K;Y^) of few examples of many classes says little: N
    should be many times C.

  Cost: `num_steps` forward and backward passes for the attack, two forward
  passes for the loss, O(N C + C^3) for V.

  Args:
    network: network, in evaluation mode and frozen in the attack; in training
      mode, first at the images and then at the attacked points, in the loss.
    batch: batch of N examples.
    key: typed PRNG key; consumed by the random start.
    progress: share of training done, in [0, 1]; may be traced.
    epsilon: radius of the ball in input units; may be traced. With 0 the
      loss is that of `standard`.
    norm: `linf` or `l2`.
    step_size: step size of the attack in units of the (ramped) epsilon.
    num_steps: number of steps of the attack.
    epsilon_ramp: share of training over which epsilon rises from 0.
    attack: `pgd` maximises the cross-entropy, `kl_pgd` the divergence from the
      clean prediction.
    quantity: `variational_bound`, `label_information` or `cckl`.
    coefficient: weight of the penalty; with 0 the loss is that of `standard`.
    label_smoothing: label smoothing of the cross-entropy.

  Returns:
    Loss [N], with the batch's penalty added in every row. Metrics:
    `cross_entropy` and `accuracy` at x, `adversarial_accuracy` at x', and, the
    same in every row, `QUANTITY` at x and `lost_QUANTITY` of the batch. Both
    are 0 in batches of fewer than two labels, which carry no information.

  Raises:
    ValueError: the attack or the quantity is unknown.
  """
  _validate.one_of("attack", attack, ATTACKS)
  _validate.one_of("quantity", quantity, QUANTITIES)
  radius = base.ramped(epsilon, progress, epsilon_ramp)
  find = {"pgd": inner_attack.pgd, "kl_pgd": inner_attack.kl_pgd}[attack]
  x_adv = find(
    network,
    batch,
    key,
    radius=radius,
    norm=norm,
    step_size=step_size,
    num_steps=num_steps,
  )
  clean, attacked, batch_stats = base.train_pair(
    network, batch.image, x_adv, batch.mask
  )
  whole, left = (
    _batch_value(logits, batch, quantity) for logits in (clean, attacked)
  )
  lost = jax.lax.stop_gradient(whole) - left
  # Not jnp.maximum, which has a gradient at 0: where no information is lost the
  # penalty must have none.
  penalty = jnp.where(lost > 0, lost, 0.0)
  plain = base.smoothed_cross_entropy(clean, batch.label, label_smoothing)
  return base.Outcome(
    loss=plain + coefficient * penalty,
    metrics={
      "cross_entropy": base.cross_entropy(clean, batch.label),
      "accuracy": base.correct(clean, batch.label),
      "adversarial_accuracy": base.correct(attacked, batch.label),
      quantity: jnp.broadcast_to(whole, plain.shape),
      f"lost_{quantity}": jnp.broadcast_to(lost, plain.shape),
    },
    batch_stats=batch_stats,
    points=x_adv,
  )


def _batch_value(
  logits: jax.Array, batch: base.Examples, quantity: str
) -> jax.Array:
  """Statistic of the unmasked rows; 0 with fewer than two labels."""
  labels = base.labels_of(batch)
  summary = information.summarize(
    information.information_stats(logits, labels, where=batch.mask)
  )
  low = jnp.min(labels, where=batch.mask, initial=logits.shape[-1])
  high = jnp.max(labels, where=batch.mask, initial=-1)
  return jnp.where(low < high, getattr(summary, quantity), 0.0)
