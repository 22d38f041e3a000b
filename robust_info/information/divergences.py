"""Entropy and divergences of categorical predictions, from logits.

Shapes: `...` any leading axes, `C` classes. All values are in nats and computed
from logits in log space: probabilities are never clipped, no epsilon is added
inside a logarithm, and `0 log 0 = 0` in value and in gradient. Half-precision
and integer logits are computed in float32.
"""

import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from robust_info import _validate
from robust_info._xla import compiled, explicit_meshes


def log_softmax(logits: ArrayLike) -> jax.Array:
  """Log-probabilities, exact also for nearly certain predictions.

  `jax.nn.log_softmax` rounds the largest `log p` to zero once the other classes
  hold less than about 1e-7; here it keeps full relative accuracy
  (`-log1p(sum of the others)`).

  Args:
    logits: [..., C], any real values; `-inf` marks an impossible class.

  Returns:
    [..., C], at most 0. NaN or `+inf` in a row, or a row of `-inf` only, gives
    NaN in that row.
  """
  return _log_softmax(_check_logits("logits", logits))


@explicit_meshes.accepted(rows=True)
def entropy(logits: Float[ArrayLike, "*batch C"]) -> Float[Array, " *batch"]:
  """Shannon entropy `H(p) = -sum_k p_k log p_k` of `p = softmax(logits)`.

  Args:
    logits: [..., C]; `-inf` marks an impossible class.

  Returns:
    [...], nats, in [0, log C]. Accurate to float precision in *relative* terms,
    for confident predictions too (a logit gap of 50 gives about 1e-20, not 0).
    NaN in gives NaN out.
  """
  return _entropy(_check_logits("logits", logits))


@compiled.once
def _entropy(logits):
  log_p = _log_softmax(logits)
  p = jnp.exp(log_p)
  possible = log_p > -jnp.inf
  terms = jnp.where(p == 0, 0.0, p * jnp.where(possible, log_p, 0.0))
  return jnp.sum(-jnp.where(jnp.isnan(log_p), log_p, terms), axis=-1)


@explicit_meshes.accepted(rows=True)
def kl_divergence(
  logits_p: Float[ArrayLike, "*batch C"], logits_q: Float[ArrayLike, "*batch C"]
) -> Float[Array, " *batch"]:
  """Kullback-Leibler divergence `KL(p||q)` between two softmax predictions.

  Computed as `sum_k p_k phi(u_k)` with `u = log q - log p` and
  `phi(u) = exp(u) - 1 - u >= 0`, so that nothing cancels. The usual
  `sum p (log p - log q)` is rounding noise below about 1e-7 in float32; this
  form is accurate to a few percent down to 1e-12, and it has no upper cap.

  Args:
    logits_p: [..., C].
    logits_q: [..., C], the same shape.

  Returns:
    [...], nats. Guarantees: never negative; exactly 0 for equal logits;
    unchanged by adding a constant to either argument; `inf` iff some class has
    `p_k > 0` and `q_k = 0` (a `-inf` logit, or a gap beyond the float range);
    NaN in gives NaN out. Derivatives of every order are those of KL. The
    gradient `(p (log p - log q - KL), q - p)` is accurate to relative precision
    near `p = q`, where it vanishes.

  Raises:
    ValueError: the shapes differ.
  """
  logits_p = _check_logits("logits_p", logits_p)
  logits_q = _check_logits("logits_q", logits_q)
  _validate.same_shape("logits_q", logits_q, "logits_p", logits_p)
  return _kl_of_any(logits_p, logits_q)


@compiled.once
def _kl_of_any(logits_p, logits_q):
  dtype = jnp.promote_types(logits_p.dtype, logits_q.dtype)
  return _kl(logits_p.astype(dtype), logits_q.astype(dtype))


@explicit_meshes.accepted(rows=True)
def fisher_rao_distance(
  logits_p: Float[ArrayLike, "*batch C"], logits_q: Float[ArrayLike, "*batch C"]
) -> Float[Array, " *batch"]:
  """Geodesic distance `2 arccos sum_k sqrt(p_k q_k)` on the simplex.

  This is the distance under the Fisher metric of categorical distributions.
  Half its square is a lower bound of the symmetrised Fisher part of any path
  from `p` to `q` (see `disentangle_path`).

  Args:
    logits_p: [..., C].
    logits_q: [..., C], the same shape.

  Returns:
    [...], in [0, pi]. Computed as `4 arcsin(|sqrt p - sqrt q| / 2)`, with an
    absolute error of a few eps: in float32 a distance of 2e-6 may be off by
    5 %, a distance of 2e-4 by 4e-4 of its value. Second derivatives near equal
    predictions (distances below about 1e-2 in float32) are not reliable.
  """
  logits_p = _check_logits("logits_p", logits_p)
  logits_q = _check_logits("logits_q", logits_q)
  _validate.same_shape("logits_q", logits_q, "logits_p", logits_p)
  return _fisher_rao_distance(logits_p, logits_q)


@compiled.once
def _fisher_rao_distance(logits_p, logits_q):
  root_p = jnp.exp(0.5 * log_softmax(logits_p))
  root_q = jnp.exp(0.5 * log_softmax(logits_q))
  squared = jnp.sum((root_p - root_q) ** 2, axis=-1)
  is_zero = squared == 0
  chord = jnp.sqrt(jnp.where(is_zero, 1.0, squared))
  # arcsin has an infinite slope at its end. At sqrt(2) / 2, p and q have no
  # class in common: rounding must not pass that point.
  half = jnp.minimum(chord / 2, jnp.sqrt(jnp.asarray(0.5, chord.dtype)))
  return jnp.where(is_zero, 0.0, 4.0 * jnp.arcsin(half))


def kl_from_log_ratio(p: jax.Array, q: jax.Array, u: jax.Array) -> jax.Array:
  """`KL(p||q)` of probabilities [..., C], given `u = log q - log p` as well.

  `sum_k p_k phi(u_k)`, non-negative term by term; where p is 0 the term is q,
  for any u. For callers that know u to relative precision.
  """
  u = jnp.where(p == 0, 0.0, u)
  is_near = jnp.abs(u) <= 1
  near = p * _phi_series(jnp.where(is_near, u, 0.0))
  far = q - p - p * u
  terms = jnp.where(p == 0, q, jnp.where(is_near, near, far))
  return jnp.sum(terms, axis=-1)


def _check_logits(name: str, logits: ArrayLike) -> jax.Array:
  logits = _validate.float_array(name, logits)
  _validate.min_rank(name, logits, 1, "[..., C]")
  _validate.classes(name, logits.shape)
  return logits


def _winner(logits):
  """Index of the largest logit [..., 1] and the mask of that class."""
  top = jnp.argmax(logits, axis=-1, keepdims=True)
  classes = jnp.arange(logits.shape[-1])
  return top, classes.reshape((1,) * (logits.ndim - 1) + (-1,)) == top


@jax.custom_jvp
@jax.jit
def _log_softmax(logits):
  # The winner is found by its index: a compiler may compute `logits` twice and
  # round differently, so that no logit need equal the maximum.
  shifted = logits - jnp.max(logits, axis=-1, keepdims=True)
  others = jnp.sum(
    jnp.where(_winner(logits)[1], 0.0, jnp.exp(shifted)),
    axis=-1,
    keepdims=True,
  )
  return shifted - jnp.log1p(others)


@_log_softmax.defjvp
def _log_softmax_jvp(primals, tangents):
  (logits,), (tangent,) = primals, tangents
  log_p = _log_softmax(logits)
  # Tangents relative to the winner's, so that the winner's own term is zero:
  # small probabilities then keep their digits in the gradient.
  top, is_top = _winner(logits)
  relative = tangent - jnp.take_along_axis(tangent, top, axis=-1)
  relative = jnp.where(is_top, 0.0, relative)
  mean = jnp.sum(jnp.exp(log_p) * relative, axis=-1, keepdims=True)
  return log_p, relative - mean


def _prediction_and_log_ratio(logits_p, logits_q):
  """`p` and `u = log q - log p`, both [..., C]; `u` is 0 where `p` is 0.

  Differences are taken logit by logit before any normalisation, relative to
  the class that p favours: for neighbouring predictions `u` then has a small
  *relative* error, which the difference of two log-softmaxes does not have.
  """
  top = jnp.argmax(logits_p, axis=-1, keepdims=True)
  top_p = jnp.take_along_axis(logits_p, top, axis=-1)
  top_q = jnp.take_along_axis(logits_q, top, axis=-1)
  # If q rules that class out, any finite reference will do: KL is infinite.
  top_q = jnp.where(
    top_q == -jnp.inf, jnp.max(logits_q, axis=-1, keepdims=True), top_q
  )
  z_p, z_q = logits_p - top_p, logits_q - top_q
  p = jnp.exp(log_softmax(z_p))
  difference = (logits_q - logits_p) - (top_q - top_p)
  difference = jnp.where(logits_q == -jnp.inf, -jnp.inf, difference)
  # The change of the log-normaliser, log sum_k p_k exp(difference_k).
  counted = jnp.where(p == 0, 0.0, difference)
  limit = 30.0
  is_small = jnp.max(difference, axis=-1, keepdims=True) <= limit
  excess = jnp.sum(
    p * jnp.expm1(jnp.where(is_small, counted, 0.0)), axis=-1, keepdims=True
  )
  is_small &= excess > -0.5
  near = jnp.log1p(jnp.where(is_small, excess, 0.0))
  far = jax.nn.logsumexp(z_q, axis=-1, keepdims=True) - jax.nn.logsumexp(
    z_p, axis=-1, keepdims=True
  )
  normaliser = jnp.where(is_small, near, far)
  return p, jnp.where(p == 0, 0.0, counted - normaliser)


def _phi_series(u):
  """`exp(u) - 1 - u` for `|u| <= 1`, without cancellation."""
  num_terms = 11 if u.dtype == jnp.float32 else 18
  # Multiply by coefficients: a division costs as much as the other terms.
  result = jnp.full_like(u, 1 / math.factorial(num_terms))
  for n in range(num_terms - 1, 1, -1):
    result = 1 / math.factorial(n) + result * u
  return u * u * result


@jax.custom_jvp
@jax.jit
def _kl(logits_p, logits_q):
  p, u = _prediction_and_log_ratio(logits_p, logits_q)
  divergence = kl_from_log_ratio(p, jnp.exp(log_softmax(logits_q)), u)
  # Explicit: compiled by jaxlib 0.10.2, NaN here became 0.
  is_nan = jnp.any(jnp.isnan(logits_p) | jnp.isnan(logits_q), axis=-1)
  return jnp.where(is_nan, jnp.nan, divergence)


@_kl.defjvp
def _kl_jvp(primals, tangents):
  logits_p, logits_q = primals
  tangent_p, tangent_q = tangents
  kl = _kl(logits_p, logits_q)
  p, u = _prediction_and_log_ratio(logits_p, logits_q)
  q = jnp.exp(log_softmax(logits_q))
  is_near = jnp.abs(u) <= 1
  change = jnp.where(
    (p == 0) | ~is_near, q - p, p * jnp.expm1(jnp.where(is_near, u, 0.0))
  )
  surplus = jnp.where(p == 0, 0.0, p * (-u - kl[..., None]))
  tangent = jnp.sum(surplus * tangent_p + change * tangent_q, axis=-1)
  return kl, tangent
