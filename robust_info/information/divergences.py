"""Entropy and divergences of categorical predictions, from logits.

Shapes: `...` any leading axes, `C` classes. All values are in nats and computed
from logits in log space: probabilities are never clipped, no epsilon is added
inside a logarithm, and `0 log 0 = 0` in value and in gradient. Half-precision
and integer logits are computed in float32.
"""

import math
from typing import Any

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
  return _kl_of_pair(*_pair(logits_p, logits_q))


@compiled.once
def _kl_of_pair(logits_p, logits_q):
  return _kl(logits_p, logits_q)


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
    [...], in [0, pi] up to rounding, the root of `squared_fisher_rao_distance`,
    with its guarantees. Distances below about 1e-19 in float32 are 0. Where it
    is 0 the distance has a cusp, and its gradient is taken as 0.
  """
  return _distance(*_pair(logits_p, logits_q))


@compiled.once
def _distance(logits_p, logits_q):
  squared = _squared_distance(logits_p, logits_q)
  is_zero = squared == 0
  return jnp.where(is_zero, 0.0, jnp.sqrt(jnp.where(is_zero, 1.0, squared)))


@explicit_meshes.accepted(rows=True)
def squared_fisher_rao_distance(
  logits_p: Float[ArrayLike, "*batch C"], logits_q: Float[ArrayLike, "*batch C"]
) -> Float[Array, " *batch"]:
  """The square of `fisher_rao_distance`, smooth also where p = q.

  Near equal predictions it is twice `kl_divergence`. The closed form, 4
  arccos^2 of a number near 1, loses all digits there, and its gradient is 0
  times infinity. This is `16 arcsin^2(|sqrt p - sqrt q| / 2)`, near 0 by its
  power series, from differences of roots in which nothing cancels.

  Args:
    logits_p: [..., C].
    logits_q: [..., C], the same shape.

  Returns:
    [...], in [0, pi^2] up to rounding, accurate to float precision in
    *relative* terms as far as differences of the logits are. Guarantees: never
    negative; exactly 0 for equal logits; symmetric up to rounding; unchanged by
    adding a constant to either argument; NaN in gives NaN out. Derivatives are
    those of the squared distance; the gradient keeps its relative accuracy near
    `p = q`, where it vanishes.

  Raises:
    ValueError: the shapes differ.
  """
  return _squared_distance(*_pair(logits_p, logits_q))


@compiled.once
def _squared_distance(logits_p, logits_q):
  chord = _squared_chord(logits_p, logits_q)
  # arcsin^2(t) = sum_n (2 t)^(2 n) / (n^2 binom(2 n, n)) / 2; with (2 t)^2 at
  # most 1/4 every term is less than a sixteenth of the one before.
  is_near = chord <= 0.25
  near = jnp.where(is_near, chord, 0.0)
  series = jnp.zeros_like(chord)
  for n in range(7 if chord.dtype == jnp.float32 else 14, 0, -1):
    series = (series + 8 / (n**2 * math.comb(2 * n, n))) * near
  far = 16 * jnp.arcsin(jnp.sqrt(jnp.where(is_near, 1.0, chord)) / 2) ** 2
  return jnp.where(is_near, series, far)


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


def _pair(logits_p: Any, logits_q: Any) -> tuple[jax.Array, jax.Array]:
  """Two arrays of logits [..., C] of one shape and dtype."""
  logits_p = _check_logits("logits_p", logits_p)
  logits_q = _check_logits("logits_q", logits_q)
  _validate.same_shape("logits_q", logits_q, "logits_p", logits_p)
  dtype = jnp.promote_types(logits_p.dtype, logits_q.dtype)
  return logits_p.astype(dtype), logits_q.astype(dtype)


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
  relative = _relative_to_winner(logits, tangent)
  mean = jnp.sum(jnp.exp(log_p) * relative, axis=-1, keepdims=True)
  return log_p, relative - mean


def _relative_to_winner(logits, tangent):
  """Tangents [..., C] minus the winner's, so that its own term is zero.

  Small probabilities then keep their digits in the gradient.
  """
  top, is_top = _winner(logits)
  relative = tangent - jnp.take_along_axis(tangent, top, axis=-1)
  return jnp.where(is_top, 0.0, relative)


def _prediction_and_log_ratio(logits_p, logits_q):
  """`p` and `u = log q - log p`, both [..., C]; `u` is 0 where `p` is 0.

  Differences are taken logit by logit before any normalisation, relative to
  the class that p favours: for neighbouring predictions `u` then has a small
  *relative* error, which the difference of two log-softmaxes does not have.
  Where the two have offsets of different size, these are removed first.
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
  difference = _difference(logits_p, logits_q, z_p, z_q, top_q - top_p)
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


def _difference(logits_p, logits_q, z_p, z_q, offset):
  """`z_q - z_p`, in the order that rounds less, class by class.

  Args:
    logits_p: [..., C].
    logits_q: [..., C].
    z_p: `logits_p` relative to one of its logits.
    z_q: `logits_q` relative to that of the same class.
    offset: [..., 1], the difference of these two logits.
  """
  # Impossible for both would be a difference of infinities.
  excluded = logits_q == -jnp.inf
  (p, q), (rest_p, rest_q) = (
    [jnp.where(excluded, 0.0, side) for side in sides]
    for sides in ((logits_p, logits_q), (z_p, z_q))
  )
  apart, rest = q - p, rest_q - rest_p
  # The sizes of what each order rounds.
  is_plain = jnp.abs(apart) + jnp.abs(offset) <= jnp.abs(rest_p) + jnp.abs(
    rest_q
  )
  found = jnp.where(is_plain, apart - offset, rest)
  return jnp.where(excluded, -jnp.inf, found)


def _root_difference(logits_p, logits_q):
  """`sqrt p`, `sqrt q` and `sqrt q - sqrt p`, which has a small relative error.

  Three arrays [..., C].
  """
  p, u = _prediction_and_log_ratio(logits_p, logits_q)
  root_p = jnp.exp(0.5 * log_softmax(logits_p))
  root_q = jnp.exp(0.5 * log_softmax(logits_q))
  is_near = (p > 0) & (jnp.abs(u) <= 1)
  near = root_p * jnp.expm1(0.5 * jnp.where(is_near, u, 0.0))
  return root_p, root_q, jnp.where(is_near, near, root_q - root_p)


@jax.custom_jvp
@jax.jit
def _squared_chord(logits_p, logits_q):
  """`|sqrt p - sqrt q|^2 = 2 - 2 sum_k sqrt(p_k q_k)`, [..., C] to [...]."""
  difference = _root_difference(logits_p, logits_q)[-1]
  is_nan = jnp.any(jnp.isnan(logits_p) | jnp.isnan(logits_q), axis=-1)
  return jnp.where(is_nan, jnp.nan, jnp.sum(difference**2, axis=-1))


@_squared_chord.defjvp
def _squared_chord_jvp(primals, tangents):
  tangent_p, tangent_q = map(_relative_to_winner, primals, tangents)
  chord = _squared_chord(*primals)
  root_p, root_q, difference = _root_difference(*primals)
  # sqrt q changes by half of sqrt q (tangent - mean of the tangents under q).
  # The overlap sum_k sqrt(p_k q_k) is 1 - chord / 2; each of the two keeps its
  # digits at its own end.
  overlap = jnp.sum(root_p * root_q, axis=-1, keepdims=True)
  half = 0.5 * chord[..., None]
  is_near = half < 0.5
  change_p = root_p * jnp.where(
    is_near, -difference - half * root_p, overlap * root_p - root_q
  )
  change_q = root_q * jnp.where(
    is_near, difference - half * root_q, overlap * root_q - root_p
  )
  return chord, jnp.sum(change_p * tangent_p + change_q * tangent_q, axis=-1)


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
  kl = _kl(logits_p, logits_q)
  p, u = _prediction_and_log_ratio(logits_p, logits_q)
  q = jnp.exp(log_softmax(logits_q))
  is_near = jnp.abs(u) <= 1
  change = jnp.where(
    (p == 0) | ~is_near, q - p, p * jnp.expm1(jnp.where(is_near, u, 0.0))
  )
  surplus = jnp.where(p == 0, 0.0, p * (-u - kl[..., None]))
  tangent_p, tangent_q = map(_relative_to_winner, primals, tangents)
  tangent = jnp.sum(surplus * tangent_p + change * tangent_q, axis=-1)
  return kl, tangent
