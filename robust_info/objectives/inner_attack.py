"""The attacks inside objectives, whose points are constants to the gradient.

Both attacks use the evaluation mode of the frozen network. A network that
already carries points, `Network.points`, is not attacked again.
"""

import jax
import jax.numpy as jnp

from robust_info import attacks
from robust_info.attacks import results
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
) -> jax.Array:
  """PGD on the cross-entropy; `step_size` in units of `radius`."""
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
