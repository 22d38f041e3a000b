"""Divergences between compensated means, accurate also when they are close."""

import jax
import jax.numpy as jnp

from robust_info.information import divergences
from robust_info.information._compensated import Compensated

# Up to this many classes the [C, C, C] table of `kl_of_all_pairs` is one array.
_DENSE_CLASSES = 64


def kl_of_means(p: Compensated, q: Compensated) -> jax.Array:
  """`KL(p||q)` of probabilities [..., C] given with twice the digits.

  For a q that is a mixture of p and others: where q is 0, p is (nearly) 0 too.
  """
  possible = (p.value > 0) & (q.value > 0)
  ones = Compensated(jnp.ones_like(p.high), jnp.zeros_like(p.low))
  u = _log_ratio(
    jax.tree.map(lambda a, b: jnp.where(possible, a, b), p, ones),
    jax.tree.map(lambda a, b: jnp.where(possible, a, b), q, ones),
  )
  return divergences.kl_from_log_ratio(
    jnp.where(possible, p.value, 0.0), q.value, u
  )


@jax.custom_jvp
def _log_ratio(p: Compensated, q: Compensated) -> jax.Array:
  """`log q - log p` of positive numbers, to relative precision near 0."""
  ratio = q.minus(p).value / p.value
  is_near = jnp.abs(ratio) < 0.5
  return jnp.where(
    is_near,
    jnp.log1p(jnp.where(is_near, ratio, 0.0)),
    jnp.log(q.value) - jnp.log(p.value),
  )


@_log_ratio.defjvp
def _log_ratio_jvp(primals, tangents):
  # By hand: the derivative of a quotient squares its divisor, which underflows.
  (p, q), (tangent_p, tangent_q) = primals, tangents
  return _log_ratio(p, q), (
    tangent_q.value / q.value - tangent_p.value / p.value
  )


def kl_of_geometric_means(p: Compensated, q: Compensated) -> jax.Array:
  """`KL(p||q)` of normalised geometric means, from their mean log p."""
  log_p = divergences.log_softmax(p.value)
  log_q = divergences.log_softmax(q.value)
  prob_p, prob_q = jnp.exp(log_p), jnp.exp(log_q)
  # Take differences before normalising, as for two rows of logits.
  impossible = p.high == -jnp.inf
  change = q.minus(Compensated(jnp.where(impossible, 0.0, p.high), p.low)).value
  change = jnp.where(impossible, 0.0, change)
  # What q gives to classes that p excludes is part of its normaliser.
  beside = jnp.sum(jnp.where(impossible, prob_q, 0.0), axis=-1, keepdims=True)
  is_near = jnp.all(jnp.abs(change) < 0.5, axis=-1, keepdims=True)
  is_near &= beside < 0.5
  change = jnp.where(is_near, change, 0.0)
  normaliser = jnp.log1p(
    jnp.sum(prob_p * jnp.expm1(change), axis=-1, keepdims=True)
  ) - jnp.log1p(-jnp.where(is_near, beside, 0.0))
  far = jnp.where(impossible, 0.0, log_q) - jnp.where(impossible, 0.0, log_p)
  u = jnp.where(is_near, change - normaliser, far)
  return divergences.kl_from_log_ratio(prob_p, prob_q, u)


def kl_of_all_pairs(
  log_p: jax.Array, log_q: jax.Array, present: jax.Array
) -> jax.Array:
  """`KL(p_a || q_b)` of all pairs of rows [C, C].

  Args:
    log_p: [C, C], logits.
    log_q: [C, C], logits.
    present: [C], whether a row of `log_p` is needed. Of many rows, the others
      are 0 and cost nothing.
  """

  def row(log_p_a):
    return divergences.kl_divergence(
      jnp.broadcast_to(log_p_a, log_q.shape), log_q
    )

  if log_p.shape[0] <= _DENSE_CLASSES:
    return jax.vmap(row)(log_p)

  def row_if_present(group):
    log_p_a, is_present = group
    nothing = jnp.zeros_like(log_q[:, 0])
    return jax.lax.cond(is_present, row, lambda _: nothing, log_p_a)

  return jax.lax.map(row_if_present, (log_p, present))
