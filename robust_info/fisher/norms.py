"""Input-space Fisher information of a classifier's prediction.

`F(x) = sum_k p_k g_k g_k^T`, `g_k = grad_x log p_k` ([paper]: the object), a
D x D matrix for each of the N examples that is never formed. With `J = dz/dx`
[C, D] it equals `J^T (diag p - p p^T) J`, of rank at most C - 1. Two routes
[ours], chosen by `method`:

* `"gram"`: C - 1 pullbacks and (C-1) x (C-1) matrices; exact, and
  differentiable in whatever `logits_fn` depends on. `4 N C D` bytes.
* `"matrix_free"`: Lanczos and random probes, one JVP and one VJP each,
  whatever C; a statistical error, which `fisher_norms` reports.
  `4 N num_steps D` bytes. Not meant to be differentiated.
* `"auto"`: the first up to `AUTO_CLASSES` classes, the second beyond.

`logits_fn: [N, ...] -> [N, C]` treats rows independently and is deterministic
(evaluation mode). To pass parameters without recompiling, make them arguments
of one compiled function:

    @jax.jit
    def trace(variables, x):
      return fisher_trace(lambda x: model.apply(variables, x), x)

Keyword arguments common to the norms:

* `batch_size`: at most so many examples at a time, which bounds memory;
  `None` takes all N together.
* `num_steps` (m), `num_probes`, `key`: of the matrix-free route. The key is
  consumed; `None` means `jax.random.key(0)`, the same probes in every call.

Shapes: `N` examples, `C` classes, `D` inputs (flattened). Fisher information
is in nats per squared input unit.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from robust_info import _validate
from robust_info._xla import explicit_meshes, loops
from robust_info.fisher import _gram, _lanczos, _rounding, products

LogitsFn = Callable[[jax.Array], jax.Array]

# Beyond this many classes "auto" goes matrix-free. On a CPU the default 16
# steps and 16 probes cost as much as some 80 pullbacks (see
# docs/results/core_cpu.md); an exact answer is worth the difference for data
# sets of up to a hundred classes.
AUTO_CLASSES = 100
METHODS = ("auto", "gram", "matrix_free")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FisherNorms:
  """Norms of `F(x)` of N examples, and how far they may be off.

  Every error includes the rounding of the network and of the computation,
  `16 eps (1 + max_k |logit_k|)` times the norm, with the eps of the coarsest
  dtype that `logits_fn` computes in (see `_rounding`).

  Attributes:
    trace: [N], `tr F`.
    frobenius: [N], `||F||_F`.
    spectral_norm: [N], `lambda_max(F)`.
    trace_error: [N], standard error of `trace` over the probes, and rounding;
      rounding alone if exact. An estimate: with eight probes one such error
      covered 59 to 65 % of 600 keys, two covered 84 to 88 %.
    frobenius_error: [N], the same of `frobenius`.
    spectral_norm_error: [N], norm of the residual of the top Ritz pair, and
      rounding: an eigenvalue lies within it of `spectral_norm`, which but for
      rounding is never above lambda_max; rounding alone if exact.
    values: [N, k], the leading eigenvalues; `None` unless asked for.
    vectors: [N, k, ...], their unit eigenvectors in the shape of x; likewise.
    residuals: [N, k], norms of `F v - value v`, and rounding; likewise.
  """

  trace: jax.Array
  frobenius: jax.Array
  spectral_norm: jax.Array
  trace_error: jax.Array
  frobenius_error: jax.Array
  spectral_norm_error: jax.Array
  values: jax.Array | None = None
  vectors: jax.Array | None = None
  residuals: jax.Array | None = None


@explicit_meshes.accepted(rows=True)
def fisher_gram(
  logits_fn: LogitsFn, x: jax.Array, *, batch_size: int | None = None
) -> jax.Array:
  """Gram matrices `G_kl = sqrt(p_k p_l) g_k . g_l`.

  `G = A A^T` with the rows `sqrt(p_k) g_k` of A, while `F = A^T A`: both have
  the same non-zero spectrum.

  Args:
    logits_fn: [N, ...] -> [N, C].
    x: [N, ...], floating point.
    batch_size: see the module docstring.

  Returns:
    [N, C, C], symmetric and positive semi-definite to rounding, with
    `G sqrt(p) = 0`. Unchanged by a constant added to all
    logits. NaN in gives NaN out. Cost: one forward and C - 1 backward passes;
    `4 N C D` bytes in float32.
  """
  logits_fn, x = products.check_inputs(logits_fn, x)
  return _in_batches(lambda x: _gram.full_gram(logits_fn, x), x, batch_size)


@explicit_meshes.accepted(rows=True)
def fisher_norms(
  logits_fn: LogitsFn,
  x: jax.Array,
  *,
  num_eigenvectors: int = 0,
  method: str = "auto",
  batch_size: int | None = None,
  num_steps: int = 16,
  num_probes: int = 16,
  key: jax.Array | None = None,
) -> FisherNorms:
  """Trace, Frobenius and spectral norm of `F(x)` for the price of one.

  Args:
    logits_fn: [N, ...] -> [N, C].
    x: [N, ...], floating point.
    num_eigenvectors: how many leading eigenvectors to return as well (from the
      same Gram or Lanczos matrices); at most D.
    method: "auto", "gram" or "matrix_free"; see the module docstring.
    batch_size: see the module docstring.
    num_steps: of Lanczos.
    num_probes: for what Lanczos did not see; 1 leaves the errors NaN.
    key: see the module docstring.

  Returns:
    `FisherNorms`. By "gram" it agrees with the single functions exactly. By
    "matrix_free" the trace and the squared Frobenius norm are unbiased, and
    exact once `num_steps` reaches the rank of F (if its eigenvalues are
    simple). Cost: that of `fisher_gram`, or `num_steps + 1 + num_probes`
    products with F.

  Raises:
    ValueError: an unknown method, or counts out of range.
  """
  _validate.nonnegative_int("num_eigenvectors", num_eigenvectors)
  logits_fn, x, is_exact = _check(
    logits_fn, x, method, num_steps, num_probes, num_eigenvectors
  )
  k = num_eigenvectors

  epsilon = _rounding.epsilon(logits_fn, x)

  def exact(x):
    return norms_of_gram(_gram.reduced_gram(logits_fn, x), x, k, epsilon)

  def matrix_free(x, key):
    key_start, key_probe = jax.random.split(key)
    fisher = products.operator(logits_fn, x)
    found = _lanczos.lanczos(
      fisher, x.shape[0], key_start, num_steps=_steps(num_steps, x)
    )
    values, vectors, residuals = _lanczos.ritz_vectors(found, max(k, 1))
    trace, frobenius, trace_error, frobenius_error = (
      _lanczos.trace_and_frobenius(
        fisher, found, key_probe, num_probes=num_probes
      )
    )
    rounding = _rounding.relative(fisher.logits, epsilon).astype(trace.dtype)
    residuals = residuals + (rounding * values[:, 0])[:, None]
    norms = FisherNorms(
      trace,
      frobenius,
      values[:, 0],
      trace_error=jnp.hypot(trace_error, rounding * trace),
      frobenius_error=jnp.hypot(frobenius_error, rounding * frobenius),
      spectral_norm_error=residuals[:, 0],
    )
    return _with_vectors(norms, values, vectors, residuals, x) if k else norms

  return _by_route(is_exact, exact, matrix_free, x, batch_size, key)


@explicit_meshes.accepted(rows=True)
def fisher_trace(
  logits_fn: LogitsFn,
  x: jax.Array,
  *,
  method: str = "auto",
  batch_size: int | None = None,
  num_steps: int = 16,
  num_probes: int = 16,
  key: jax.Array | None = None,
) -> jax.Array:
  """`tr F(x)`: [N], nats per squared input unit, at least 0.

  By "gram": cost and edge cases are those of `fisher_gram`; differentiable,
  without NaN at vanishing probabilities. By "matrix_free": unbiased
  (Hutchinson with the Lanczos subspace taken out); a probe costs one JVP; the
  standard error is in `fisher_norms`. Arguments as there.
  """
  logits_fn, x, is_exact = _check(logits_fn, x, method, num_steps, num_probes)

  def exact(x):
    return _gram.trace(_gram.reduced_gram(logits_fn, x))

  def matrix_free(x, key):
    key_start, key_probe = jax.random.split(key)
    fisher = products.operator(logits_fn, x)
    found = _lanczos.lanczos(
      fisher, x.shape[0], key_start, num_steps=_steps(num_steps, x)
    )
    return _lanczos.trace(fisher, found, key_probe, num_probes=num_probes)[0]

  return _by_route(is_exact, exact, matrix_free, x, batch_size, key)


@explicit_meshes.accepted(rows=True)
def fisher_frobenius(
  logits_fn: LogitsFn,
  x: jax.Array,
  *,
  method: str = "auto",
  batch_size: int | None = None,
  num_steps: int = 16,
  num_probes: int = 16,
  key: jax.Array | None = None,
) -> jax.Array:
  """Frobenius norm `||F(x)||_F`: [N], nats per squared input unit.

  Between `fisher_spectral_norm` and `fisher_trace`. By "gram": cost and edge
  cases are those of `fisher_gram`; where F is exactly 0 the derivative is
  taken as 0. By "matrix_free": the square is unbiased; the standard error is in
  `fisher_norms`. Arguments as there.
  """
  logits_fn, x, is_exact = _check(logits_fn, x, method, num_steps, num_probes)
  if not is_exact:
    return fisher_norms(
      logits_fn,
      x,
      method=method,
      batch_size=batch_size,
      num_steps=num_steps,
      num_probes=num_probes,
      key=key,
    ).frobenius

  def exact(x):
    return _gram.frobenius(_gram.reduced_gram(logits_fn, x))

  return _in_batches(exact, x, batch_size)


@explicit_meshes.accepted(rows=True)
def fisher_spectral_norm(
  logits_fn: LogitsFn,
  x: jax.Array,
  *,
  method: str = "auto",
  batch_size: int | None = None,
  num_steps: int = 16,
  key: jax.Array | None = None,
) -> jax.Array:
  """Largest eigenvalue `lambda_max(F(x))`: [N], nats per squared input unit.

  The worst divergence in an L2 ball of small radius r is about
  `r^2 lambda_max / 2`. By "gram": cost and edge cases are those of
  `fisher_gram`, and 24 products of (C-1) x (C-1) matrices an example;
  differentiable to any order wherever lambda_max is simple. Where it is not,
  the first derivative is that along one top eigenvector, and the second does
  not exist: NaN. By "matrix_free": the top Ritz value of
  `num_steps` Lanczos steps, never above lambda_max but for rounding; its
  residual is in `fisher_norms`. Arguments as there.
  """
  logits_fn, x, is_exact = _check(logits_fn, x, method, num_steps)

  def exact(x):
    return _gram.spectral_norm(_gram.reduced_gram(logits_fn, x))

  def matrix_free(x, key):
    return _ritz(logits_fn, x, key, num_steps, 1)[0][:, 0]

  return _by_route(is_exact, exact, matrix_free, x, batch_size, key)


@explicit_meshes.accepted(rows=True)
def fisher_eigenvectors(
  logits_fn: LogitsFn,
  x: jax.Array,
  *,
  k: int,
  method: str = "auto",
  batch_size: int | None = None,
  num_steps: int = 16,
  key: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
  """The k leading eigenvalues and unit eigenvectors of F(x).

  Args:
    logits_fn: [N, ...] -> [N, C].
    x: [N, ...], floating point.
    k: how many, at most D.
    method: "auto", "gram" or "matrix_free"; see the module docstring.
    batch_size: see the module docstring.
    num_steps: of Lanczos; at least k, better 2 k or more.
    key: see the module docstring.

  Returns:
    `values` [N, k], descending, at least 0, and `vectors` [N, k, ...] of unit
    L2 norm in the shape of x, orthogonal within an example; signs are
    arbitrary. F has rank at most C - 1: beyond the rank, or where an eigenvalue
    is below `10 C eps` times the largest (not resolved in this dtype), value
    and vector are 0. Not meant to be differentiated. "matrix_free" gives Ritz
    pairs (`fisher_norms(..., num_eigenvectors=k)` has their residuals) and
    finds one vector of a multiple eigenvalue. Cost: that of `fisher_gram` and
    an eigendecomposition of size C - 1, or `num_steps + 1` products with F.

  Raises:
    ValueError: k < 1, k > D, or fewer steps than k.
  """
  _validate.positive_int("k", k)
  logits_fn, x, is_exact = _check(
    logits_fn, x, method, num_steps, num_eigenvectors=k
  )

  def exact(x):
    reduced = _gram.reduced_gram(logits_fn, x)
    values, vectors = _gram.eigenvectors(reduced, k)
    return values, vectors.reshape((x.shape[0], k, *x.shape[1:]))

  def matrix_free(x, key):
    values, vectors, _ = _ritz(logits_fn, x, key, num_steps, k)
    return values, vectors.reshape((x.shape[0], k, *x.shape[1:]))

  return _by_route(is_exact, exact, matrix_free, x, batch_size, key)


def norms_of_gram(
  reduced: _gram.ReducedGram, x: jax.Array, k: int, epsilon: float
) -> FisherNorms:
  """Norms and k eigenvectors by the Gram route: exact up to rounding."""
  trace = _gram.trace(reduced)
  frobenius = _gram.frobenius(reduced)
  spectral_norm = _gram.spectral_norm(reduced)
  rounding = _rounding.relative(reduced.logits, epsilon).astype(trace.dtype)
  norms = FisherNorms(
    trace,
    frobenius,
    spectral_norm,
    trace_error=rounding * trace,
    frobenius_error=rounding * frobenius,
    spectral_norm_error=rounding * spectral_norm,
  )
  if not k:
    return norms
  values, vectors = _gram.eigenvectors(reduced, k)
  residuals = jnp.where(values > 0, (rounding * values[:, 0])[:, None], 0.0)
  return _with_vectors(norms, values, vectors, residuals, x)


def _check(
  logits_fn, x, method, num_steps, num_probes=1, num_eigenvectors=0
) -> tuple[LogitsFn, jax.Array, bool]:
  """Checks the common arguments and chooses the route: exact or not."""
  logits_fn, x = products.check_inputs(logits_fn, x)
  _validate.one_of("method", method, METHODS)
  _validate.positive_int("num_steps", num_steps)
  _validate.positive_int("num_probes", num_probes)
  products.check_count(num_eigenvectors, x)
  is_exact = method == "gram"
  if method == "auto":
    shape = jax.eval_shape(logits_fn, x).shape
    _validate.logits_shape(shape, x.shape[0])
    is_exact = shape[-1] <= AUTO_CLASSES
  if not is_exact and num_eigenvectors > num_steps:
    raise ValueError(
      f"Expected num_steps >= k={num_eigenvectors} to find as many "
      f"eigenvectors, got num_steps={num_steps}."
    )
  return logits_fn, x, is_exact


def _steps(num_steps: int, x: jax.Array) -> int:
  """No more Lanczos steps than dimensions."""
  return max(1, min(num_steps, math.prod(x.shape[1:])))


def _ritz(logits_fn, x, key, num_steps, k):
  found = _lanczos.lanczos(
    products.operator(logits_fn, x),
    x.shape[0],
    jax.random.split(key)[0],
    num_steps=_steps(num_steps, x),
  )
  return _lanczos.ritz_vectors(found, k)


def _with_vectors(norms, values, vectors, residuals, x):
  shape = (*values.shape, *x.shape[1:])
  return dataclasses.replace(
    norms, values=values, vectors=vectors.reshape(shape), residuals=residuals
  )


def _by_route(
  is_exact: bool,
  exact: Callable[[jax.Array], Any],
  matrix_free: Callable[[jax.Array, jax.Array], Any],
  x: jax.Array,
  batch_size: int | None,
  key: jax.Array | None,
) -> Any:
  if is_exact:
    return _in_batches(exact, x, batch_size)
  key = jax.random.key(0) if key is None else key
  return _in_batches(lambda x: matrix_free(x, key), x, batch_size)


def _in_batches(fn, x, batch_size):
  if batch_size is not None:
    _validate.positive_int("batch_size", batch_size)
  return loops.in_batches(fn, x, batch_size=batch_size)
