"""Eigenvectors of many small symmetric matrices, and their derivatives.

Why not `jnp.linalg.eigh` on CPUs: it calls LAPACK from XLA's own threads. With
several CPU devices in a process, a batch of a few hundred matrices then waits
forever (jaxlib 0.10.1), and on CPUs of many cores large batches corrupt memory
(https://github.com/jax-ml/jax/issues/39292). This module uses plain array code,
which can be split over devices. Programs lowered for another platform call its
`eigh`.

Derivatives are those of the mathematical functions, not of the iterations: they
hold at any order, see `top_eigenvalue` and `eigh`.

On CPUs `eigh` is the Jacobi algorithm. Each round annihilates n/2 off-diagonal
entries at once, in the tournament order of Brent and Luk (1985): rows and
columns meet in pairs (i, n/2 + i), so that a round is arithmetic on four
quarters of the matrix and one shift, without gathers. After n - 1 rounds, that
is, one sweep, all rows and columns are back in their places. The batch is the
last axis, over which the processor vectorises. Convergence is quadratic: four
or five sweeps in float32.

`top_eigenvector`, of positive semi-definite matrices, squares each 24 times (53
in float64): matrix products, which stay fast at sizes where rotations do not.

Measured (2 CPU cores, jax 0.10.1, float32), `eigh` and `top_eigenvector`
against `jnp.linalg.eigh`: 128 matrices of size 9 in 0.7 and 0.8 ms (0.7), 500
in 2.5 and 2.6 ms (2.3), 64 of size 99 in 180 and 37 ms (29).

Shapes: `N` matrices of size n.
"""

import functools

import jax
import jax.numpy as jnp

from robust_info._xla import contractions

# Far more than any matrix needs; guarantees that the loop ends.
_MAX_SWEEPS = 20


def eigh(matrices: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Eigenvalues and eigenvectors of symmetric matrices.

  Args:
    matrices: [N, n, n], symmetric.

  Returns:
    `values` [N, n], descending, and `vectors` [N, n, n] whose columns are their
    orthonormal eigenvectors. Backward stable: the error of a value is a small
    multiple of eps times the norm of the matrix. The result for a matrix
    depends on the others of the batch only by rounding. NaN for a matrix that
    is not finite. `2 N n^2` numbers of memory, about `12 N n^3` products per
    sweep.
    Differentiable to any order: the derivative of a vector is the sum of the
    contributions of vectors of *other* eigenvalues. Within an eigenspace
    (eigenvalues less than `10 n eps` of the largest apart) it is 0, since no
    choice of vectors there is unique.
  """
  if not matrices.shape[-1]:
    return jnp.sum(matrices, axis=-1), matrices
  return _eigh(matrices)


@jax.custom_jvp
def _eigh(matrices):
  return jax.lax.platform_dependent(
    matrices, cpu=_jacobi, default=_of_the_library
  )


@_eigh.defjvp
def _eigh_jvp(primals, tangents):
  values, vectors = _eigh(*primals)
  change = _products(jnp.swapaxes(vectors, 1, 2), tangents[0], vectors)
  # [n, j, i] is the difference of eigenvalue i and eigenvalue j.
  gap = values[:, None, :] - values[:, :, None]
  turn = change * _inverse_gaps(gap, values)
  return (values, vectors), (
    jnp.diagonal(change, axis1=1, axis2=2),
    _products(vectors, turn),
  )


def _inverse_gaps(gap, values):
  """`1 / gap`, or 0 for gaps at the rounding level of the largest value."""
  size = values.shape[-1]
  smallest = 10 * size * jnp.finfo(values.dtype).eps
  largest = jnp.max(jnp.abs(values), axis=-1)[:, None, None]
  is_same = jnp.abs(gap) <= smallest * jax.lax.stop_gradient(largest)
  return jnp.where(is_same, 0.0, 1.0 / jnp.where(is_same, 1.0, gap))


def _products(*matrices):
  """Products of [N, n, n] matrices, in full precision."""
  return functools.reduce(
    lambda a, b: jnp.einsum("nij,njk->nik", a, b, precision="highest"),
    matrices,
  )


def _of_the_library(matrices):
  # The libraries of GPUs return numbers for a matrix that is not finite.
  is_finite = jnp.all(jnp.isfinite(matrices), axis=(1, 2), keepdims=True)
  safe = jnp.where(is_finite, matrices, 0.0)
  values, vectors = jnp.linalg.eigh(safe, symmetrize_input=False)
  return (
    jnp.where(is_finite[:, 0], values[:, ::-1], jnp.nan),
    jnp.where(is_finite, vectors[:, :, ::-1], jnp.nan),
  )


def _jacobi(matrices):
  size = matrices.shape[-1]
  half = (size + 1) // 2
  # Scale entries to about 1: their squares neither overflow nor vanish.
  scale = jnp.max(jnp.abs(matrices), axis=(1, 2))
  is_plain = jnp.isfinite(scale) & (scale > 0)
  safe = jnp.where(is_plain, scale, 1.0)
  # An odd size gets a row of zeros, which no rotation changes.
  odd = 2 * half - size
  a = jnp.moveaxis(matrices / safe[:, None, None], 0, -1)
  a = jnp.pad(a, ((0, odd), (0, odd), (0, 0)))
  identity = jnp.eye(2 * half, size, dtype=a.dtype)[:, :, None]
  # Add zeros made from `a`: inside `jax.shard_map` it must differ by device.
  v = identity + jnp.zeros_like(a, shape=(2 * half, size, a.shape[-1]))
  state = (*_quarters(a), v[:half], v[half:])

  def sweep(carry):
    count, state, before = carry
    off = _off_diagonal(state)
    active = _is_active(off, before, size)
    rounds = 2 * half - 1
    state = jax.lax.fori_loop(0, rounds, lambda _, s: _round(s, active), state)
    return count + 1, state, off

  def is_unfinished(carry):
    count, state, before = carry
    active = _is_active(_off_diagonal(state), before, size)
    return (count < _MAX_SWEEPS) & jnp.any(active)

  before = jnp.full_like(_off_diagonal(state), jnp.inf)
  _, state, _ = jax.lax.while_loop(is_unfinished, sweep, (0, state, before))
  first, _, _, last, upper, lower = state
  values = jnp.concatenate([_diagonal(first), _diagonal(last)])[:size]
  vectors = jnp.concatenate([upper, lower])[:size]
  order = jnp.argsort(-values, axis=0)
  values = jnp.take_along_axis(values, order, axis=0) * scale[None]
  vectors = jnp.take_along_axis(vectors, order[:, None], axis=0)
  is_finite = jnp.isfinite(scale)
  values = jnp.where(is_finite[None], values, jnp.nan)
  vectors = jnp.where(is_finite[None, None], vectors, jnp.nan)
  return values.T, jnp.transpose(vectors, (2, 1, 0))


@jax.custom_jvp
def top_eigenvalue(matrices: jax.Array) -> jax.Array:
  """The largest eigenvalue of each matrix.

  Args:
    matrices: [N, n, n], symmetric and positive semi-definite.

  Returns:
    [N], `u^T A u` at the top eigenvector u, differentiable to any order
    wherever the eigenvalue is simple (`du = (lambda - A)^+ dA u`). The first
    derivative is `u u^T`, for the cost of two products; from the second on an
    `eigh` is computed as well. Where the eigenvalue is multiple, the first
    derivative is that along one of its eigenvectors, and higher ones do not
    exist: they are NaN. The derivatives at a matrix of zeros are 0.
  """
  return _quadratic(matrices, top_eigenvector(matrices))


@top_eigenvalue.defjvp
def _top_eigenvalue_jvp(primals, tangents):
  (matrices,), (change,) = primals, tangents
  top = _moving_top(matrices)
  return _quadratic(matrices, top), _quadratic(change, top)


@jax.custom_jvp
def _moving_top(matrices):
  """`top_eigenvector` with its derivative."""
  return top_eigenvector(matrices)


@_moving_top.defjvp
def _moving_top_jvp(primals, tangents):
  (matrices,), (change,) = primals, tangents
  top = _moving_top(matrices)
  values, vectors = eigh(matrices)
  gap = values[:, :1] - values
  # The vector's own gap is zero: it contributes nothing to its derivative.
  is_own = jnp.arange(values.shape[-1])[None] == 0
  smallest = 10 * values.shape[-1] * jnp.finfo(values.dtype).eps
  is_same = gap <= smallest * values[:, :1]
  inverse = jnp.where(is_same, 0.0, 1.0 / jnp.where(is_same, 1.0, gap))
  # Selected, and not an array of its own: jax_debug_nans would take offence.
  is_unknown = is_same & ~is_own & (values[:, :1] > 0)
  inverse = jnp.where(is_unknown, jnp.nan, inverse)
  moved = contractions.dot(change, top[:, None])
  shares = contractions.dot(jnp.swapaxes(vectors, 1, 2), moved[:, None])
  return top, contractions.dot(vectors, (inverse * shares)[:, None])


def _quadratic(matrices, vectors):
  return contractions.dot(vectors, contractions.dot(matrices, vectors[:, None]))


def top_eigenvector(matrices: jax.Array) -> jax.Array:
  """A unit eigenvector of the largest eigenvalue of each matrix.

  Returns the column of the largest diagonal entry of `A^(2^m)`. Eigenvectors
  whose eigenvalues are less than about `2^-m` apart, relative to the largest,
  are not separated: for `u^T A u` the effect is at the rounding level.

  Args:
    matrices: [N, n, n], symmetric and positive semi-definite.

  Returns:
    [N, n]; 0 for a matrix of zeros, NaN for one that is not finite. The error
    of `u^T A u` is a small multiple of eps times the largest eigenvalue. Cost:
    m products of n x n matrices; m is the number of bits of the dtype.
  """
  if not matrices.shape[-1]:
    return jnp.sum(matrices, axis=-1)

  def scaled(power):
    largest = jnp.max(jnp.abs(power), axis=(1, 2), keepdims=True)
    return power / jnp.where(largest == 0, 1.0, largest)

  def square(_, power):
    return scaled(jnp.einsum("nij,njk->nik", power, power, precision="highest"))

  num_squares = jnp.finfo(matrices.dtype).nmant + 1
  power = jax.lax.fori_loop(0, num_squares, square, scaled(matrices))
  largest = jnp.argmax(jnp.diagonal(power, axis1=1, axis2=2), axis=1)
  column = jnp.take_along_axis(power, largest[:, None, None], axis=2)[:, :, 0]
  norm = jnp.linalg.norm(column, axis=1, keepdims=True)
  return column / jnp.where(norm == 0, 1.0, norm)


def _quarters(a):
  half = a.shape[0] // 2
  return a[:half, :half], a[:half, half:], a[half:, :half], a[half:, half:]


def _diagonal(quarter):
  index = jnp.arange(quarter.shape[0])
  return quarter[index, index]


def _is_active(off, before, size):
  """[N]: whether another sweep improves the matrix (NaN: False).

  Args:
    off: [N] result of `_off_diagonal`.
    before: [N] the same before the last sweep.
    size: number of rows, n.
  """
  eps = jnp.finfo(off.dtype).eps
  # Rounding keeps n^2 entries of multiple eigenvalues at some eps each, which
  # sweeps cannot lower.
  is_rounding = (off <= (size * eps) ** 2) & (off >= 0.25 * before)
  return (off > eps**2) & ~is_rounding


def _off_diagonal(state):
  """[N]: squares of the off-diagonal entries, relative to the diagonal ones."""
  tt, tb, bt, bb, *_ = state
  off = 1.0 - jnp.eye(tt.shape[0], dtype=tt.dtype)[:, :, None]
  outside = sum(
    jnp.sum(part * part, axis=(0, 1)) for part in (tt * off, tb, bt, bb * off)
  )
  inside = sum(
    jnp.sum(jnp.square(_diagonal(part)), axis=0) for part in (tt, bb)
  )
  return outside / inside


def _round(state, active):
  """Rotates the pairs (i, half + i) of the active matrices, then shifts."""
  tt, tb, bt, bb, upper, lower = state
  p, r, q = _diagonal(tt), _diagonal(tb), _diagonal(bb)
  tan = _tangents(p, r, q, active)
  cos = 1.0 / jnp.sqrt(1.0 + tan * tan)
  sin = tan * cos

  def rotated(first, second, axis):
    c, s = jnp.expand_dims(cos, axis), jnp.expand_dims(sin, axis)
    return c * first - s * second, s * first + c * second

  tt, bt = rotated(tt, bt, axis=1)
  tb, bb = rotated(tb, bb, axis=1)
  tt, tb = rotated(tt, tb, axis=0)
  bt, bb = rotated(bt, bb, axis=0)
  upper, lower = rotated(upper, lower, axis=1)
  # Overwrite the rotated 2x2 blocks with their closed form, which is more
  # accurate.
  here = jnp.eye(tt.shape[0], dtype=bool)[:, :, None] & (tan != 0)[None]
  tt = jnp.where(here, (p - tan * r)[:, None], tt)
  bb = jnp.where(here, (q + tan * r)[:, None], bb)
  tb, bt = jnp.where(here, 0.0, tb), jnp.where(here, 0.0, bt)
  tt, bt = _shifted(tt, bt, axis=0)
  tb, bb = _shifted(tb, bb, axis=0)
  tt, tb = _shifted(tt, tb, axis=1)
  bt, bb = _shifted(bt, bb, axis=1)
  return tt, tb, bt, bb, *_shifted(upper, lower, axis=0)


def _tangents(p, r, q, active):
  """Tangents of the smaller angle that diagonalises [[p, r], [r, q]]."""
  # Between rows of one eigenvalue an entry of rounding would turn by any angle
  # and refill entries that are annihilated already: convergence stalls.
  eps = jnp.finfo(r.dtype).eps
  skip = (r * r <= eps**2 * jnp.abs(p * q)) | (r == 0) | ~active[None]
  tau = (q - p) / (2.0 * jnp.where(skip, 1.0, r))
  # Where the square would overflow, the root is |tau| in any case.
  root = jnp.sqrt(1.0 + jnp.square(jnp.clip(tau, -1e18, 1e18)))
  sign = jnp.where(tau >= 0, 1.0, -1.0)
  return jnp.where(skip, 0.0, sign / (jnp.abs(tau) + root)).astype(p.dtype)


def _shifted(top, bottom, axis):
  """Moves all rows but the first of `top` by one place around the table."""
  last = top.shape[axis] - 1
  if not last:
    return top, bottom

  def part(quarter, start, stop):
    return jax.lax.slice_in_dim(quarter, start, stop, axis=axis)

  return (
    jnp.concatenate(
      [part(top, 0, 1), part(bottom, 0, 1), part(top, 1, last)], axis
    ),
    jnp.concatenate(
      [part(bottom, 1, last + 1), part(top, last, last + 1)], axis
    ),
  )
