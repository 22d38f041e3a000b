"""Fisher information without the improbable classes [ours].

If all classes outside the m most probable of an example are merged into one,
the prediction is coarser, and its Fisher information `F_m` is that of the Gram
route with m pullbacks instead of C - 1. The omitted part is

    F - F_m = sum_{k in S} p_k (g_k - g_S)(g_k - g_S)^T,

where S is the set of merged classes, `g_k = grad log p_k`, and `g_S` is their
mean under the prediction within S. This is the variance within S, which the
coarser label cannot show. It is positive semi-definite, and with its trace
`R <= sum_{k in S} p_k |g_k|^2`

    0 <= tr F - tr F_m  = R,
    0 <= |F|_F - |F_m|_F <= R,
    0 <= lambda_max(F) - lambda_max(F_m) <= R

(Weyl's inequality, the triangle inequality, and `|A|_F <= tr A`).

Shapes: `N` examples, `C` classes, `D` inputs (flattened).
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Float, PRNGKeyArray

from robust_info import _validate
from robust_info._xla import compiled, contractions, explicit_meshes, loops
from robust_info.fisher import _gram, _rounding, _routes, products
from robust_info.information import divergences


@explicit_meshes.accepted(rows=True)
def coarse_fisher_norms(
  logits_fn: Callable[[jax.Array], jax.Array],
  x: Float[ArrayLike, "N ..."],
  *,
  max_classes: int,
  num_eigenvectors: int = 0,
  num_probes: int = 4,
  batch_size: int | None = None,
  key: PRNGKeyArray | None = None,
) -> _routes.FisherNorms:
  """Norms of `F(x)` from the most probable classes, with their deficit.

  For many classes of which few matter for any one example. See `fisher_norms`
  for an exact answer or one with a purely statistical error.

  Args:
    logits_fn: [N, ...] -> [N, C], rows independent.
    x: [N, ...], floating point.
    max_classes: number m of classes per example that are kept apart.
    num_eigenvectors: number of leading eigenvectors of `F_m` to return.
    num_probes: number of Rademacher probes for R; one pullback each.
    batch_size: maximum number of examples at a time; `None` takes all together.
    key: key of the probes, consumed; `None` means `jax.random.key(0)`.

  Returns:
    `FisherNorms` of `F_m`: `trace`, `frobenius` and `spectral_norm` are lower
    bounds of those of F. All three errors are R plus rounding (see
    `FisherNorms`): norm plus error is an upper bound of the norm of F, exactly
    so for the true R. R is estimated without bias from the probes (Hutchinson),
    and is 0 where no class is omitted (m >= C - 1). A half-precision network
    gives float32 norms. Cost: one forward and `m + num_probes` backward passes;
    `4 N m D` bytes.

  Raises:
    ValueError: counts below 1, or `num_eigenvectors` below 0 or above D.
  """
  _validate.positive_int("max_classes", max_classes)
  _validate.positive_int("num_probes", num_probes)
  _validate.nonnegative_int("num_eigenvectors", num_eigenvectors)
  _validate.logits_fn("logits_fn", logits_fn)
  x = _validate.inputs("x", x, "[N, ...]")
  found, logits = _in_batches(
    logits_fn,
    x,
    key,
    batch_size,
    max_classes=max_classes,
    num_eigenvectors=num_eigenvectors,
    num_probes=num_probes,
  )
  _validate.warn_of_probabilities("the output of logits_fn", logits)
  return found


@compiled.once
def _in_batches(logits_fn, x, key, batch_size, **options):
  """The norms of all rows, and the logits of a few."""
  num_classes = _validate.network("logits_fn", logits_fn, x)
  products.check_count(options["num_eigenvectors"], x)
  if batch_size is not None:
    _validate.positive_int("batch_size", batch_size)
  key = jax.random.key(0) if key is None else key

  def measure(x, key):
    if options["max_classes"] >= num_classes - 1:
      return _routes.norms_by_gram(logits_fn, x, options["num_eigenvectors"])
    return _norms_and_logits(logits_fn, x, key, **options)

  found, logits = loops.in_batches(measure, x, key, batch_size=batch_size)
  return found, logits[: _validate.SAMPLE]


def _norms_and_logits(
  logits_fn, x, key, *, max_classes, num_eigenvectors, num_probes
):
  # Classes are chosen and merged outside the network, whose batch may be
  # split into parts.
  logits, pullback = _gram.logits_and_pullback(logits_fn, x)
  _, kept = jax.lax.top_k(jax.lax.stop_gradient(logits), max_classes)
  classes = jnp.arange(logits.shape[-1], dtype=kept.dtype)
  is_kept = jnp.any(kept[:, :, None] == classes[None, None], axis=1)

  def coarse(logits):
    logits = _validate.float_array("logits", logits)
    rest = jnp.where(is_kept, -jnp.inf, logits)
    # The gradient of `logsumexp` is NaN where all of the rest is impossible.
    some = jnp.any(rest != -jnp.inf, axis=-1, keepdims=True)
    merged = jax.nn.logsumexp(
      jnp.where(some, rest, 0.0), axis=-1, keepdims=True
    )
    merged = jnp.where(some, merged, -jnp.inf)
    apart = jnp.take_along_axis(logits, kept, axis=-1)
    return jnp.concatenate([apart, merged], axis=-1)

  coarse_logits, split = jax.vjp(coarse, logits)
  reduced = _gram.from_pullback(
    coarse_logits, lambda cotangent: pullback(*split(cotangent))
  )
  epsilon = _rounding.epsilon(logits_fn, x)
  norms = _routes.norms_of_gram(reduced, x, num_eigenvectors, epsilon)
  left_out = _variance_within(
    logits, pullback, is_kept, key, num_probes, x.size
  )
  norms = dataclasses.replace(
    norms,
    trace_error=norms.trace_error + left_out,
    frobenius_error=norms.frobenius_error + left_out,
    spectral_norm_error=norms.spectral_norm_error + left_out,
  )
  return norms, logits


def _variance_within(logits, pullback, is_kept, key, num_probes, num_values):
  """R [N] = E |sum_{k in S} e_k sqrt(p_k) (g_k - g_S)|^2 over random signs."""
  exact = _validate.float_array("logits", logits)
  root = jnp.exp(0.5 * divergences.log_softmax(exact))
  root = jnp.where(is_kept, 0.0, root)
  # The prediction given a class of S; 0 where all of S is impossible.
  merged = ~is_kept & (exact != -jnp.inf)
  some = jnp.any(merged, axis=-1, keepdims=True)
  within = jax.nn.softmax(
    jnp.where(some, jnp.where(merged, exact, -jnp.inf), 0.0), axis=-1
  )
  within = jnp.where(merged, within, 0.0)

  def probe(key):
    signed = root * jax.random.rademacher(key, exact.shape, exact.dtype)
    cotangent = signed - within * jnp.sum(signed, axis=-1, keepdims=True)
    (row,) = pullback(cotangent.astype(logits.dtype))
    row = contractions.flat(_validate.float_array("x", row))
    return contractions.dot(row, row).astype(exact.dtype)

  keys = jax.random.split(key, num_probes)
  samples = loops.independent(probe, keys, length=num_probes, values=num_values)
  return jnp.mean(samples, axis=0)
