"""Quadrature of the path lens: the chord sum, and its extrapolation.

The chord sum `V` of logits at n + 1 nodes is the Fisher part of the polygon
through them. To lowest order it is smaller than that of the path by `k + e`,
where

    k = 1/n sum_kinks (1-t) theta (1-theta) Var_p(D)

for kinks at the fraction theta of their segment, where the velocity jumps by D,
and `e` decreases as 1/n^2 for smooth parts. Kinks are visible in the logits
[ours]: the second differences at the two ends of a segment, `(1-theta) D / n`
and `theta D / n`, have a covariance. Summed, it gives `K`, an estimate of k
(exact for isolated kinks, correct in the mean for kinks of independent
directions) plus a smooth part that decreases as 1/n^2. The steps
`S_n = V_n - V_{n/2}` contain k, in the mean over theta, and 3 e. Two
combinations are therefore free of both errors,

    W = V_n + (4 K_n - K_{n/2} + S_n) / 3,
    R = V_n + (5 S_n - S_{n/2}) / 3 (twice Richardson's extrapolation),

and scatter differently. The value is `0.8 W + 0.2 R`, and the distance between
W and R is part of its error. Shapes: n segments, P pairs, C classes.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from robust_info.information import divergences


class Sums(NamedTuple):
  """Sums over one set of nodes for each pair, [P].

  Attributes:
    chord: `V`, the Fisher part of the polygon.
    bend: `K`.
    scatter: root of the sum of squares of the terms of `K`, one per segment.
  """

  chord: jax.Array
  bend: jax.Array
  scatter: jax.Array


class Estimate(NamedTuple):
  """The current estimate of the Fisher part of each pair, [P].

  Attributes:
    value: the best estimate so far.
    error: its estimated error; infinite before the third level.
    nodes: the n of the best estimate.
    level: the sums of the finest nodes.
    step: change of the chord sums from the level before; infinite at the first.
    current: the estimate from the finest nodes.
    change: change of `current` from the level before.
  """

  value: jax.Array
  error: jax.Array
  nodes: jax.Array
  level: Sums
  step: jax.Array
  current: jax.Array
  change: jax.Array


def chord_sums(levels: Sequence[jax.Array]) -> list[jax.Array]:
  """Fisher part [P] of the polygon through each of some logits [n + 1, P, C].

  All levels share one computation: it compiles several times faster than one
  computation per level.
  """
  starts = jnp.concatenate([logits[:-1] for logits in levels])
  ends = jnp.concatenate([logits[1:] for logits in levels])
  forward = divergences.kl_divergence(starts, ends)
  both = forward + divergences.kl_divergence(ends, starts)

  def total(forward, both):
    num_segments = forward.shape[0]
    later = num_segments - 1 - jnp.arange(num_segments, dtype=forward.dtype)
    return jnp.sum(later[:, None] * both + forward, axis=0)

  counts = [logits.shape[0] - 1 for logits in levels]
  return [
    total(*parts)
    for parts in zip(_split(forward, counts), _split(both, counts), strict=True)
  ]


def from_nodes(logits: jax.Array) -> Estimate:
  """The estimate from logits [n + 1, P, C] and all their coarser levels."""
  num_nodes = logits.shape[0] - 1
  strides = [1]
  while num_nodes % (2 * strides[0]) == 0:
    strides.insert(0, 2 * strides[0])
  levels = _sums([logits[::stride] for stride in strides])
  estimate = _start(levels[0], num_nodes // strides[0])
  for level, stride in zip(levels[1:], strides[1:], strict=True):
    estimate = _advance(estimate, level, num_nodes // stride)
  return estimate


def refined(before: Estimate, logits: jax.Array) -> Estimate:
  """Adds the next level: logits [2 n + 1, P, C] on nested nodes."""
  return _advance(before, _sums([logits])[0], logits.shape[0] - 1)


def _start(level: Sums, num_nodes: int) -> Estimate:
  """The estimate from the first, coarsest level."""
  unknown = jnp.full_like(level.chord, jnp.inf)
  return Estimate(
    value=level.chord,
    error=unknown,
    nodes=jnp.full_like(unknown, num_nodes, dtype=jnp.int32),
    level=level,
    step=unknown,
    current=level.chord,
    change=unknown,
  )


def _advance(before: Estimate, level: Sums, num_nodes: int) -> Estimate:
  """Adds the next level.

  A single change may be small by chance, most of all where a kink lies next to
  a node. The remaining deficit is therefore taken to be at least a quarter of
  the previous change, half the distance of the two combinations, and 0.7 of the
  scatter of single segments (constants from a battery of smooth, ReLU and
  max-pool networks), and the error to be twice the deficit. A level that
  disagrees with the best one so far also raises the error of the best one.
  """
  step = level.chord - before.level.chord
  correction = (4 * level.bend - before.level.bend + step) / 3
  # The distance of R from W; it needs three levels.
  is_known = before.step < jnp.inf
  gap = (5 * step - jnp.where(is_known, before.step, 0.0)) / 3 - correction
  gap = jnp.where(is_known, gap, 0.0)
  correction = correction + 0.2 * gap
  # A large correction means that the lowest order does not dominate yet.
  is_small = jnp.abs(correction) <= level.chord / 2
  current = level.chord + jnp.where(is_small, correction, 0.0)
  missing = jnp.where(is_small, 0.0, jnp.abs(correction))
  change = jnp.abs(current - before.current)
  error = jnp.maximum(change, before.change / 4)
  error = jnp.maximum(error, jnp.maximum(jnp.abs(gap) / 2, missing))
  error = 2 * jnp.maximum(error, 0.7 * level.scatter)
  nodes = jnp.full(error.shape, num_nodes, jnp.int32)
  distance = jnp.abs(current - before.value)
  error_before = jnp.maximum(before.error, distance - error)
  is_better = error <= error_before
  return Estimate(
    value=jnp.where(is_better, current, before.value),
    error=jnp.where(is_better, error, error_before),
    nodes=jnp.where(is_better, nodes, before.nodes),
    level=level,
    step=step,
    current=current,
    change=change,
  )


def _sums(levels: Sequence[jax.Array]) -> list[Sums]:
  """Sums of each of some logits [n + 1, P, C], in one computation."""
  counts = [logits.shape[0] - 1 for logits in levels]
  # Geometric means give little weight to a transition within a segment, which
  # the chord resolves and the lowest order does not.
  log_p = [divergences.log_softmax(logits) for logits in levels]
  weight = jnp.concatenate([jnp.exp((v[:-1] + v[1:]) / 2) for v in log_p])
  left, right = (
    jnp.concatenate(sides)
    for sides in zip(*(_bends(logits) for logits in levels), strict=True)
  )
  mass = jnp.sum(weight, axis=-1)
  covariance = jnp.sum(weight * left * right, axis=-1) - (
    jnp.sum(weight * left, axis=-1)
    * jnp.sum(weight * right, axis=-1)
    / jnp.where(mass == 0, 1.0, mass)
  )
  return [
    Sums(chord, *_bend_and_scatter(terms))
    for chord, terms in zip(
      chord_sums(levels), _split(covariance, counts), strict=True
    )
  ]


def _bends(logits):
  """Second differences at the left and the right end of each segment."""
  num_segments = logits.shape[0] - 1
  if num_segments < 2:
    none = jnp.zeros_like(logits[1:])
    return none, none
  bend = logits[2:] - 2 * logits[1:-1] + logits[:-2]
  # A class that is impossible at some node makes the chord infinite; one that
  # is impossible at all nodes has no weight.
  bend = jnp.where(jnp.isfinite(bend), bend, 0.0)
  # The outer segments see the bend at one end, which is that of two segments.
  left = jnp.concatenate([bend[:1] / 4, bend], axis=0)
  right = jnp.concatenate([bend, bend[-1:] / 4], axis=0)
  return left, right


def _bend_and_scatter(covariance):
  num_segments = covariance.shape[0]
  later = num_segments - 0.5 - jnp.arange(num_segments, dtype=covariance.dtype)
  terms = later[:, None] * covariance
  squares = jnp.sum(terms**2, axis=0)
  is_zero = squares == 0
  scatter = jnp.where(is_zero, 0.0, jnp.sqrt(jnp.where(is_zero, 1.0, squares)))
  return jnp.sum(terms, axis=0), scatter


def _split(values, counts):
  """Splits the leading axis into parts of these lengths."""
  return jnp.split(values, list(itertools.accumulate(counts))[:-1])
