"""Compensated sums: twice the digits of a dtype, inside `jax.jit`.

XLA keeps the order of floating-point additions on every backend, so that the
classical error-free transformations work as written.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Compensated(NamedTuple):
  """An unevaluated sum `high + low` with twice the digits of its dtype."""

  high: jax.Array
  low: jax.Array

  @classmethod
  def of(cls, value: jax.Array) -> "Compensated":
    return cls(value, jnp.zeros_like(value))

  @property
  def value(self) -> jax.Array:
    return self.high + self.low

  def plus(self, other: "Compensated") -> "Compensated":
    high, error = _two_sum(self.high, other.high)
    # An infinite sum has no rounding error to carry (inf - inf is NaN).
    error = jnp.where(jnp.isfinite(high), error + (self.low + other.low), 0.0)
    return Compensated(*_two_sum(high, error, ordered=True))


def _two_sum(a, b, ordered=False):
  """`a + b` and its exact rounding error (Knuth; Dekker if |a| >= |b|)."""
  total = a + b
  b_seen = total - a
  if ordered:
    error = b - b_seen
  else:
    error = (a - (total - b_seen)) + (b - b_seen)
  return total, jnp.where(jnp.isfinite(total), error, 0.0)
