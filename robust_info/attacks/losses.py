"""Losses an attack ascends: `loss(logits, labels) -> [N]`.

Every loss grows as the prediction gets worse for the label and treats rows
independently. `targets` are the classes a targeted loss pulls towards. Shape
letters: N examples, C classes.
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
  # int32: to index many classes, narrow integers would wrap around.
  return jnp.asarray(labels, jnp.int32)[:, None]


def _others(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Logits with the label's entry at -inf."""
  classes = jnp.arange(logits.shape[-1], dtype=jnp.int32)[None, :]
  return jnp.where(classes == _column(labels), -jnp.inf, logits)


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """`-log p_y`, in nats.

  Written as `softplus(logsumexp_{j != y} z_j - z_y)`: unlike the textbook form,
  whose gradient with respect to `z_y` is `p_y - 1` and rounds to 0 from a logit
  gap of about 18 in float32, gradients stay right until `exp(-gap)` underflows
  at about 87 [ours].

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

  The untransformed loss of Carlini & Wagner (2017). Does not saturate.

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
  """`z_t - z_y`, [N]."""
  return _at(logits, targets) - _at(logits, labels)


def dlr(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Difference-of-logits ratio (Croce & Hein 2020, eq. 6).

  `-(z_y - max_{j != y} z_j) / (z_(1) - z_(3) + 1e-12)`: invariant to shifts and
  positive rescalings of the logits. With two classes there is no third logit,
  and any ratio of the two left has no gradient: the margin is used [ours].

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
  denominator is `z_(1) - (z_(2) + z_(3)) / 2 + 1e-12`, with two it is dropped
  [ours]: with `z_(1) - z_(3)` the third class's ratio would be constant.

  Args:
    logits: [N, C], C >= 2.
    labels: [N] int.
    targets: [N] int, the classes to reach.

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
  """A named loss, or the user's own `loss(logits, labels) -> [N]`."""
  if callable(loss):
    return loss
  _validate.one_of("loss", loss, tuple(NAMED))
  return NAMED[loss]


def ranked_classes(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Every class but the label, by falling logit.

  Args:
    logits: [N, C].
    labels: [N] int.

  Returns:
    [N, C-1] int: column 0 is the most likely wrong class.
  """
  order = jnp.argsort(-_others(logits, labels), axis=-1)
  return order[:, :-1]
