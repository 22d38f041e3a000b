"""Cross-entropy, on the images or at the points an attack finds.

`standard`, `pgd`, `fgsm_rs` and `mart`. Signature, contract of the modes and
units: see the package.
"""

import dataclasses

import jax
import jax.numpy as jnp

from robust_info import divergences
from robust_info.attacks import initial
from robust_info.objectives import base, points


def standard(
  network: base.Network,
  batch: base.Examples,
  key: jax.Array,
  *,
  progress: jax.Array | float = 1.0,
  label_smoothing: float = 0.0,
) -> base.Outcome:
  """Cross-entropy on the images as they are.

  Cost: one forward pass.

  Args:
    network: its training mode is used.
    batch: N examples.
    key: not used.
    progress: not used.
    label_smoothing: mass spread evenly over all C classes.

  Returns:
    Loss [N] with metrics `cross_entropy` and `accuracy`.
  """
  del key, progress
  logits, batch_stats = network.train(batch.image, batch.mask)
  plain = base.cross_entropy(logits, batch.label)
  return base.Outcome(
    loss=base.smoothed_cross_entropy(logits, batch.label, label_smoothing),
    metrics={
      "cross_entropy": plain,
      "accuracy": base.correct(logits, batch.label),
    },
    batch_stats=batch_stats,
  )


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
  """Adversarial training: cross-entropy at the worst point PGD finds.

  Madry, Makelov, Schmidt, Tsipras, Vladu, "Towards Deep Learning Models
  Resistant to Adversarial Attacks", 2018. The attack ascends the plain
  cross-entropy in evaluation mode; the loss is taken in training mode at the
  points it found, which are constants to the gradient.

  Cost: `num_steps` forward and backward passes for the attack, one forward
  pass for the loss.

  Args:
    network: evaluation mode, frozen, in the attack; training mode in the loss.
    batch: N examples.
    key: typed PRNG key; consumed by the random start.
    progress: share of training done, in [0, 1]; may be traced.
    epsilon: radius of the ball in input units; may be traced. With 0 the
      loss is that of `standard`.
    norm: `linf` or `l2`.
    step_size: step of the attack in units of the (ramped) epsilon.
    num_steps: steps of the attack.
    random_start: whether it starts at a random point of the ball.
    epsilon_ramp: share of training over which epsilon rises from 0.
    label_smoothing: of the loss, not of the attack.

  Returns:
    Loss [N] with metrics `cross_entropy` and `adversarial_accuracy`, both at
    the adversarial points.
  """
  x_adv = points.pgd(
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

  Wong, Rice, Kolter, "Fast is better than free", 2020. One-step training can
  collapse within an epoch to networks that only single steps fail to fool
  (watch `robust_accuracy` of the validation, not `adversarial_accuracy`).
  The guard is gradient alignment (Andriushchenko & Flammarion 2020): a
  penalty on 1 - cos of the angle between the input gradients at the image and
  at a random point of the ball.

  Cost: one forward and backward pass for the attack, one forward pass for the
  loss; with `alignment` two more gradients, differentiated a second time.

  Args:
    network: evaluation mode in attack and alignment, training mode in the
      loss.
    batch: N examples.
    key: typed PRNG key; consumed.
    progress: share of training done, in [0, 1]; may be traced.
    epsilon: radius of the ball in input units; may be traced. With 0, and
      without alignment, the loss is that of `standard`.
    norm: `linf` or `l2`.
    step_size: of the one step, in units of the (ramped) epsilon.
    epsilon_ramp: share of training over which epsilon rises from 0.
    alignment: coefficient of the penalty; 0 leaves it out.
    label_smoothing: of the loss, not of the attack.

  Returns:
    As `pgd`; with alignment also the metric `gradient_alignment`, the cosine.
  """
  attack_key, align_key = jax.random.split(key)
  outcome = pgd(
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
    network: its evaluation mode is used, and differentiated through.
    x: [N, ...].
    x_other: [N, ...].
    labels: [N].

  Returns:
    [N] in [-1, 1]; 1, with gradient 0, where one of the two vanishes.
  """

  def total(x: jax.Array) -> jax.Array:
    return jnp.sum(base.cross_entropy(network.evaluate(x), labels))

  one, other = (
    jax.grad(total)(point).reshape(x.shape[0], -1) for point in (x, x_other)
  )
  squares = jnp.sum(one**2, axis=-1) * jnp.sum(other**2, axis=-1)
  defined = squares > 0.0
  # The square root has no gradient at 0: keep 0 away from it.
  norms = jnp.sqrt(jnp.where(defined, squares, 1.0))
  return jnp.where(defined, jnp.sum(one * other, axis=-1) / norms, 1.0)


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
  Revisiting Misclassified Examples", 2020: with x' from PGD on the
  cross-entropy, the largest wrong class k of x', and `p = p(x)`, `p' = p(x')`,

      -log p'_y - margin * log(1 - p'_k) + coefficient * (1 - p_y) KL(p || p')

  computed in log space throughout. Needs C >= 2.

  Cost: `num_steps` forward and backward passes for the attack, two forward
  passes for the loss.

  Args:
    network: evaluation mode, frozen, in the attack; training mode, first at
      the images and then at the adversarial points, in the loss.
    batch: N examples.
    key: typed PRNG key; consumed.
    progress: share of training done, in [0, 1]; may be traced.
    epsilon: radius of the ball in input units; may be traced.
    norm: `linf` or `l2`.
    step_size: step of the attack in units of the (ramped) epsilon.
    num_steps: steps of the attack.
    random_start: whether it starts at a random point of the ball.
    epsilon_ramp: share of training over which epsilon rises from 0.
    coefficient: of the divergence.
    margin: of the second term, 1 in the paper. With 0, coefficient 0 and
      epsilon 0 the loss is that of `standard`.

  Returns:
    Loss [N] with metrics `cross_entropy` and `adversarial_accuracy` at x',
    `accuracy` at x, and `divergence`, KL(p || p').
  """
  x_adv = points.pgd(
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
