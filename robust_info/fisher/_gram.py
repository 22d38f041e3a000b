"""The Gram route to the Fisher information: C - 1 pullbacks, then algebra.

Relative to the most probable class c, with `J~_k = J_k - J_c` and `p~` for the
C - 1 other classes, and `s = sqrt(p~)`,

    F = J~^T (diag p~ - p~ p~^T) J~
      = (M diag(s) J~)^T (M diag(s) J~),   M = I - s s^T / (1 + sqrt(p_c)),

because `M^2 = I - s s^T`. For a confident prediction every number in this form
is small and nothing cancels, so float32 keeps its relative accuracy however
close `p_c` is to 1.

Shapes: `N` examples, `C` classes, `D` inputs (flattened).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from robust_info import _validate
from robust_info._xla import contractions, eigen, loops
from robust_info.information import divergences


class ReducedGram(NamedTuple):
  """`F = (W J~)^T (W J~)` and its Gram matrix.

  Attributes:
    gram: [N, C-1, C-1], `(W J~)(W J~)^T`, with the non-zero spectrum of F.
    weights: [N, C-1, C-1], the mixing matrices W.
    rows: [C-1, N, D], the differences of gradients J~.
    logits: [N, C].
  """

  gram: jax.Array
  weights: jax.Array
  rows: jax.Array
  logits: jax.Array


def reduced_gram(
  logits_fn: Callable[[jax.Array], jax.Array], x: jax.Array
) -> ReducedGram:
  """One forward pass, C - 1 pullbacks and the products of their rows."""
  return from_pullback(*logits_and_pullback(logits_fn, x))


def from_pullback(
  logits: jax.Array, pullback: Callable[[jax.Array], tuple[jax.Array]]
) -> ReducedGram:
  """`reduced_gram` from the results of `logits_and_pullback`."""
  rows, reference, log_p = _pullbacks_of_differences(logits, pullback)
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
  products = contractions.gram(rows)
  gram = jnp.einsum(
    "nij,njk,nlk->nil", weights, products, weights, precision="highest"
  )
  return ReducedGram(gram, weights, rows, logits)


def logits_and_pullback(
  logits_fn: Callable[[jax.Array], jax.Array], x: jax.Array
) -> tuple[jax.Array, Callable[[jax.Array], tuple[jax.Array]]]:
  """Logits [N, C] and their pullback to the inputs (`jax.vjp`)."""
  logits, pullback = jax.vjp(loops.side_by_side(logits_fn), x)
  _validate.logits_shape(logits.shape, x.shape[0])
  return logits, pullback


def full_gram(
  logits: jax.Array, pullback: Callable[[jax.Array], tuple[jax.Array]]
) -> jax.Array:
  """`G_kl = sqrt(p_k p_l) g_k . g_l` over all classes, [N, C, C]."""
  rows, reference, log_p = _pullbacks_of_differences(logits, pullback)
  num_classes = log_p.shape[-1]
  # Return to all classes: row and column c of the differences are zero, and
  # g_k = J~_k - sum_l p_l J~_l.
  classes = jnp.arange(num_classes)
  position = (classes[None, :] - reference[:, None] - 1) % num_classes
  padded = jnp.pad(contractions.gram(rows), ((0, 0), (0, 1), (0, 1)))
  padded = jnp.take_along_axis(padded, position[:, :, None], axis=1)
  padded = jnp.take_along_axis(padded, position[:, None, :], axis=2)
  p = jnp.exp(log_p)
  row = contractions.dot(p[:, None], padded)
  square = contractions.dot(p, row)
  gram = padded - row[:, :, None] - row[:, None, :] + square[:, None, None]
  root = jnp.exp(0.5 * log_p)
  return root[:, :, None] * gram * root[:, None, :]


def trace(reduced: ReducedGram) -> jax.Array:
  """`tr F`: [N]."""
  return jnp.trace(reduced.gram, axis1=-2, axis2=-1)


def frobenius(reduced: ReducedGram) -> jax.Array:
  """`||F||_F`: [N]; derivative 0 where F is exactly 0."""
  gram = reduced.gram
  # Rescaled, so that squares of small entries do not underflow.
  scale = jax.lax.stop_gradient(
    jnp.max(jnp.abs(gram), axis=(-2, -1), initial=0.0)
  )
  safe = jnp.where(scale == 0, 1.0, scale)
  squared = jnp.sum((gram / safe[:, None, None]) ** 2, axis=(-2, -1))
  is_zero = squared == 0
  norm = jnp.sqrt(jnp.where(is_zero, 1.0, squared))
  return jnp.where(is_zero, 0.0, safe * norm)


def spectral_norm(reduced: ReducedGram) -> jax.Array:
  """`lambda_max(F)`: [N], by `u^T G u` at the top eigenvector."""
  return eigen.top_eigenvalue(reduced.gram)


def eigenvectors(reduced: ReducedGram, k: int) -> tuple[jax.Array, jax.Array]:
  """The k leading eigenvalues [N, k] and eigenvectors of F [N, k, D]."""
  gram, weights, rows, _ = reduced
  rank = gram.shape[1]
  values, vectors = eigen.eigh(gram)
  values, vectors = values[:, :k], vectors[:, :, :k]
  # An eigenvector u of the Gram matrix maps to J~^T W^T u.
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
  return values, jnp.pad(flat, ((0, 0), (0, missing), (0, 0)))


def _pullbacks_of_differences(logits, pullback):
  """`grad_x (z_k - z_c)` for the classes k after the winner c, cyclically.

  Returns rows [C-1, N, D], the winner c [N] and log p [N, C].
  """
  num_classes = logits.shape[-1]
  reference = jax.lax.stop_gradient(jnp.argmax(logits, axis=-1))

  def pull(offset):
    other = (reference + offset) % num_classes
    cotangent = jax.nn.one_hot(
      other, num_classes, dtype=logits.dtype
    ) - jax.nn.one_hot(reference, num_classes, dtype=logits.dtype)
    (row,) = pullback(cotangent)
    return contractions.flat(_validate.float_array("x", row))

  rows = loops.independent(
    pull,
    jnp.arange(1, num_classes),
    length=num_classes - 1,
    differentiable=True,
  )
  log_p = divergences.log_softmax(logits).astype(rows.dtype)
  return rows, reference, log_p
