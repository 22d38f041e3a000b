"""Attacks of one's own that evaluate.py runs by name.

Shape letters: N examples, C classes.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from robust_info.attacks import projections
from robust_info.config import registry

# Rounding of a projection in float32, relative to the radius, and absolute.
_RELATIVE, _ABSOLUTE = 1e-4, 1e-6


def register(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
  """A decorator that makes an attack a value of `evaluation.attack`.

      @own_attack.register("corner")
      def corner(logits_fn, x, label, key, *, epsilon, norm, tries: int = 4):
        ...
        return x_adv

  The function takes the network, images float [N, H, W, channels] in [0, 1],
  labels int [N] and a typed key, and returns attacked images, or an
  `AttackResult`. It is called under `jit`. Further arguments without a default
  are fields of the section `evaluation`, above all `epsilon` and `norm`, or
  `where` (bool [N], False for padding) and `example_ids` (int [N], the same in
  batches of any size); arguments with a default become fields of their own.

  evaluate.py runs PGD too, takes each example at its worst, and does not count
  images outside the ball or [0, 1].

  Args:
    name: name in the configuration; see `config.registry`.

  Raises:
    ValueError: as `config.registry.register`.
    TypeError: as `config.registry.register`.
  """
  return registry.register("attack", name)


def run(
  settings: Any,
  logits_fn: Callable[[jax.Array], jax.Array],
  x: jax.Array,
  label: jax.Array,
  key: jax.Array,
  *,
  where: jax.Array,
  example_ids: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """The attack that the settings choose, on a batch.

  Args:
    settings: `config.EvaluationConfig` that chooses an attack of one's own.
    logits_fn: function [N, ...] -> [N, C].
    x: [N, ...] images.
    label: [N] labels.
    key: typed key, consumed.
    where: [N] bool, False for padding.
    example_ids: [N] row numbers.

  Returns:
    Attacked images, which are `x` where the attack left the ball of radius
    `settings.epsilon` or [0, 1], and a mask [N] of these rows.

  Raises:
    ValueError: the attack returns another shape.
    registry.PartError: the attack fails, for example because it cannot be
      traced.
  """
  name = settings.attack
  found = registry.bound(settings, where=where, example_ids=example_ids)(
    logits_fn, x, label, key
  )
  x_adv = jnp.asarray(getattr(found, "x_adv", found))
  if x_adv.shape != x.shape:
    raise ValueError(
      f"Expected the attack {name!r} to return images of shape {x.shape}, got "
      f"{x_adv.shape}."
    )
  size = projections.norm(x_adv - x, settings.norm)
  inside = size <= settings.epsilon * (1 + _RELATIVE) + _ABSOLUTE
  axes = tuple(range(1, x.ndim))
  inside &= jnp.min(x_adv, axis=axes) >= -_ABSOLUTE
  inside &= jnp.max(x_adv, axis=axes) <= 1 + _ABSOLUTE
  kept = jnp.reshape(inside, (-1, *(1 for _ in axes)))
  return jnp.where(kept, jnp.clip(x_adv, 0, 1), x), ~inside & where
