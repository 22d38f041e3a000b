"""The matrix-free route to the Fisher information, for many classes.

Lanczos on `v -> F(x) v` (one JVP and one VJP per step, for any C) with full
reorthogonalisation gives an orthonormal basis Q [m, D] per example with
`F Q^T = Q^T T + beta q_{m+1} e_m^T`, T tridiagonal. The parts of F are

* on the span of Q: known exactly, `T`;
* between the span and its complement: `||.||_F = beta`;
* on the complement: estimated with random probes `v`, vectors of signs with
  the span projected out: `E v^T F v = tr`, `E |P F v|^2 = ||P F P||_F^2`.

So the trace and the squared Frobenius norm are unbiased, and only the part on
the complement is noisy (the method of Hutch++, Meyer et al. 2021, with a Krylov
basis). A Ritz pair (theta, y) has the residual `|F y - theta y| = beta |s_m|`,
and some eigenvalue lies within this distance of theta (Parlett 1980).

Shapes: `N` examples, `D` inputs (flattened), m Lanczos steps.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from robust_info._xla import contractions, eigen, loops
from robust_info.fisher import products


class Decomposition(NamedTuple):
  """Result of m steps of Lanczos.

  Attributes:
    basis: [m, N, D], orthonormal rows per example; zero rows after an exact
      invariant subspace.
    values: [N, m], Ritz values, descending.
    coefficients: [N, m, m], column i expands Ritz vector i in the basis.
    coupling: [N], beta, the coupling of the span to its complement.
  """

  basis: jax.Array
  values: jax.Array
  coefficients: jax.Array
  coupling: jax.Array


def lanczos(
  fisher: products.Operator,
  num_examples: int,
  key: jax.Array,
  *,
  num_steps: int,
) -> Decomposition:
  """Runs `num_steps` steps from a random vector in the range of F."""
  dtype = jax.eval_shape(
    fisher.product, jnp.zeros((num_examples, fisher.size))
  ).dtype
  start = jax.random.normal(key, (num_examples, fisher.size), dtype)
  first, _ = _unit(fisher.product(start))
  basis = jnp.zeros((num_steps, num_examples, fisher.size), dtype)

  def step(carry, index):
    basis, q = carry
    basis = basis.at[index].set(q)
    image = fisher.product(q)
    alpha = contractions.dot(q, image)
    rest = image
    # Two orthogonalisations are enough (Kahan, Parlett).
    for _ in range(2):
      rest = rest - _combine(basis, _project(basis, rest))
    following, beta = _unit(rest, floor=_norm(image))
    return (basis, following), (alpha, beta)

  (basis, _), (alpha, beta) = loops.scan(
    step, (basis, first), jnp.arange(num_steps), length=num_steps
  )
  alpha, beta = alpha.T, beta.T
  tridiagonal = jax.vmap(jnp.diag)(alpha)
  if num_steps > 1:
    off = jax.vmap(lambda b: jnp.diag(b, k=1))(beta[:, :-1])
    tridiagonal = tridiagonal + off + jnp.swapaxes(off, -1, -2)
  values, coefficients = eigen.eigh(tridiagonal)
  return Decomposition(
    basis, jnp.maximum(values, 0.0), coefficients, beta[:, -1]
  )


def ritz_vectors(
  found: Decomposition, k: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Values [N, k], unit vectors [N, k, D] and residual norms [N, k]."""
  threshold = (
    10 * found.values.shape[1] * jnp.finfo(found.values.dtype).eps
  ) * found.values[:, :1]
  values = found.values[:, :k]
  resolved = (values > threshold) & (values > 0)
  coefficients = found.coefficients[:, :, :k]
  residual = found.coupling[:, None] * jnp.abs(coefficients[:, -1])
  vectors = jnp.einsum(
    "mnd,nmk->nkd", found.basis, coefficients, precision="highest"
  )
  missing = k - values.shape[1]
  return (
    jnp.pad(jnp.where(resolved, values, 0.0), ((0, 0), (0, missing))),
    jnp.pad(
      jnp.where(resolved[:, :, None], vectors, 0.0),
      ((0, 0), (0, missing), (0, 0)),
    ),
    jnp.pad(jnp.where(resolved, residual, 0.0), ((0, 0), (0, missing))),
  )


def trace(
  fisher: products.Operator,
  found: Decomposition,
  key: jax.Array,
  *,
  num_probes: int,
) -> tuple[jax.Array, jax.Array]:
  """Unbiased `tr F` [N] and its standard error [N]."""

  def probe(key):
    return fisher.quadratic(_remainder_probe(found, key))

  keys = jax.random.split(key, num_probes)
  samples = loops.independent(
    probe, keys, length=num_probes, values=found.basis[0].size
  )
  mean, standard_error = _mean_and_error(samples)
  return jnp.sum(found.values, axis=-1) + mean, standard_error


def trace_and_frobenius(
  fisher: products.Operator,
  found: Decomposition,
  key: jax.Array,
  *,
  num_probes: int,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
  """`tr F`, `||F||_F` and the standard errors of both, [N] each.

  `||F||_F^2` is unbiased; the error of its root is correct to first order.
  """

  def probe(key):
    v = _remainder_probe(found, key)
    image = fisher.product(v)
    outside = image - _combine(found.basis, _project(found.basis, image))
    return contractions.dot(v, image), _norm(outside)

  keys = jax.random.split(key, num_probes)
  quadratic, length = loops.independent(
    probe, keys, length=num_probes, values=found.basis[0].size
  )
  remainder, trace_error = _mean_and_error(quadratic)
  # In units of the top Ritz value, so that squares do not underflow.
  top = found.values[:, 0]
  scale = jnp.maximum(top, jnp.max(length, axis=0))
  unit = jnp.where(scale == 0, 1.0, scale)
  outside, outside_error = _mean_and_error((length / unit[None]) ** 2)
  square = (
    jnp.sum((found.values / unit[:, None]) ** 2, axis=-1)
    + 2 * (found.coupling / unit) ** 2
    + outside
  )
  root = jnp.sqrt(square)
  frobenius = unit * root
  frobenius_error = unit * outside_error / jnp.where(root == 0, 1.0, 2 * root)
  trace = jnp.sum(found.values, axis=-1) + remainder
  return trace, frobenius, trace_error, frobenius_error


def _remainder_probe(found, key):
  signs = jax.random.rademacher(
    key, found.basis.shape[1:], dtype=found.basis.dtype
  )
  return signs - _combine(found.basis, _project(found.basis, signs))


def _mean_and_error(samples):
  num_samples = samples.shape[0]
  mean = jnp.mean(samples, axis=0)
  if num_samples == 1:
    return mean, jnp.full_like(mean, jnp.nan)
  variance = jnp.sum((samples - mean[None]) ** 2, axis=0) / (num_samples - 1)
  return mean, jnp.sqrt(variance / num_samples)


def _project(basis, v):
  return contractions.dot(basis, v[None])


def _combine(basis, coefficients):
  return jnp.einsum("mnd,mn->nd", basis, coefficients, precision="highest")


def _norm(v):
  """L2 norm [N] without underflow of the squares."""
  largest = jnp.max(jnp.abs(v), axis=-1, initial=0.0)
  safe = jnp.where(largest == 0, 1.0, largest)
  return safe * jnp.sqrt(jnp.sum((v / safe[:, None]) ** 2, axis=-1))


def _unit(v, floor=None):
  """`v / |v|` and `|v|`; both 0 where `|v|` is rounding noise of `floor`."""
  norm = _norm(v)
  smallest = jnp.zeros_like(norm)
  if floor is not None:
    smallest = 10 * jnp.finfo(v.dtype).eps * floor
  is_zero = norm <= smallest
  safe = jnp.where(is_zero, 1.0, norm)
  unit = jnp.where(is_zero[:, None], 0.0, v / safe[:, None])
  return unit, jnp.where(is_zero, 0.0, norm)
