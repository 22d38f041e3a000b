"""Input-space Fisher information of a classifier's prediction.

`F(x) = sum_k p_k g_k g_k^T`, `g_k = grad_x log p_k` ([paper]: the object), a
D x D matrix for each of the N examples that is never formed. With `J = dz/dx`
[C, D] it equals `J^T (diag p - p p^T) J`, of rank at most C - 1; everything
here is read off C - 1 pullbacks and small Gram matrices [ours].

`logits_fn: [N, ...] -> [N, C]` treats rows independently and is deterministic
(evaluation mode). To pass parameters without recompiling, make them arguments
of one compiled function:

    @jax.jit
    def trace(variables, x):
      return fisher_trace(lambda x: model.apply(variables, x), x)

Factorisation: relative to the most probable class c, `J~_k = J_k - J_c` for
the C - 1 others with probabilities `p~`, `s = sqrt(p~)`,

    F = J~^T (diag p~ - p~ p~^T) J~
      = (M diag(s) J~)^T (M diag(s) J~),   M = I - s s^T / (1 + sqrt(p_c)),

because `M^2 = I - s s^T`. For a confident prediction every number in it is
small by itself, nothing cancels, and float32 keeps its relative accuracy
however close `p_c` is to 1.

Shapes: `N` examples, `C` classes, `D` inputs (flattened). Fisher information
is in nats per squared input unit.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from robust_info import _loops, _validate, divergences

LogitsFn = Callable[[jax.Array], jax.Array]


def fisher_gram(logits_fn: LogitsFn, x: jax.Array) -> jax.Array:
  """Gram matrices `G_kl = sqrt(p_k p_l) g_k . g_l`.

  `G = A A^T` with the rows `sqrt(p_k) g_k` of A, while `F = A^T A`: both have
  the same non-zero spectrum.

  Args:
    logits_fn: [N, ...] -> [N, C].
    x: [N, ...], floating point.

  Returns:
    [N, C, C], symmetric and positive semi-definite to rounding, with
    `G sqrt(p) = 0`; zeros for C = 1. Unchanged by a constant added to all
    logits. NaN in gives NaN out. Cost: one forward and C - 1 backward passes;
    `4 N C D` bytes in float32.
  """
  products, reference, log_p = _difference_products(logits_fn, x)
  num_classes = log_p.shape[-1]
  # Back to all classes: row and column c of the differences are zero, and
  # g_k = J~_k - sum_l p_l J~_l.
  classes = jnp.arange(num_classes)
  position = (classes[None, :] - reference[:, None] - 1) % num_classes
  padded = jnp.pad(products, ((0, 0), (0, 1), (0, 1)))
  padded = jnp.take_along_axis(padded, position[:, :, None], axis=1)
  padded = jnp.take_along_axis(padded, position[:, None, :], axis=2)
  p = jnp.exp(log_p)
  row = jnp.einsum("nl,nlk->nk", p, padded, precision="highest")
  square = jnp.einsum("nk,nk->n", row, p, precision="highest")
  gram = padded - row[:, :, None] - row[:, None, :] + square[:, None, None]
  root = jnp.exp(0.5 * log_p)
  return root[:, :, None] * gram * root[:, None, :]


def fisher_trace(logits_fn: LogitsFn, x: jax.Array) -> jax.Array:
  """`tr F(x)`: [N], nats per squared input unit, at least 0.

  Arguments, cost and edge cases are those of `fisher_gram`. Differentiable in
  whatever `logits_fn` depends on, without NaN at vanishing probabilities.
  """
  gram, _, _ = _reduced_gram(logits_fn, x)
  return jnp.trace(gram, axis1=-2, axis2=-1)


def fisher_frobenius(logits_fn: LogitsFn, x: jax.Array) -> jax.Array:
  """Frobenius norm `||F(x)||_F`: [N], nats per squared input unit.

  Between `fisher_spectral_norm` and `fisher_trace`. Arguments, cost and edge
  cases are those of `fisher_gram`. Where F is exactly 0 the derivative is
  taken as 0.
  """
  gram, _, _ = _reduced_gram(logits_fn, x)
  # Scaled, so that squares of small entries do not underflow.
  scale = jax.lax.stop_gradient(
    jnp.max(jnp.abs(gram), axis=(-2, -1), initial=0.0)
  )
  safe = jnp.where(scale == 0, 1.0, scale)
  squared = jnp.sum((gram / safe[:, None, None]) ** 2, axis=(-2, -1))
  is_zero = squared == 0
  norm = jnp.sqrt(jnp.where(is_zero, 1.0, squared))
  return jnp.where(is_zero, 0.0, safe * norm)


def fisher_spectral_norm(logits_fn: LogitsFn, x: jax.Array) -> jax.Array:
  """Largest eigenvalue `lambda_max(F(x))`: [N], nats per squared input unit.

  The worst divergence in an L2 ball of small radius r is about
  `r^2 lambda_max / 2`. Arguments, cost and edge cases are those of
  `fisher_gram`, and one (C-1) x (C-1) eigendecomposition an example. The
  derivative is that of `u^T G u` at the top eigenvector u, the derivative of
  lambda_max wherever it is simple.
  """
  gram, _, _ = _reduced_gram(logits_fn, x)
  _, vectors = jnp.linalg.eigh(jax.lax.stop_gradient(gram))
  top = vectors[:, :, -1:]  # [N, C-1, 1], or [N, 0, 0] for a single class
  return jnp.einsum("njm,njk,nkm->n", top, gram, top, precision="highest")


def fisher_eigenvectors(
  logits_fn: LogitsFn, x: jax.Array, *, k: int
) -> tuple[jax.Array, jax.Array]:
  """The k leading eigenvalues and unit eigenvectors of F(x).

  Args:
    logits_fn: [N, ...] -> [N, C].
    x: [N, ...], floating point.
    k: how many, at most D.

  Returns:
    `values` [N, k], descending, at least 0, and `vectors` [N, k, ...] of unit
    L2 norm in the shape of x, orthogonal within an example; signs are
    arbitrary. F has rank at most C - 1: beyond the rank, or where an eigenvalue
    is below `10 C eps` times the largest (not resolved in this dtype), value
    and vector are 0. Not meant to be differentiated. Cost: that of
    `fisher_gram` and an eigendecomposition of size C - 1; no further pass.

  Raises:
    ValueError: k < 1 or k > D.
  """
  _validate.positive_int("k", k)
  gram, weights, rows = _reduced_gram(logits_fn, x)
  num_examples, rank = gram.shape[:2]
  size = x[0].size if num_examples else 0
  if num_examples and k > size:
    raise ValueError(
      f"Expected k <= {size}, the number of input dimensions, got k={k}."
    )
  values, vectors = jnp.linalg.eigh(gram)
  values, vectors = values[:, ::-1][:, :k], vectors[:, :, ::-1][:, :, :k]
  # F = (W J~)^T (W J~): an eigenvector u of the Gram matrix maps to
  # J~^T W^T u.
  mixed = jnp.einsum("nij,nik->nkj", weights, vectors, precision="highest")
  largest = jnp.max(jnp.abs(mixed), axis=-1, keepdims=True, initial=0.0)
  mixed = mixed / jnp.where(largest == 0, 1.0, largest)
  flat = jnp.einsum("nkj,jnd->nkd", mixed, rows, precision="highest")
  norm = jnp.linalg.norm(flat, axis=-1, keepdims=True)
  threshold = 10 * (rank + 1) * jnp.finfo(values.dtype).eps
  resolved = (values > threshold * values[:, :1]) & (norm[..., 0] > 0)
  values = jnp.where(resolved, values, 0.0)
  flat = jnp.where(
    resolved[:, :, None], flat / jnp.where(norm == 0, 1.0, norm), 0.0
  )
  missing = k - values.shape[1]
  values = jnp.pad(values, ((0, 0), (0, missing)))
  flat = jnp.pad(flat, ((0, 0), (0, missing), (0, 0)))
  return values, flat.reshape((num_examples, k, *x.shape[1:]))


def fisher_vector_product(
  logits_fn: LogitsFn, x: jax.Array, v: jax.Array
) -> jax.Array:
  """`F(x) v`, without forming F.

  Args:
    logits_fn: [N, ...] -> [N, C].
    x: [N, ...], floating point.
    v: one direction an example, the shape of x.

  Returns:
    The shape of x. Linear in v, and `u . F v = v . F u`. Cost: one
    forward-mode and one backward pass, whatever C; memory of one backward.
  """
  logits_fn, x, v = _check_direction(logits_fn, x, v)
  logits, pushforward = jax.linearize(logits_fn, x)
  _validate.logits_shape(logits.shape, x.shape[0])
  pullback = jax.linear_transpose(pushforward, x)
  change, p = _centred_change(logits, pushforward(v))
  (product,) = pullback((p * change).astype(logits.dtype))
  return product


def fisher_quadratic(
  logits_fn: LogitsFn, x: jax.Array, v: jax.Array
) -> jax.Array:
  """`v^T F(x) v = Var_{k~p}((J v)_k)`.

  Args:
    logits_fn: [N, ...] -> [N, C].
    x: [N, ...], floating point.
    v: one direction an example, the shape of x.

  Returns:
    [N], at least 0. `KL(p(x) || p(x + h v)) = h^2/2 v^T F v + O(h^3)`. Cost:
    one JVP (about two forward passes), no backward pass.
  """
  logits_fn, x, v = _check_direction(logits_fn, x, v)
  logits, tangent = jax.jvp(logits_fn, (x,), (v,))
  _validate.logits_shape(logits.shape, x.shape[0])
  return prediction_variance(logits, tangent)


def prediction_variance(logits: jax.Array, values: jax.Array) -> jax.Array:
  """`Var_{k ~ softmax(logits)}(values_k)`: [..., C], [..., C] -> [...].

  Accurate for confident predictions: deviations are taken from the most
  probable class, never as a difference of large moments.
  """
  change, p = _centred_change(logits, values)
  return jnp.sum(p * change**2, axis=-1)


def _centred_change(logits, values):
  """`values - E_p[values]` and p, exact where p is nearly one-hot."""
  logits = _validate.float_array("logits", logits)
  values = _validate.float_array("values", values)
  p = jnp.exp(divergences.log_softmax(logits))
  top = jnp.argmax(logits, axis=-1, keepdims=True)
  values = values - jnp.take_along_axis(values, top, axis=-1)
  return values - jnp.sum(p * values, axis=-1, keepdims=True), p


def _check_inputs(logits_fn, x):
  _validate.logits_fn("logits_fn", logits_fn)
  return logits_fn, _validate.inputs("x", x, "[N, ...]")


def _check_direction(logits_fn, x, v):
  logits_fn, x = _check_inputs(logits_fn, x)
  v = jnp.asarray(v, x.dtype)
  _validate.same_shape("v", v, "x", x)
  return logits_fn, x, v


def _pullbacks_of_differences(logits_fn, x):
  """`grad_x (z_k - z_c)` for the classes k after the winner c, cyclically.

  Returns rows [C-1, N, D], the winner c [N] and log p [N, C].
  """
  logits_fn, x = _check_inputs(logits_fn, x)
  logits, pullback = jax.vjp(logits_fn, x)
  _validate.logits_shape(logits.shape, x.shape[0])
  num_examples, num_classes = logits.shape
  reference = jax.lax.stop_gradient(jnp.argmax(logits, axis=-1))

  def pull(_, offset):
    other = (reference + offset) % num_classes
    cotangent = jax.nn.one_hot(
      other, num_classes, dtype=logits.dtype
    ) - jax.nn.one_hot(reference, num_classes, dtype=logits.dtype)
    (row,) = pullback(cotangent)
    return None, _validate.float_array("x", row).reshape(num_examples, -1)

  offsets = jnp.arange(1, num_classes)
  _, rows = _loops.scan(pull, None, offsets, length=num_classes - 1)
  log_p = divergences.log_softmax(logits).astype(rows.dtype)
  return rows, reference, log_p


def _products(rows):
  return jnp.einsum("jnd,knd->njk", rows, rows, precision="highest")


def _difference_products(logits_fn, x):
  rows, reference, log_p = _pullbacks_of_differences(logits_fn, x)
  return _products(rows), reference, log_p


def _reduced_gram(logits_fn, x):
  """Gram matrix [N, C-1, C-1] with the non-zero spectrum of F.

  Also the mixing matrices W [N, C-1, C-1] and rows J~ [C-1, N, D] with
  `F = (W J~)^T (W J~)`.
  """
  rows, reference, log_p = _pullbacks_of_differences(logits_fn, x)
  num_classes = log_p.shape[-1]
  others = reference[:, None] + jnp.arange(1, num_classes)[None, :]
  log_others = jnp.take_along_axis(log_p, others % num_classes, axis=-1)
  log_top = jnp.take_along_axis(log_p, reference[:, None], axis=-1)
  root = jnp.exp(0.5 * log_others)
  share = root / (1.0 + jnp.exp(0.5 * log_top))
  mixing = jnp.eye(num_classes - 1, dtype=root.dtype)[None] - (
    share[:, :, None] * root[:, None, :]
  )
  weights = mixing * root[:, None, :]
  gram = jnp.einsum(
    "nij,njk,nlk->nil", weights, _products(rows), weights, precision="highest"
  )
  return gram, weights, rows
