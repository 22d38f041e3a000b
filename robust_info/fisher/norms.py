"""Input-space Fisher information of a classifier's prediction.

`F(x) = sum_k p_k g_k g_k^T`, `g_k = grad_x log p_k` ([paper]: the object), a
D x D matrix for each of the N examples that is never formed. With `J = dz/dx`
[C, D] it equals `J^T (diag p - p p^T) J`, of rank at most C - 1. `method`
chooses between two routes [ours]:

* `"gram"`: C - 1 pullbacks and (C-1) x (C-1) matrices; exact, and
  differentiable with respect to any value that `logits_fn` depends on.
  `4 N C D` bytes.
* `"matrix_free"`: Lanczos and random probes, one JVP and one VJP each, for any
  C; a statistical error, which `fisher_norms` reports. `4 N num_steps D` bytes.
  Not meant to be differentiated.
* `"auto"`: "gram" up to `AUTO_CLASSES` classes, "matrix_free" beyond.

`logits_fn: [N, ...] -> [N, C]` treats rows independently and is deterministic
(evaluation mode). To pass parameters without recompiling, make them arguments
of one compiled function:

    @jax.jit
    def trace(variables, x):
      return fisher_trace(lambda x: model.apply(variables, x), x)

Keyword arguments common to the norms:

* `batch_size`: maximum number of examples at a time, which bounds memory;
  `None` takes all N together.
* `num_steps` (m), `num_probes`, `key`: parameters of the matrix-free route. The
  key is consumed; `None` means `jax.random.key(0)`, the same probes in every
  call.

Shapes: `N` examples, `C` classes, `D` inputs (flattened). Fisher information
is in nats per squared input unit.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PRNGKeyArray

from robust_info import _validate
from robust_info._xla import explicit_meshes, loops
from robust_info.fisher import _gram, _lanczos, _rounding, products

# Above this number of classes "auto" is matrix-free. On a CPU the default 16
# steps and 16 probes cost as much as some 80 pullbacks (see
# docs/results/core_cpu.md); an exact answer is worth the difference for data
# sets of up to a hundred classes.
AUTO_CLASSES = 100
METHODS = ("auto", "gram", "matrix_free")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FisherNorms:
  """Norms of `F(x)` of N examples, and their errors.

  Every error includes the rounding of the network and of the computation,
  `16 eps (1 + max_k |logit_k|)` times the norm, with the eps of the coarsest
  dtype that `logits_fn` computes in (see `_rounding`).

  Attributes:
    trace: [N], `tr F`.
    frobenius: [N], `||F||_F`.
    spectral_norm: [N], `lambda_max(F)`.
    trace_error: [N], standard error of `trace` over the probes, plus rounding;
      only rounding if exact. An estimate: with eight probes one such error
      covered 59 to 65 % of 600 keys, two covered 84 to 88 %.
    frobenius_error: [N], the same for `frobenius`.
    spectral_norm_error: [N], norm of the residual of the top Ritz pair, plus
      rounding: an eigenvalue lies within this distance of `spectral_norm`,
      which never exceeds lambda_max except by rounding; only rounding if exact.
    values: [N, k], the leading eigenvalues; `None` unless requested.
    vectors: [N, k, ...], their unit eigenvectors in the shape of x; `None`
      unless requested.
    residuals: [N, k], norms of `F v - value v`, plus rounding; `None` unless
      requested.
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
  logits_fn: _validate.LogitsFn,
  x: Float[ArrayLike, "N ..."],
  *,
  batch_size: int | None = None,
) -> Float[Array, "N C C"]:
  """Gram matrices `G_kl = sqrt(p_k p_l) g_k . g_l`.

  `G = A A^T`, where the rows of A are `sqrt(p_k) g_k`, while `F = A^T A`: both
  have the same non-zero spectrum.

  Args:
    logits_fn: [N, ...] -> [N, C].
    x: [N, ...], floating point.
    batch_size: see the module docstring.

  Returns:
    [N, C, C], symmetric and positive semi-definite to rounding, with
    `G sqrt(p) = 0`. Adding a constant to all logits does not change it. NaN in
    gives NaN out. Cost: one forward and C - 1 backward passes; `4 N C D` bytes
    in float32.
  """
  logits_fn, x = products.check_inputs(logits_fn, x)
  return _in_batches(lambda x: _gram.full_gram(logits_fn, x), x, batch_size)


@explicit_meshes.accepted(rows=True)
def fisher_norms(
  logits_fn: _validate.LogitsFn,
  x: Float[ArrayLike, "N ..."],
  *,
  num_eigenvectors: int = 0,
  method: str = "auto",
  batch_size: int | None = None,
  num_steps: int = 16,
  num_probes: int = 16,
  key: PRNGKeyArray | None = None,
) -> FisherNorms:
  """Trace, Frobenius and spectral norm of `F(x)` at the cost of one of them.

  Args:
    logits_fn: [N, ...] -> [N, C].
    x: [N, ...], floating point.
    num_eigenvectors: number of leading eigenvectors to return as well (from the
      same Gram or Lanczos matrices); at most D.
    method: "auto", "gram" or "matrix_free"; see the module docstring.
    batch_size: see the module docstring.
    num_steps: number of Lanczos steps.
    num_probes: number of probes for the part outside the Lanczos basis; 1 makes
      the errors NaN.
    key: see the module docstring.

  Returns:
    `FisherNorms`. With "gram" it agrees exactly with the single functions. With
    "matrix_free" the trace and the squared Frobenius norm are unbiased, and
    exact once `num_steps` reaches the rank of F (if its eigenvalues are
    simple). Cost: that of `fisher_gram`, or `num_steps + 1 + num_probes`
    products with F.

  Raises:
    ValueError: the method is unknown, or a count is out of range.
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
  logits_fn: _validate.LogitsFn,
  x: Float[ArrayLike, "N ..."],
  *,
  method: str = "auto",
  batch_size: int | None = None,
  num_steps: int = 16,
  num_probes: int = 16,
  key: PRNGKeyArray | None = None,
) -> Float[Array, " N"]:
  """`tr F(x)`: [N], nats per squared input unit, at least 0.

  With "gram": cost and edge cases are those of `fisher_gram`; differentiable,
  without NaN at vanishing probabilities. With "matrix_free": unbiased
  (Hutchinson's estimator outside the Lanczos subspace); a probe costs one JVP;
  `fisher_norms` reports the standard error. Arguments as for `fisher_norms`.
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
  logits_fn: _validate.LogitsFn,
  x: Float[ArrayLike, "N ..."],
  *,
  method: str = "auto",
  batch_size: int | None = None,
  num_steps: int = 16,
  num_probes: int = 16,
  key: PRNGKeyArray | None = None,
) -> Float[Array, " N"]:
  """Frobenius norm `||F(x)||_F`: [N], nats per squared input unit.

  Its value lies between `fisher_spectral_norm` and `fisher_trace`. With "gram":
  cost and edge cases are those of `fisher_gram`; where F is exactly 0 the
  derivative is taken as 0. With "matrix_free": the square is unbiased;
  `fisher_norms` reports the standard error. Arguments as for `fisher_norms`.
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
  logits_fn: _validate.LogitsFn,
  x: Float[ArrayLike, "N ..."],
  *,
  method: str = "auto",
  batch_size: int | None = None,
  num_steps: int = 16,
  key: PRNGKeyArray | None = None,
) -> Float[Array, " N"]:
  """Largest eigenvalue `lambda_max(F(x))`: [N], nats per squared input unit.

  The largest divergence in an L2 ball of small radius r is about
  `r^2 lambda_max / 2`. With "gram": cost and edge cases are those of
  `fisher_gram`, and 24 products of (C-1) x (C-1) matrices per example;
  differentiable to any order wherever lambda_max is simple. Where it is
  multiple, the first derivative is that along one top eigenvector, and the
  second does not exist: NaN. With "matrix_free": the top Ritz value of
  `num_steps` Lanczos steps, which never exceeds lambda_max except by rounding;
  `fisher_norms` reports its residual. Arguments as for `fisher_norms`.
  """
  logits_fn, x, is_exact = _check(logits_fn, x, method, num_steps)

  def exact(x):
    return _gram.spectral_norm(_gram.reduced_gram(logits_fn, x))

  def matrix_free(x, key):
    return _ritz(logits_fn, x, key, num_steps, 1)[0][:, 0]

  return _by_route(is_exact, exact, matrix_free, x, batch_size, key)


@explicit_meshes.accepted(rows=True)
def fisher_eigenvectors(
  logits_fn: _validate.LogitsFn,
  x: Float[ArrayLike, "N ..."],
  *,
  k: int,
  method: str = "auto",
  batch_size: int | None = None,
  num_steps: int = 16,
  key: PRNGKeyArray | None = None,
) -> tuple[Float[Array, "N k"], Float[Array, "N k ..."]]:
  """The k leading eigenvalues and unit eigenvectors of F(x).

  Args:
    logits_fn: [N, ...] -> [N, C].
    x: [N, ...], floating point.
    k: number of eigenvectors, at most D.
    method: "auto", "gram" or "matrix_free"; see the module docstring.
    batch_size: see the module docstring.
    num_steps: number of Lanczos steps; at least k, better 2 k or more.
    key: see the module docstring.

  Returns:
    `values` [N, k], descending, at least 0, and `vectors` [N, k, ...] of unit
    L2 norm in the shape of x, orthogonal within an example; signs are
    arbitrary. F has rank at most C - 1: beyond the rank, or where an eigenvalue
    is below `10 C eps` times the largest (not resolved in this dtype), value
    and vector are 0. Not meant to be differentiated. "matrix_free" gives Ritz
    pairs (`fisher_norms(..., num_eigenvectors=k)` reports their residuals) and
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
  """Norms and k eigenvectors by the Gram route, exact up to rounding."""
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
) -> tuple[_validate.LogitsFn, jax.Array, bool]:
  """Validates the common arguments and chooses the route: exact or not."""
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
  """Limits the number of Lanczos steps to the number of dimensions."""
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
