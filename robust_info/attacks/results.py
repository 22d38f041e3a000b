"""The result of an attack, and the combination of results of several tries.

Shape letters: N examples, C classes, R tries of one example.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from robust_info import _validate


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class AttackResult:
  """The outcome of an attack, one row per example; a pytree.

  Values cannot be validated under `jax.jit`, so every row says whether its
  arguments made an attack: where `valid` is False, `x_adv` is the input,
  `success` is False, and `loss` and `logits` are NaN, as is every mean over
  them and `robust_accuracy()`.

  Attributes:
    x_adv: [N, ...] finite inputs inside the ball and the box. Rows masked out
      by `where`, and invalid rows, are the input, bit for bit.
    success: [N] bool. At `x_adv` the model does not predict `y`, that is
      `argmax(logits) != y`, or the logits are not finite (for a targeted attack
      `argmax(logits) == y` and finite; for `kl_pgd` the class differs from the
      clean prediction). An example that the model already misclassifies counts
      as a success; a masked row never does.
    loss: [N] loss that the attack maximises, at `x_adv`; 0 in masked rows, NaN
      where the logits are not finite.
    logits: [N, C] logits at `x_adv`; in masked rows at the input.
    zero_gradients: [N] bool. The gradient at the attack's start was zero in
      every input coordinate (entries that are not finite count as zero). The
      loss is saturated or the gradient masked, and the result says little. See
      docs/guide/attacks.md.
    nonfinite_gradients: [N] bool. Some gradient during the attack had a NaN or
      infinite entry. The attack took it for 0 and may be too weak.
    nonfinite_logits: [N] bool. The row is valid and some logit at `x_adv` is
      NaN or infinite, so there is no prediction.
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
    """Share of the rows without success; NaN if any row is not valid.

    Args:
      where: [N] bool, the mask that was passed to the attack.

    Returns:
      A scalar; NaN also if the mask leaves no row.
    """
    robust = ~self.success if where is None else ~self.success & where
    count = len(self.success) if where is None else jnp.sum(where)
    share = jnp.sum(robust) / count
    return jnp.where(jnp.all(self.valid), share, jnp.nan)


def finite(logits: Any) -> Any:
  """[N] bool, whether all logits of a row are finite; NumPy or JAX [N, C]."""
  return (abs(logits) < np.inf).all(axis=-1)


def noticed(found: AttackResult, where: Any) -> AttackResult:
  """The result; warns if the network returned probabilities."""
  _validate.warn_of_probabilities(
    "the output of logits_fn", found.logits, where, stacklevel=6
  )
  return found


def correct(logits: Any, labels: Any) -> Any:
  """[N] bool, whether a row predicts its label; NumPy or JAX arrays.

  A row whose logits are not all finite has no prediction, because `argmax`
  would take the first NaN for the largest.
  """
  best = logits.argmax(axis=-1).astype(labels.dtype)
  return finite(logits) & (best == labels)


def accuracy_by_radius(
  outcomes: Sequence[tuple[float, np.ndarray]],
) -> list[dict[str, float]]:
  """Robust accuracy by radius, each example at its worst point so far.

  An adversarial example at one radius lies in every larger ball, so an example
  that is broken once stays broken: the curve never rises.

  Args:
    outcomes: pairs of a radius and bool [N], whether the example is correct at
      that radius; radii increase.

  Returns:
    Points with `epsilon`, `accuracy` and its `standard_error` (`share_error`).
  """
  curve, survivors = [], True
  for epsilon, is_correct in outcomes:
    survivors = survivors & is_correct
    found = share(float(survivors.mean()), len(survivors))
    curve.append({"epsilon": epsilon, **found})
  return curve


def share(accuracy: float, num_examples: int) -> dict[str, float]:
  """An accuracy with its `share_error`."""
  error = share_error(accuracy, num_examples)
  return {"accuracy": accuracy, "standard_error": error}


def share_error(value: float, num_examples: int) -> float:
  """Standard error of a share of N independent examples, never 0.

  The binomial one, except for a share of 0 or 1, where that would claim that
  all other examples are alike. There two of these errors reach the exact 95 %
  bound, `1 - 0.05^(1/N)`, which is about 3 / N.
  """
  if value in (0, 1):
    return (1 - 0.05 ** (1 / num_examples)) / 2
  return math.sqrt(value * (1 - value) / num_examples)


def rows(selected: jax.Array, like: jax.Array) -> jax.Array:
  """Adds trailing axes of length one to [N], to broadcast over `like`."""
  return selected.reshape(selected.shape + (1,) * (like.ndim - selected.ndim))


def select(selected: jax.Array, on_true: Any, on_false: Any) -> Any:
  """Row-wise `where` over two pytrees whose leaves are [N, ...]."""
  return jax.tree.map(
    lambda a, b: jnp.where(rows(selected, a), a, b), on_true, on_false
  )


def worst_try(
  success: jax.Array, loss: jax.Array, preference: jax.Array | None = None
) -> jax.Array:
  """Index of the worst of R tries of each example.

  A success beats every failure. Among equals the highest loss wins, and among
  equal losses the first try. A NaN loss counts as the lowest.

  Args:
    success: [R, N] bool, success of each try.
    loss: [R, N] loss of each try.
    preference: [R, N], ranks the successes in place of the loss, highest first.

  Returns:
    [N] int indices into the tries.
  """
  if preference is not None:
    dtype = jnp.promote_types(loss.dtype, preference.dtype)
    loss = jnp.where(success, preference.astype(dtype), loss.astype(dtype))
  lowest = jnp.finfo(loss.dtype).min
  finite = jnp.clip(jnp.where(jnp.isnan(loss), lowest, loss), min=lowest)
  eligible = success | ~jnp.any(success, axis=0, keepdims=True)
  return jnp.argmax(jnp.where(eligible, finite, -jnp.inf), axis=0)


def keep_worst(
  results: AttackResult, preference: jax.Array | None = None
) -> AttackResult:
  """Reduces results with leaves [R, N, ...] to the worst try of each example.

  `preference`: see `worst_try`. `zero_gradients` stays set only where every try
  started with a zero gradient, `nonfinite_gradients` where any try had a
  gradient that is not finite.
  """
  index = worst_try(results.success, results.loss, preference)
  columns = jnp.arange(index.shape[0])
  best = jax.tree.map(lambda leaf: leaf[index, columns], results)
  return dataclasses.replace(
    best,
    zero_gradients=jnp.all(results.zero_gradients, axis=0),
    nonfinite_gradients=jnp.any(results.nonfinite_gradients, axis=0),
  )


def settle(
  result: AttackResult,
  x: jax.Array,
  where: jax.Array | np.ndarray,
  valid: jax.Array,
) -> AttackResult:
  """Sets masked and invalid rows to the values that `AttackResult` documents.

  Args:
    result: result of the attack, whose logits in these rows are those at `x`.
    x: [N, ...] inputs.
    where: [N] bool, `False` in masked rows.
    valid: [N] bool, with any value in masked rows.

  Returns:
    The complete result.
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
