"""What an attack returns, and how results of several tries are combined.

Shape letters: N examples, C classes, R tries of one example.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class AttackResult:
  """The outcome of an attack, one row per example; a pytree.

  Values cannot be checked under `jax.jit`, so every row says whether its
  arguments made an attack: where `valid` is False, `x_adv` is the input,
  `success` is False, and `loss` and `logits` are NaN, as is every mean over
  them and `robust_accuracy()`.

  Attributes:
    x_adv: [N, ...] finite inputs inside the ball and the box. Rows
      masked out by `where`, and invalid ones, are the input, bit for bit.
    success: [N] bool. At `x_adv` the model does not predict `y`, that is
      `argmax(logits) != y`, or the logits are not finite (for a targeted attack
      `argmax(logits) == y` and finite; for `kl_pgd` the class differs from the
      clean prediction). An example the model already gets wrong counts as a
      success; a masked row never does.
    loss: [N] the quantity the attack ascends, at `x_adv`; 0 in masked rows, NaN
      where the logits are not finite.
    logits: [N, C] at `x_adv`, of masked rows at the input.
    zero_gradients: [N] bool. The gradient at the attack's start was zero in
      every input coordinate (entries that are not finite count as zero): a
      saturated loss or a masked gradient, and a result that says little. See
      docs/guide/attacks.md.
    nonfinite_gradients: [N] bool. Some gradient on the way had a NaN or
      infinite entry. The attack took it for 0 and may be too weak.
    nonfinite_logits: [N] bool. Some logit at `x_adv` is NaN or infinite, of a
      valid row: there is no prediction to speak of.
    valid: [N] bool. The label is a class, the input is finite and within the
      bounds (to 1e-6), radius and step size are finite and not negative.
      Masked rows are valid.
  """

  x_adv: jax.Array
  success: jax.Array
  loss: jax.Array
  logits: jax.Array
  zero_gradients: jax.Array
  nonfinite_gradients: jax.Array | None = None
  nonfinite_logits: jax.Array | None = None
  valid: jax.Array | None = None

  def robust_accuracy(self, where: jax.Array | None = None) -> jax.Array:
    """Share of the rows without success; NaN if a row is not valid.

    Args:
      where: [N] bool, the mask that the attack was given.

    Returns:
      A scalar; NaN, too, if the mask leaves nothing.
    """
    robust = ~self.success if where is None else ~self.success & where
    count = len(self.success) if where is None else jnp.sum(where)
    share = jnp.sum(robust) / count
    return jnp.where(jnp.all(self.valid), share, jnp.nan)


def finite(logits: Any) -> Any:
  """[N] bool, every logit of a row is finite; of NumPy or JAX arrays [N, C]."""
  return (abs(logits) < np.inf).all(axis=-1)


def correct(logits: Any, labels: Any) -> Any:
  """[N] bool, the row predicts its label; of NumPy or JAX arrays.

  Logits that are not all finite predict nothing: `argmax` would take the first
  NaN for the largest.
  """
  best = logits.argmax(axis=-1).astype(labels.dtype)
  return finite(logits) & (best == labels)


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

  `zero_gradients` stays set only where every try started without a gradient,
  `nonfinite_gradients` where any try met one.
  """
  index = worst_try(results.success, results.loss)
  columns = jnp.arange(index.shape[0])
  best = jax.tree.map(lambda leaf: leaf[index, columns], results)
  return dataclasses.replace(
    best,
    zero_gradients=jnp.all(results.zero_gradients, axis=0),
    nonfinite_gradients=jnp.any(results.nonfinite_gradients, axis=0),
  )


def settle(
  result: AttackResult, x: jax.Array, where: jax.Array, valid: jax.Array
) -> AttackResult:
  """Masked and invalid rows as `AttackResult` documents them.

  Args:
    result: of the attack, which evaluated these rows at `x` in the end.
    x: [N, ...] inputs.
    where: [N] bool.
    valid: [N] bool, of masked rows too.

  Returns:
    The result, complete.
  """
  live = where & valid
  logits = select(valid | ~where, result.logits, jnp.nan)
  return dataclasses.replace(
    result,
    x_adv=select(live, result.x_adv, x),
    success=result.success & live,
    loss=jnp.where(where, jnp.where(valid, result.loss, jnp.nan), 0),
    logits=logits,
    zero_gradients=result.zero_gradients & live,
    nonfinite_gradients=result.nonfinite_gradients & live,
    nonfinite_logits=~finite(logits) & live,
    valid=valid | ~where,
  )
