"""The attacks inside objectives, whose points are constants to the gradient.

All attacks use the evaluation mode of the frozen network. A network that
already carries points, `Network.points`, is not attacked again.
"""

import jax
import jax.numpy as jnp

from robust_info import attacks
from robust_info.attacks import losses, results
from robust_info.information import divergences
from robust_info.objectives import base


def _constants(found: attacks.AttackResult) -> jax.Array:
  """The points of an attack; NaN in rows that are not valid.

  Invalid rows hold the clean inputs, on which training would silently continue.
  With NaN the loss is not finite, which stops the run.
  """
  valid = results.rows(found.valid, found.x_adv)
  return jax.lax.stop_gradient(jnp.where(valid, found.x_adv, jnp.nan))


def pgd(
  network: base.Network,
  batch: base.Examples,
  key: jax.Array,
  *,
  radius: jax.Array,
  norm: str,
  step_size: float,
  num_steps: int,
  random_start: bool = True,
  loss: str | losses.Loss = "cross_entropy",
) -> jax.Array:
  """PGD on a loss, see `attacks.pgd`; `step_size` in units of `radius`."""
  if network.points is not None:
    return network.points
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
    loss=loss,
    where=batch.mask,
  )
  return _constants(found)


def kl_pgd(
  network: base.Network,
  batch: base.Examples,
  key: jax.Array,
  *,
  radius: jax.Array,
  norm: str,
  step_size: float,
  num_steps: int,
  anchor: str = "clean",
) -> jax.Array:
  """PGD on the divergence from the clean prediction, from a random start."""
  if network.points is not None:
    return network.points
  found = attacks.kl_pgd(
    network.frozen().evaluate,
    batch.image,
    key,
    epsilon=radius,
    step_size=step_size * radius,
    num_steps=num_steps,
    norm=norm,
    anchor=anchor,
    where=batch.mask,
  )
  return _constants(found)


def fisher_rao_pgd(
  network: base.Network,
  batch: base.Examples,
  key: jax.Array,
  *,
  radius: jax.Array,
  norm: str,
  step_size: float,
  num_steps: int,
) -> jax.Array:
  """PGD on the Fisher-Rao distance from the clean prediction, random start."""
  if network.points is not None:
    return network.points
  clean = network.frozen().evaluate(batch.image)

  def distance(logits: jax.Array, labels: jax.Array) -> jax.Array:
    del labels
    return divergences.squared_fisher_rao_distance(clean, logits)

  return pgd(
    network,
    batch,
    key,
    radius=radius,
    norm=norm,
    step_size=step_size,
    num_steps=num_steps,
    loss=distance,
  )
