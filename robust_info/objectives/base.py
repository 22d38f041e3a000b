"""What every objective is made of: the network's two modes, and losses.

Shape letters: N examples, C classes. Images are float [N, H, W, channels] in
[0, 1]. Losses are in nats.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from robust_info import _validate


class Examples(Protocol):
  """A padded batch; `data.Batch` with float images is one.

  Attributes:
    image: float [N, H, W, channels] in [0, 1].
    label: int [N].
    mask: bool [N], False for padding.
  """

  image: jax.Array
  label: jax.Array
  mask: jax.Array


@dataclasses.dataclass(frozen=True)
class Network:
  """A model at one set of variables, in its two modes.

  Attributes:
    variables: parameters and, if any, batch statistics.
    evaluate_fn: (variables, x) -> logits [N, C]; rows are independent.
    train_fn: (variables, x, where) -> (logits [N, C], batch_stats).
    points: the shape of the images: attacked images found before, which an
      objective takes instead of attacking; None means that it attacks.
  """

  variables: Any
  evaluate_fn: Callable[[Any, jax.Array], jax.Array]
  train_fn: Callable[[Any, jax.Array, jax.Array], tuple[jax.Array, Any]]
  points: jax.Array | None = None

  def evaluate(self, x: jax.Array) -> jax.Array:
    """Logits [N, C] in evaluation mode."""
    return self.evaluate_fn(self.variables, x)

  def train(self, x: jax.Array, where: jax.Array) -> tuple[jax.Array, Any]:
    """Logits [N, C] in training mode, and the updated batch statistics."""
    return self.train_fn(self.variables, x, where)

  def frozen(self) -> "Network":
    """The same network as a constant: nothing differentiates through it."""
    return dataclasses.replace(
      self, variables=jax.lax.stop_gradient(self.variables)
    )


def train_pair(
  network: Network, x: jax.Array, x_other: jax.Array, where: jax.Array
) -> tuple[jax.Array, jax.Array, Any]:
  """Training mode at two inputs, one pass each, one after the other.

  Each pass normalises by its own batch; the running statistics are updated by
  the first, then by the second.

  Args:
    network: the network.
    x: [N, ...].
    x_other: [N, ...].
    where: [N] bool.

  Returns:
    Logits at `x` and at `x_other`, both [N, C], and the batch statistics.
  """
  logits, batch_stats = network.train(x, where)
  if batch_stats:
    variables = {**network.variables, "batch_stats": batch_stats}
    network = dataclasses.replace(network, variables=variables)
  other, batch_stats = network.train(x_other, where)
  return logits, other, batch_stats


def from_logits_fn(logits_fn: Callable[[jax.Array], jax.Array]) -> Network:
  """A Network of a plain function without batch statistics.

  Args:
    logits_fn: inputs [N, ...] to logits [N, C]. What it closes over is not
      stopped by `frozen`, so differentiate with respect to it only through
      objectives without an attack, or stop the attack's gradients yourself.
  """
  return Network(
    variables={},
    evaluate_fn=lambda variables, x: logits_fn(x),
    train_fn=lambda variables, x, where: (logits_fn(x), {}),
  )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Outcome:
  """What an objective gives back.

  Attributes:
    loss: [N], one a row; rows masked out are arbitrary but finite.
    metrics: name -> [N], reported as averages over the unmasked rows.
    batch_stats: the model's updated statistics, `{}` when it has none.
    points: the attacked images, None where there was no attack.
  """

  loss: jax.Array
  metrics: dict[str, jax.Array]
  batch_stats: Any
  points: jax.Array | None = None


# (network, batch, key, *, progress) -> Outcome
Objective = Callable[..., Outcome]


def ramped(
  epsilon: jax.Array | float, progress: jax.Array | float, ramp: float
) -> jax.Array:
  """Epsilon * min(1, progress / ramp); epsilon itself when ramp is 0."""
  if ramp == 0.0:
    return jnp.asarray(epsilon)
  return epsilon * jnp.clip(jnp.asarray(progress) / ramp, 0.0, 1.0)


def labels_of(batch: Examples) -> jax.Array:
  """The labels [N] as int32: narrow integers cannot index many classes."""
  return _validate.labels("batch.label", batch.label, batch.image.shape[0])


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """-log p_label, [N, C] and [N] to [N], in nats."""
  labels = _validate.labels("labels", labels, logits.shape[0])
  log_p = jax.nn.log_softmax(logits)
  return -jnp.take_along_axis(log_p, labels[:, None], axis=-1)[:, 0]


def smoothed_cross_entropy(
  logits: jax.Array, labels: jax.Array, smoothing: float
) -> jax.Array:
  """Cross-entropy against (1 - smoothing) one-hot + smoothing / C, [N]."""
  plain = cross_entropy(logits, labels)
  if smoothing == 0.0:
    return plain
  uniform = -jnp.mean(jax.nn.log_softmax(logits), axis=-1)
  return (1.0 - smoothing) * plain + smoothing * uniform


def correct(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """1.0 where the largest logit is the label's, [N, C] and [N] to [N]."""
  return (jnp.argmax(logits, axis=-1) == labels).astype(logits.dtype)
