"""What training minimises: one pure function an objective.

Every objective has the signature

    objective(network, batch, key, *, progress, ...) -> Outcome

and gives one loss an example. The training step averages the unmasked ones,
differentiates, and knows nothing about which objective it runs; a new recipe
is one more function here and one line in `create`.

Which mode of the network is used where is part of each objective's contract:

- losses see the *training* mode, `network.train(x, where)`, whose updated
  batch statistics they hand back;
- attacks see the *evaluation* mode of a frozen network,
  `network.frozen().evaluate`: rows are independent, the statistics stay as
  they are, and no gradient flows from the loss through the attack into the
  parameters.

Shape letters: N examples, C classes. Images are float [N, H, W, channels] in
[0, 1], and every epsilon is in those units. Losses are in nats.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from robust_info import attacks
from robust_info import config as config_lib


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
  """

  variables: Any
  evaluate_fn: Callable[[Any, jax.Array], jax.Array]
  train_fn: Callable[[Any, jax.Array, jax.Array], tuple[jax.Array, Any]]

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
  """

  loss: jax.Array
  metrics: dict[str, jax.Array]
  batch_stats: Any


# (network, batch, key, *, progress) -> Outcome
Objective = Callable[..., Outcome]


def create(config: config_lib.ObjectiveConfig) -> Objective:
  """The objective of a configuration: (network, batch, key, *, progress)."""
  if config.name == "standard":
    return functools.partial(standard, label_smoothing=config.label_smoothing)
  if config.name == "pgd":
    return functools.partial(
      pgd,
      epsilon=config.epsilon,
      norm=config.norm,
      step_size=config.step_size,
      num_steps=config.num_steps,
      random_start=config.random_start,
      epsilon_ramp=config.epsilon_ramp,
      label_smoothing=config.label_smoothing,
    )
  raise ValueError(
    "Expected config.objective.name to be one of 'standard', 'pgd', got "
    f"{config.name!r}."
  )


def standard(
  network: Network,
  batch: Examples,
  key: jax.Array,
  *,
  progress: jax.Array | float = 1.0,
  label_smoothing: float = 0.0,
) -> Outcome:
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
  plain = cross_entropy(logits, batch.label)
  return Outcome(
    loss=smoothed_cross_entropy(logits, batch.label, label_smoothing),
    metrics={
      "cross_entropy": plain,
      "accuracy": correct(logits, batch.label),
    },
    batch_stats=batch_stats,
  )


def pgd(
  network: Network,
  batch: Examples,
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
) -> Outcome:
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
  radius = ramped(epsilon, progress, epsilon_ramp)
  found = attacks.pgd(
    network.frozen().evaluate,
    batch.image,
    batch.label,
    key,
    epsilon=radius,
    step_size=step_size * radius,
    num_steps=num_steps,
    norm=norm,
    random_start=random_start,
    where=batch.mask,
  )
  x_adv = jax.lax.stop_gradient(found.x_adv)
  logits, batch_stats = network.train(x_adv, batch.mask)
  return Outcome(
    loss=smoothed_cross_entropy(logits, batch.label, label_smoothing),
    metrics={
      "cross_entropy": cross_entropy(logits, batch.label),
      "adversarial_accuracy": correct(logits, batch.label),
    },
    batch_stats=batch_stats,
  )


def ramped(
  epsilon: jax.Array | float, progress: jax.Array | float, ramp: float
) -> jax.Array:
  """Epsilon * min(1, progress / ramp); epsilon itself when ramp is 0."""
  if ramp == 0.0:
    return jnp.asarray(epsilon)
  return epsilon * jnp.clip(jnp.asarray(progress) / ramp, 0.0, 1.0)


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """-log p_label, [N, C] and [N] to [N], in nats."""
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
