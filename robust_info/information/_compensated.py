"""Compensated sums: twice the digits of a dtype, inside `jax.jit`.

XLA keeps the order of floating-point additions on every backend, so the
classical error-free transformations work as written. If the compiler fuses a
product and a sum into one multiply-add, they only become more exact.
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
    # An infinite sum has no rounding error (inf - inf would be NaN).
    error = jnp.where(jnp.isfinite(high), error + (self.low + other.low), 0.0)
    return Compensated(*_two_sum(high, error, ordered=True))

  def minus(self, other: "Compensated") -> "Compensated":
    return self.plus(Compensated(-other.high, -other.low))

  def over(self, divisor: jax.Array) -> "Compensated":
    """The quotient by a non-zero number of the dtype, to twice the digits."""
    high = self.high / divisor
    product, error = _two_product(high, divisor)
    rest = ((self.high - product) - error) + self.low
    rest = jnp.where(jnp.isfinite(high), rest / divisor, 0.0)
    return Compensated(*_two_sum(high, rest, ordered=True))


def product(a: jax.Array, b: jax.Array) -> Compensated:
  """`a * b` without error (where the error does not underflow)."""
  return Compensated(*_two_product(a, b))


def _two_sum(a, b, ordered=False):
  """`a + b` and its exact rounding error (Knuth; Dekker if |a| >= |b|)."""
  total = a + b
  b_seen = total - a
  if ordered:
    error = b - b_seen
  else:
    error = (a - (total - b_seen)) + (b - b_seen)
  return total, jnp.where(jnp.isfinite(total), error, 0.0)


def _two_product(a, b):
  """`a * b` and its exact rounding error (Dekker, Veltkamp)."""
  result = a * b
  (a_top, a_rest), (b_top, b_rest) = _halves(a), _halves(b)
  error = a_top * b_top - result
  error = ((error + a_top * b_rest) + a_rest * b_top) + a_rest * b_rest
  is_exact = jnp.isfinite(result) & jnp.isfinite(error)
  return result, jnp.where(is_exact, error, 0.0)


def _halves(a):
  """`a` as the sum of two numbers of half its digits."""
  digits = jnp.finfo(a.dtype).nmant + 1
  scaled = (2.0 ** ((digits + 1) // 2) + 1.0) * a
  top = scaled - (scaled - a)
  return top, a - top
