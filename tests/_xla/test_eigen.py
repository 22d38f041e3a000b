"""The eigendecomposition of small matrices against float64 LAPACK."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from robust_info._xla import eigen

_eigh = jax.jit(eigen.eigh)
_top = jax.jit(eigen.top_eigenvector)
_EPS = np.finfo(np.float32).eps


def _symmetric(size, kind, seed, num=7):
  """[num, n, n] float32, with a spectrum that is hard in the named way."""
  rng = np.random.default_rng(seed)
  spectrum = {
    "plain": rng.standard_normal((num, size)),
    "graded": np.exp(-2.0 * np.arange(size)) * np.ones((num, 1)),
    "multiple": np.repeat(rng.integers(0, 3, (num, 1)), size, axis=1) * 1.0,
    "clustered": 1 + 1e-6 * rng.standard_normal((num, size)),
    "low rank": (np.arange(size) < 2) * np.ones((num, 1)),
    "signs": np.sign(rng.standard_normal((num, size))),
  }[kind]
  basis, _ = np.linalg.qr(rng.standard_normal((num, size, size)))
  scale = 10.0 ** rng.integers(-30, 30, (num, 1, 1))
  dense = np.einsum("nij,nj,nkj->nik", basis, spectrum, basis)
  dense = (scale * dense).astype(np.float32)
  return (dense + dense.transpose(0, 2, 1)) / 2


# Here rotations within an eigenspace had kept the others from converging.
@example(size=9, kind="signs", seed=212535)
@example(size=9, kind="signs", seed=100)
@settings(deadline=None, max_examples=30)
@given(
  size=st.sampled_from((1, 2, 3, 9, 16)),
  kind=st.sampled_from(
    ("plain", "graded", "multiple", "clustered", "low rank", "signs")
  ),
  seed=st.integers(0, 2**32 - 1),
)
def test_eigh_is_backward_stable(size, kind, seed):
  matrices = _symmetric(size, kind, seed)
  values, vectors = jax.tree.map(np.asarray, _eigh(matrices))
  exact = matrices.astype(np.float64)
  expected = np.linalg.eigvalsh(exact)[:, ::-1]
  norm = np.abs(expected).max(axis=1)
  tolerance = 8 * size * _EPS
  assert np.all(np.diff(values, axis=1) <= 0)
  assert np.all(np.abs(values - expected).max(axis=1) <= tolerance * norm)
  vectors = vectors.astype(np.float64)
  np.testing.assert_allclose(
    np.einsum("nij,nik->njk", vectors, vectors),
    np.broadcast_to(np.eye(size), matrices.shape),
    atol=tolerance,
  )
  residual = exact @ vectors - vectors * values[:, None, :]
  assert np.all(np.abs(residual).max(axis=(1, 2)) <= tolerance * norm)


@settings(deadline=None, max_examples=30)
@given(
  size=st.sampled_from((1, 2, 9)),
  kind=st.sampled_from(("graded", "multiple", "clustered", "low rank")),
  seed=st.integers(0, 2**32 - 1),
)
def test_the_top_eigenvector_gives_the_largest_eigenvalue(size, kind, seed):
  matrices = _symmetric(size, kind, seed)
  top = np.asarray(_top(matrices), np.float64)
  exact = matrices.astype(np.float64)
  expected = np.linalg.eigvalsh(exact)[:, -1]
  found = np.einsum("nj,njk,nk->n", top, exact, top)
  norms = np.where(expected > 0, 1.0, 0.0)
  np.testing.assert_allclose(np.linalg.norm(top, axis=1), norms, rtol=4 * _EPS)
  np.testing.assert_allclose(found, expected, rtol=8 * size * _EPS)


def test_top_eigenvectors_that_are_hard_to_tell_apart():
  rng = np.random.default_rng(0)
  gaps = 10.0 ** -np.arange(9)
  basis, _ = np.linalg.qr(rng.standard_normal((9, 6, 6)))
  spectrum = np.stack([np.ones(9), 1 - gaps, *[0.1 * gaps] * 4], axis=1)
  exact = np.einsum("nij,nj,nkj->nik", basis, spectrum, basis)
  for dtype, tolerance in ((np.float32, 5e-7), (np.float64, 1e-14)):
    with jax.enable_x64(dtype == np.float64):
      matrices = exact.astype(dtype)
      top = np.asarray(_top(matrices))
      assert top.dtype == dtype
      rayleigh = np.einsum("nj,njk,nk->n", top, matrices.astype(float), top)
      np.testing.assert_allclose(rayleigh, 1.0, atol=tolerance)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_the_top_eigenvector_of_what_is_not_finite_is_nan(bad):
  matrices = np.stack([np.eye(3), np.full((3, 3), bad), np.zeros((3, 3))])
  top = _top(matrices.astype(np.float32))
  np.testing.assert_array_equal(np.isnan(top).all(axis=1), [False, True, False])
  np.testing.assert_array_equal(top[2], np.zeros(3))


def test_eigh_in_float64():
  matrices = _symmetric(9, "plain", 0).astype(np.float64)
  with jax.enable_x64(True):
    values, _ = _eigh(matrices)
    assert values.dtype == np.float64
    expected = np.linalg.eigvalsh(matrices)[:, ::-1]
    norm = np.abs(expected).max(axis=1, keepdims=True)
    np.testing.assert_allclose(values / norm, expected / norm, atol=1e-14)


# The algorithm of CPUs turns nothing then.
@pytest.mark.usefixtures("on_cpu")
def test_a_diagonal_matrix_is_returned_as_it_is():
  diagonal = np.array([[3.0, -1.0, 0.0, 2.0]], np.float32)
  values, vectors = _eigh(np.eye(4, dtype=np.float32) * diagonal[:, None])
  np.testing.assert_array_equal(values, -np.sort(-diagonal))
  np.testing.assert_array_equal(np.abs(vectors).sum(axis=1), 1.0)


@pytest.mark.parametrize("size", [0, 1, 2, 3])
def test_zeros(size):
  values, vectors = _eigh(np.zeros((7, size, size), np.float32))
  np.testing.assert_array_equal(values, np.zeros((7, size)))
  np.testing.assert_array_equal(
    np.einsum("nij,nik->njk", vectors, vectors),
    np.broadcast_to(np.eye(size), (7, size, size)),
  )


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("size", [1, 4])
def test_a_matrix_that_is_not_finite_spoils_only_itself(size, bad):
  matrices = _symmetric(size, "plain", 3)
  values, _ = _eigh(matrices)
  matrices[2, 0, -1] = matrices[2, -1, 0] = bad
  spoiled, vectors = _eigh(matrices)
  assert np.all(np.isnan(spoiled[2]))
  assert np.all(np.isnan(vectors[2]))
  others = np.arange(len(matrices)) != 2
  np.testing.assert_array_equal(spoiled[others], values[others])


def test_a_library_that_returns_numbers_for_nan_is_not_believed(monkeypatch):
  # As that of CUDA does.
  monkeypatch.setattr(
    jnp.linalg, "eigh", lambda m, **_: (m[:, 0], jnp.ones_like(m))
  )
  matrices = jnp.asarray(_symmetric(4, "plain", 3)).at[2, 0, 0].set(jnp.nan)
  values, vectors = eigen._of_the_library(matrices)
  spoiled = np.arange(len(matrices)) == 2
  np.testing.assert_array_equal(np.isnan(values).all(axis=1), spoiled)
  np.testing.assert_array_equal(np.isnan(vectors).any(axis=(1, 2)), spoiled)


def test_a_matrix_does_not_depend_on_the_rest_of_its_batch():
  graded, plain = _symmetric(9, "graded", 5), _symmetric(9, "plain", 5)
  values, vectors = _eigh(graded)
  mixed = np.concatenate([graded[:3], plain[3:]])
  among_others = _eigh(mixed)
  np.testing.assert_array_equal(among_others[0][:3], values[:3])
  np.testing.assert_array_equal(among_others[1][:3], vectors[:3])


def test_derivatives_of_eigenpairs_match_finite_differences(x64):
  """Also at a diagonal matrix, which needs no rotation."""
  rng = np.random.default_rng(0)
  start, change = rng.normal(size=(2, 2, 4, 4))
  start = np.stack([start[0] + start[0].T, np.diag([4.0, 1.0, -2.0, 3.0])])
  change = change + change.transpose(0, 2, 1)

  @jax.jit
  def pairs(t):
    values, vectors = eigen.eigh(jnp.asarray(start + t * change))
    # Eigenvectors without their arbitrary sign.
    largest = jnp.argmax(jnp.abs(vectors), axis=1, keepdims=True)
    return values, vectors * jnp.sign(
      jnp.take_along_axis(vectors, largest, axis=1)
    )

  step = 1e-6
  found = jax.jit(jax.jacfwd(pairs))(0.0)
  for one, ahead, behind in zip(found, pairs(step), pairs(-step), strict=True):
    np.testing.assert_allclose(one, (ahead - behind) / (2 * step), atol=1e-7)


def test_derivatives_where_an_eigenvalue_is_multiple():
  """First ones are those of one eigenvector; second ones exist only at 0."""

  def largest(t, spectrum):
    bend = jnp.asarray([[0.0, 1.0], [1.0, 0.0]])
    return eigen.top_eigenvalue((jnp.diag(spectrum) + t * bend)[None])[0]

  @jax.jit
  def derivatives(spectrum):
    turn = jax.grad(largest), jax.grad(jax.grad(largest))
    return [d(0.0, spectrum) for d in turn]

  # Closed form: lambda = (a + b) / 2 + sqrt((a - b)^2 / 4 + t^2).
  np.testing.assert_allclose(
    derivatives(jnp.asarray([3.0, 1.0])), [0.0, 1.0], atol=1e-6
  )
  slope, bend = derivatives(jnp.ones(2))
  assert abs(slope) <= 1
  assert np.isnan(bend)
  np.testing.assert_array_equal(derivatives(jnp.zeros(2)), 0.0)


def test_the_library_is_called_on_accelerators_only():
  """In the program for a platform, on any machine that makes it."""
  matrices = jnp.eye(3)[None]
  eigh = jax.jit(eigen.eigh)

  def calls_a_library(platform):
    program = eigh.trace(matrices).lower(lowering_platforms=(platform,))
    return "custom_call" in program.as_text()

  assert not calls_a_library("cpu")
  assert calls_a_library("cuda")
  assert calls_a_library("tpu")
