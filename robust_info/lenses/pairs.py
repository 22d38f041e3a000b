"""Random pairs of examples from different classes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Integer, PRNGKeyArray

from robust_info import _validate
from robust_info._xla import explicit_meshes


@explicit_meshes.accepted(rows=False)
def sample_cross_pairs(
  key: PRNGKeyArray,
  labels: Integer[ArrayLike, " N"],
  *,
  num_pairs: int,
  where: Bool[ArrayLike, " N"] | None = None,
) -> tuple[Integer[Array, " P"], Integer[Array, " P"]]:
  """Index pairs (i, j), uniform over the ordered pairs with `k_i != k_j`.

  Independent draws with replacement, from the population whose exact mean is
  `cckl`.

  Args:
    key: a `jax.random.key`; consumed.
    labels: [N] integers, any values within int32.
    num_pairs: P, a Python int.
    where: [N] booleans; `False` rows are never drawn.

  Returns:
    Two [P] int32 arrays of indices into `labels`. Exact up to the 2^-23
    resolution of the uniform draw that chooses the class of i. Cost:
    O(N log N + P log N); no array of size N^2 or N P.

  Raises:
    ValueError: fewer than two distinct labels (where labels are concrete;
      under `jax.jit` both indices are then -1).
  """
  labels, where = _check(labels, where)
  _validate.positive_int("num_pairs", num_pairs)
  if _validate.is_concrete(labels) and _validate.is_concrete(where):
    counted = slice(None) if where is None else np.asarray(where)
    distinct = np.unique(np.asarray(labels)[counted])
    if distinct.size < 2:
      raise ValueError(
        "Expected labels with at least two different values, got "
        f"{distinct.size} distinct: there is no cross-category pair to draw."
      )

  return _sample(key, labels, where, num_pairs)


def sample_partners(
  key: jax.Array, labels: jax.Array, *, where: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
  """Draws a partner per row, uniform over the counted rows of other labels.

  The mean over rows of a function of (row, partner) estimates its mean over
  ordered pairs of different labels, with each row i weighted by the inverse of
  the number of its possible partners. This equals the mean behind CCKL if all
  labels are equally frequent.

  Args:
    key: a `jax.random.key`; consumed.
    labels: [N] integers, any values within int32.
    where: [N] booleans; `False` rows have no partner and are never one.

  Returns:
    Indices [N] int32 into `labels`, and [N] booleans: whether the row has a
    partner. The index of a row without one is its own. Cost: O(N log N).

  Raises:
    ValueError: labels are not of shape [N].
    TypeError: they are not integers.
  """
  labels, where = _check(labels, where)
  num_examples = labels.shape[0]
  where = _validate.filled_mask(where, num_examples)
  order, run, run_size, run_start = _runs(labels, where)
  num_valid = jnp.sum(where, dtype=jnp.int32)
  size, start = run_size[run], run_start[run]
  exists = (run < num_examples) & (num_valid > size)
  rest = jax.random.randint(
    key, (num_examples,), 0, jnp.maximum(num_valid - size, 1), jnp.int32
  )
  position = jnp.where(rest < start, rest, rest + size)
  chosen = jnp.where(
    exists, order[jnp.minimum(position, num_examples - 1)], order
  )
  # Map sorted positions back to rows.
  partner = jnp.zeros_like(order).at[order].set(chosen)
  return partner.astype(jnp.int32), jnp.zeros_like(where).at[order].set(exists)


def _check(labels, where):
  """Labels [N] as int32, and the mask of the rows that count or `None`."""
  shape = np.shape(labels)
  if len(shape) != 1:
    raise ValueError(f"Expected labels of shape [N], got shape {shape}.")
  where = _validate.mask("where", where, shape[0])
  return _validate.labels("labels", labels, shape[0], where), where


def _runs(labels, where):
  """Sorts by (masked last, label); equal labels become runs.

  Returns the order [N], the run of each sorted position (N for masked ones),
  and size and start [N + 1] of each run.
  """
  num_examples = labels.shape[0]
  order = jnp.lexsort((labels, ~where)).astype(jnp.int32)
  sorted_labels = labels[order]
  num_valid = jnp.sum(where, dtype=jnp.int32)
  position = jnp.arange(num_examples, dtype=jnp.int32)
  is_valid = position < num_valid
  is_first = is_valid & jnp.concatenate(
    [jnp.ones((1,), bool), sorted_labels[1:] != sorted_labels[:-1]]
  )
  run = (
    jnp.cumsum(is_first, dtype=jnp.int32) - 1
  )  # the run that a position belongs to
  run = jnp.where(is_valid, run, num_examples)
  run_size = jax.ops.segment_sum(jnp.ones_like(position), run, num_examples + 1)
  run_start = jax.ops.segment_min(position, run, num_examples + 1)
  return order, run, run_size, run_start


@functools.partial(jax.jit, static_argnames="num_pairs")
def _sample(key, labels, where, num_pairs):
  if not labels.shape[0]:
    none = jnp.full((num_pairs,), -1, jnp.int32)
    return none, none
  where = _validate.filled_mask(where, labels.shape[0])
  order, _, run_size, run_start = _runs(labels, where)
  num_valid = jnp.sum(where, dtype=jnp.int32)
  position = jnp.arange(labels.shape[0], dtype=jnp.int32)
  # Draw the class of i with probability n_a (N - n_a), then i within the class,
  # then j among all the others.
  sizes = run_size[:-1].astype(jnp.float32)
  weight = sizes * (num_valid.astype(jnp.float32) - sizes)
  cumulative = jnp.cumsum(weight)
  key_class, key_i, key_j = jax.random.split(key, 3)
  uniform = jax.random.uniform(key_class, (num_pairs,), jnp.float32)
  chosen = jnp.searchsorted(cumulative, uniform * cumulative[-1], side="right")
  # Rounding may point past the last run of positive weight.
  last = jnp.max(jnp.where(weight > 0, position, 0))
  chosen = jnp.minimum(chosen.astype(jnp.int32), last)
  size, start = run_size[chosen], run_start[chosen]
  first = start + jax.random.randint(
    key_i, (num_pairs,), 0, jnp.maximum(size, 1), jnp.int32
  )
  rest = jax.random.randint(
    key_j, (num_pairs,), 0, jnp.maximum(num_valid - size, 1), jnp.int32
  )
  second = jnp.where(rest < start, rest, rest + size)
  exists = cumulative[-1] > 0
  return (
    jnp.where(exists, order[first], -1).astype(jnp.int32),
    jnp.where(exists, order[second], -1).astype(jnp.int32),
  )
