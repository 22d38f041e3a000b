"""Cross-entropy at the points that PGD finds."""

import jax

from robust_info.objectives import base, inner_attack


def pgd(
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
  label_smoothing: float = 0.0,
) -> base.Outcome:
  """Adversarial training: cross-entropy at the point that PGD finds.

  Madry, Makelov, Schmidt, Tsipras, Vladu, "Towards Deep Learning Models
  Resistant to Adversarial Attacks", 2018. The attack maximises the plain
  cross-entropy in evaluation mode. The loss is taken in training mode at the
  points that the attack finds, which are constants to the gradient.

  Cost: `num_steps` forward and backward passes for the attack, one forward
  pass for the loss.

  Args:
    network: network, in evaluation mode and frozen in the attack; in training
      mode in the loss.
    batch: batch of N examples.
    key: typed PRNG key; consumed by the random start.
    progress: share of training done, in [0, 1]; may be traced.
    epsilon: radius of the ball in input units; may be traced. With 0 the
      loss is that of `standard`.
    norm: `linf` or `l2`.
    step_size: step size of the attack in units of the (ramped) epsilon.
    num_steps: number of steps of the attack.
    random_start: whether the attack starts at a random point of the ball.
    epsilon_ramp: share of training over which epsilon rises from 0.
    label_smoothing: label smoothing of the loss; the attack has none.

  Returns:
    Loss [N] with metrics `cross_entropy` and `adversarial_accuracy`, both at
    the adversarial points.
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
  logits, batch_stats = network.train(x_adv, batch.mask)
  return base.Outcome(
    loss=base.smoothed_cross_entropy(logits, batch.label, label_smoothing),
    metrics={
      "cross_entropy": base.cross_entropy(logits, batch.label),
      "adversarial_accuracy": base.correct(logits, batch.label),
    },
    batch_stats=batch_stats,
    points=x_adv,
  )
