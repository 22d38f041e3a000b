"""Uncertainty over examples: the delete-a-group jackknife (Kott 2001).

Shapes: `C` classes, `G` groups of examples.
"""

import dataclasses
import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from robust_info import accumulator


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Jackknife:
  """A statistic of a data set and its uncertainty over examples.

  Every field is a pytree of the structure of the statistic.

  Attributes:
    estimate: the statistic of all examples.
    standard_error: of it.
    bias: the jackknife estimate of its bias; `estimate - bias` is corrected to
      first order in 1/N.
    low: `estimate - z standard_error`.
    high: `estimate + z standard_error`, z the normal quantile of the level.
    deleted: [G, ...], the statistic of all groups but one.
  """

  estimate: Any
  standard_error: Any
  bias: Any
  low: Any
  high: Any
  deleted: Any


def jackknife(
  parts: Any,
  statistic: Callable[[Any], Any],
  *,
  level: float = 0.95,
) -> Jackknife:
  """Uncertainty over examples of any statistic of a data set.

  Args:
    parts: the statistics of G disjoint groups of examples, similar in size and
      drawn alike (example i to group i mod G, not sorted by class); 20 or more
      for a usable error. A sequence of `InformationStats`, one stacked along a
      leading axis [G, ...] (`grouped_information_stats`), or a dictionary of
      stacked ones, of the same examples seen in different ways.
    statistic: from `InformationStats`, or such a dictionary, to a pytree of
      float arrays, for example `summarize` or `lambda s: summarize(s).cckl`.
      Must be traceable; compiled once for each function object.
    level: of the interval, in (0, 1).

  Returns:
    `Jackknife`. Integer leaves of the statistic become floats. Cost: O(G)
    merges and G + 1 evaluations of the statistic.

  Raises:
    ValueError: fewer than two groups, or a level outside (0, 1).
  """
  if isinstance(parts, Sequence):
    parts = jax.tree.map(lambda *leaves: jnp.stack(leaves), *parts or [()])
  num_groups = min((len(leaf) for leaf in jax.tree.leaves(parts)), default=0)
  if num_groups < 2:
    raise ValueError(
      f"Expected parts of at least two groups of examples, got {num_groups}."
    )
  if not 0 < level < 1:
    raise ValueError(f"Expected level in (0, 1), got level={level}.")
  estimate, deleted = _delete_each(parts, statistic)
  quantile = jax.scipy.special.ndtri(0.5 + level / 2)
  error = jax.tree.map(standard_error, deleted)

  def bound(sign):
    return jax.tree.map(lambda e, s: e + sign * quantile * s, estimate, error)

  return Jackknife(
    estimate=estimate,
    standard_error=error,
    bias=jax.tree.map(
      lambda without, e: (num_groups - 1) * (jnp.mean(without, axis=0) - e),
      deleted,
      estimate,
    ),
    low=bound(-1),
    high=bound(1),
    deleted=deleted,
  )


def standard_error(deleted: jax.Array) -> jax.Array:
  """The jackknife error [...] of a statistic from `deleted` [G, ...]."""
  num_groups = deleted.shape[0]
  mean = jnp.mean(deleted, axis=0, keepdims=True)
  scale = (num_groups - 1) / num_groups
  return jnp.sqrt(scale * jnp.sum((deleted - mean) ** 2, axis=0))


@functools.partial(jax.jit, static_argnames="statistic")
def _delete_each(stacked, statistic):
  """The statistic of all groups, and [G] of all but one, from running sums."""
  zero = jax.tree.map(lambda leaf: jnp.zeros_like(leaf[0]), stacked)

  def merged(one, other):
    return jax.tree.map(
      operator.add,
      one,
      other,
      is_leaf=lambda node: isinstance(node, accumulator.InformationStats),
    )

  def add(total, part):
    return merged(total, part), total

  total, before = jax.lax.scan(add, zero, stacked)
  _, after = jax.lax.scan(add, zero, stacked, reverse=True)

  def measure(_, sides):
    found = statistic(merged(*sides))
    return None, jax.tree.map(
      lambda leaf: leaf.astype(jnp.result_type(leaf, jnp.float32)), found
    )

  # All examples as one more case: the statistic is compiled once.
  sides = jax.tree.map(
    lambda rows, last: jnp.concatenate([rows, last[None]]),
    (before, after),
    (total, zero),
  )
  _, found = jax.lax.scan(measure, None, sides)
  return (
    jax.tree.map(lambda leaf: leaf[-1], found),
    jax.tree.map(lambda leaf: leaf[:-1], found),
  )
