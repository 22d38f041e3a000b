"""What an attack returns, and how results of several tries are combined.

Shape letters: N examples, C classes, R tries of one example.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class AttackResult:
  """The outcome of an attack, one row an example; a pytree.

  Attributes:
    x_adv: [N, ...] inputs inside the ball and the box. Rows masked out by
      `where` are the input, bit for bit.
    success: [N] bool. `argmax(logits) != y` at `x_adv` (for a targeted attack
      `== y`; for `kl_pgd` the class differs from the clean prediction). An
      example the model already gets wrong counts as a success; a masked row
      never does. Robust accuracy is `1 - mean(success)`.
    loss: [N] the quantity the attack ascends, at `x_adv`; 0 in masked rows.
    logits: [N, C] at `x_adv`.
    zero_gradients: [N] bool. The gradient at the attack's start was exactly
      zero in every input coordinate: a saturated loss or a masked gradient,
      and a result that says little. See docs/attacks.md.
  """

  x_adv: jax.Array
  success: jax.Array
  loss: jax.Array
  logits: jax.Array
  zero_gradients: jax.Array


def rows(selected: jax.Array, like: jax.Array) -> jax.Array:
  """[N] with trailing axes of length one, to meet `like` of [N, ...]."""
  return selected.reshape(selected.shape + (1,) * (like.ndim - selected.ndim))


def select(selected: jax.Array, on_true: Any, on_false: Any) -> Any:
  """Row-wise `where` over two pytrees whose leaves are [N, ...]."""
  return jax.tree.map(
    lambda a, b: jnp.where(rows(selected, a), a, b), on_true, on_false
  )


def worst_try(success: jax.Array, loss: jax.Array) -> jax.Array:
  """Which of R tries is the worst case of each example.

  A success beats every failure; among equals the highest loss wins (the first
  of ties). A NaN loss counts as the lowest.

  Args:
    success: [R, N] bool.
    loss: [R, N].

  Returns:
    [N] int indices into the tries.
  """
  lowest = jnp.finfo(loss.dtype).min
  finite = jnp.clip(jnp.where(jnp.isnan(loss), lowest, loss), min=lowest)
  eligible = success | ~jnp.any(success, axis=0, keepdims=True)
  return jnp.argmax(jnp.where(eligible, finite, -jnp.inf), axis=0)


def keep_worst(results: AttackResult) -> AttackResult:
  """Reduces results with leaves [R, N, ...] to the worst try of each example.

  `zero_gradients` stays set only where every try started without a gradient.
  """
  index = worst_try(results.success, results.loss)
  columns = jnp.arange(index.shape[0])
  best = jax.tree.map(lambda leaf: leaf[index, columns], results)
  return dataclasses.replace(
    best, zero_gradients=jnp.all(results.zero_gradients, axis=0)
  )


def mask(result: AttackResult, x: jax.Array, where: jax.Array) -> AttackResult:
  """Undoes the attack in masked rows, as `AttackResult` documents."""
  return dataclasses.replace(
    result,
    x_adv=select(where, result.x_adv, x),
    success=result.success & where,
    loss=jnp.where(where, result.loss, 0),
    zero_gradients=result.zero_gradients & where,
  )
