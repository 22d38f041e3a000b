"""Parts that all objectives share: the two modes of a network, and losses.

Shape letters: N examples, C classes. Images are float [N, H, W, channels] in
[0, 1]. Losses are in nats.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Integer

from robust_info import _validate


@runtime_checkable
class Examples(Protocol):
  """A padded batch; for example, a `data.Batch` with float images.

  Attributes:
    image: float [N, H, W, channels] images in [0, 1].
    label: int [N] labels.
    mask: bool [N], False for padding.
  """

  image: jax.Array
  label: jax.Array
  mask: jax.Array


@dataclasses.dataclass(frozen=True)
class Network:
  """A model with one set of variables, in its two modes.

  Attributes:
    variables: parameters and, if any, batch statistics.
    evaluate_fn: evaluation mode, (variables, x) -> logits [N, C]; rows are
      independent.
    train_fn: training mode, (variables, x, where) -> (logits [N, C],
      batch_stats).
    points: attacked images found before, of the shape of the images, which an
      objective uses instead of an attack; None means that it attacks.
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
    """The same network as a constant: gradients with respect to it are 0."""
    return dataclasses.replace(
      self, variables=jax.lax.stop_gradient(self.variables)
    )


def train_pair(
  network: Network, x: jax.Array, x_other: jax.Array, where: jax.Array
) -> tuple[jax.Array, jax.Array, Any]:
  """Calls the training mode at two inputs, one pass each, in this order.

  Each pass normalises by its own batch; the running statistics are updated by
  the first pass, then by the second.

  Args:
    network: network to call.
    x: [N, ...] inputs of the first pass.
    x_other: [N, ...] inputs of the second pass.
    where: [N] bool, False for padding.

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
  """Makes a Network of a plain function without batch statistics.

  Args:
    logits_fn: map from inputs [N, ...] to logits [N, C]. `frozen` does not stop
      gradients with respect to values that it closes over, so differentiate
      with respect to them only through objectives without an attack, or stop
      the attack's gradients yourself.
  """
  return Network(
    variables={},
    evaluate_fn=lambda variables, x: logits_fn(x),
    train_fn=lambda variables, x, where: (logits_fn(x), {}),
  )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Outcome:
  """Result of an objective.

  Attributes:
    loss: [N] losses, one per row; rows masked out are arbitrary but finite.
    metrics: name -> [N], reported as averages over the unmasked rows.
    batch_stats: updated batch statistics of the model, `{}` if it has none.
    points: attacked images, None if there was no attack.
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
  """Epsilon * min(1, progress / ramp); epsilon itself if ramp is 0."""
  if ramp == 0.0:
    return jnp.asarray(epsilon)
  return epsilon * jnp.clip(jnp.asarray(progress) / ramp, 0.0, 1.0)


def labels_of(batch: Examples) -> jax.Array:
  """Labels [N] as int32, because narrow integers cannot index many classes."""
  return _validate.labels("batch.label", batch.label, batch.image.shape[0])


def cross_entropy(
  logits: Float[Array, "N C"], labels: Integer[ArrayLike, " N"]
) -> Float[Array, " N"]:
  """-log p_label, [N, C] and [N] to [N], in nats."""
  labels = _validate.labels("labels", labels, logits.shape[0])
  log_p = jax.nn.log_softmax(logits)
  return -jnp.take_along_axis(log_p, labels[:, None], axis=-1)[:, 0]


def input_gradient(
  network: Network, x: jax.Array, labels: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Cross-entropy in evaluation mode, and its gradient in the input.

  Both can be differentiated with respect to the variables of the network.

  Args:
    network: network to call, one forward and one backward pass.
    x: [N, ...] inputs.
    labels: [N] labels.

  Returns:
    Losses [N] and their gradients, in the shape of `x`.
  """

  def total(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    losses = cross_entropy(network.evaluate(x), labels)
    return jnp.sum(losses), losses

  gradient, losses = jax.grad(total, has_aux=True)(x)
  return losses, gradient


def safe_sqrt(values: jax.Array) -> jax.Array:
  """Square root with gradient 0 at 0."""
  is_zero = values == 0.0
  return jnp.where(is_zero, 0.0, jnp.sqrt(jnp.where(is_zero, 1.0, values)))


def smoothed_cross_entropy(
  logits: Float[Array, "N C"],
  labels: Integer[ArrayLike, " N"],
  smoothing: float,
) -> Float[Array, " N"]:
  """Cross-entropy against (1 - smoothing) one-hot + smoothing / C, [N]."""
  plain = cross_entropy(logits, labels)
  if smoothing == 0.0:
    return plain
  uniform = -jnp.mean(jax.nn.log_softmax(logits), axis=-1)
  return (1.0 - smoothing) * plain + smoothing * uniform


def correct(
  logits: Float[Array, "N C"], labels: Integer[ArrayLike, " N"]
) -> Float[Array, " N"]:
  """1.0 where the label has the largest logit; [N, C] and [N] to [N]."""
  return (jnp.argmax(logits, axis=-1) == labels).astype(logits.dtype)
