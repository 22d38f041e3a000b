"""Losses that attacks maximise: `loss(logits, labels) -> [N]`.

Every loss grows as the prediction gets worse for the label, and treats rows
independently. `targets` are the classes towards which a targeted loss pulls.
Shape letters: N examples, C classes.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from robust_info import _validate

Loss = Callable[[jax.Array, jax.Array], jax.Array]

# Keeps the difference-of-logits ratios finite at tied logits.
_TIE = 1e-12


def _at(logits: jax.Array, labels: jax.Array) -> jax.Array:
  return jnp.take_along_axis(logits, _column(labels), axis=-1)[:, 0]


def _column(labels: jax.Array) -> jax.Array:
  # int32, as narrower integers would wrap around at large class numbers.
  return jnp.asarray(labels, jnp.int32)[:, None]


def _others(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Logits [N, C] with the label's entry set to -inf."""
  classes = jnp.arange(logits.shape[-1], dtype=jnp.int32)[None, :]
  return jnp.where(classes == _column(labels), -jnp.inf, logits)


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """`-log p_y`, in nats.

  It is computed as `softplus(logsumexp_{j != y} z_j - z_y)` [ours]. The
  gradient of the textbook form with respect to `z_y` is `p_y - 1`, which rounds
  to 0 from a logit gap of about 18 in float32; here gradients stay correct
  until `exp(-gap)` underflows at about 87.

  Args:
    logits: [N, C].
    labels: [N] int.

  Returns:
    [N], non-negative.
  """
  others = jax.nn.logsumexp(_others(logits, labels), axis=-1)
  return jax.nn.softplus(others - _at(logits, labels))


def margin(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """`max_{j != y} z_j - z_y`: positive exactly where misclassified.

  This is the untransformed loss of Carlini & Wagner (2017). It does not
  saturate.

  Args:
    logits: [N, C].
    labels: [N] int.

  Returns:
    [N].
  """
  return jnp.max(_others(logits, labels), axis=-1) - _at(logits, labels)


def targeted_margin(
  logits: jax.Array, labels: jax.Array, targets: jax.Array
) -> jax.Array:
  """Margin of the target over the label, `z_t - z_y`, [N]."""
  return _at(logits, targets) - _at(logits, labels)


def dlr(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Difference-of-logits ratio (Croce & Hein 2020, eq. 6).

  `-(z_y - max_{j != y} z_j) / (z_(1) - z_(3) + 1e-12)`, which is invariant to
  shifts and positive rescalings of the logits. With two classes there is no
  third logit, and a ratio of the other two has no gradient: the margin is used
  instead [ours].

  Args:
    logits: [N, C], C >= 2.
    labels: [N] int.

  Returns:
    [N], at most 1 for C >= 3.
  """
  if logits.shape[-1] < 3:
    return margin(logits, labels)
  top = jax.lax.top_k(logits, 3)[0]
  return margin(logits, labels) / (top[:, 0] - top[:, 2] + _TIE)


def targeted_dlr(
  logits: jax.Array, labels: jax.Array, targets: jax.Array
) -> jax.Array:
  """Targeted difference-of-logits ratio (Croce & Hein 2020, eq. 7).

  `-(z_y - z_t) / (z_(1) - (z_(3) + z_(4)) / 2 + 1e-12)`. With three classes the
  denominator is `z_(1) - (z_(2) + z_(3)) / 2 + 1e-12`, and with two there is
  none [ours]; the denominator `z_(1) - z_(3)` would make the ratio of the third
  class constant.

  Args:
    logits: [N, C], C >= 2.
    labels: [N] int.
    targets: [N] int classes to reach.

  Returns:
    [N].
  """
  difference = targeted_margin(logits, labels, targets)
  num_classes = logits.shape[-1]
  if num_classes < 3:
    return difference
  top = jax.lax.top_k(logits, min(num_classes, 4))[0]
  last = (top[:, -2] + top[:, -1]) / 2
  return difference / (top[:, 0] - last + _TIE)


NAMED: dict[str, Loss] = {
  "cross_entropy": cross_entropy,
  "margin": margin,
  "dlr": dlr,
}


def resolve(loss: str | Loss) -> Loss:
  """Returns a loss by name, or the user's own `loss(logits, labels) -> [N]`."""
  if callable(loss):
    return loss
  _validate.one_of("loss", loss, tuple(NAMED))
  return NAMED[loss]


def ranked_classes(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Ranks every class except the label by decreasing logit.

  Args:
    logits: [N, C].
    labels: [N] int.

  Returns:
    [N, C-1] int: column 0 is the most likely wrong class.
  """
  order = jnp.argsort(-_others(logits, labels), axis=-1)
  return order[:, :-1]
