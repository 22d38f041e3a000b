"""Where the attack inside an objective ends, as constants to the gradient.

Both attacks see the evaluation mode of the frozen network. A network that
carries points already, `Network.points`, is not attacked again.
"""

import jax
import jax.numpy as jnp

from robust_info import attacks
from robust_info.attacks import results
from robust_info.objectives import base


def _constants(found: attacks.AttackResult) -> jax.Array:
  """The points; NaN where the attack was given what makes no sense.

  Left as they are, the clean inputs would be trained on without a word. A loss
  that is not finite stops the run.
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
