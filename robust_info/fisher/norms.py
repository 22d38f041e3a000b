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
(evaluation mode). Pass parameters in a `jax.tree_util.Partial`: the first call
compiles, and later ones with other parameters or inputs of the same shapes run
the same program. A plain function may hold values that change, so it is traced
at every call, operation by operation outside `jax.jit`:

    logits_fn = jax.tree_util.Partial(model.apply, variables)
    trace = fisher_trace(logits_fn, x)

Keyword arguments common to the norms:

* `batch_size`: maximum number of examples at a time, which bounds memory;
  `None` takes all N together. Of the matrix-free route, each batch draws probes
  of its own.
* `num_steps` (m), `num_probes`, `key`: parameters of the matrix-free route. The
  key is consumed; `None` means `jax.random.key(0)`, the same probes in every
  call.

Shapes: `N` examples, `C` classes, `D` inputs (flattened). Fisher information
is in nats per squared input unit.
"""

from jax.typing import ArrayLike
from jaxtyping import Array, Float, PRNGKeyArray

from robust_info import _validate
from robust_info._xla import explicit_meshes
from robust_info.fisher import _routes


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
  return _routes.measured(
    _routes.full_gram,
    None,
    logits_fn,
    x,
    _routes.Options("gram", batch_size, num_steps=1),
  )


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
) -> _routes.FisherNorms:
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
  return _routes.measured(
    _routes.norms_by_gram,
    _routes.norms_by_lanczos,
    logits_fn,
    x,
    _routes.Options(
      method, batch_size, num_steps, num_probes, num_eigenvectors
    ),
    key,
  )


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
  return _routes.measured(
    _routes.trace_by_gram,
    _routes.trace_by_lanczos,
    logits_fn,
    x,
    _routes.Options(method, batch_size, num_steps, num_probes),
    key,
  )


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
  return _routes.measured(
    _routes.frobenius_by_gram,
    _routes.frobenius_by_lanczos,
    logits_fn,
    x,
    _routes.Options(method, batch_size, num_steps, num_probes),
    key,
  )


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
  return _routes.measured(
    _routes.spectral_norm_by_gram,
    _routes.spectral_norm_by_lanczos,
    logits_fn,
    x,
    _routes.Options(method, batch_size, num_steps),
    key,
  )


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
  return _routes.measured(
    _routes.eigenvectors_by_gram,
    _routes.eigenvectors_by_lanczos,
    logits_fn,
    x,
    _routes.Options(method, batch_size, num_steps, k=k),
    key,
  )
