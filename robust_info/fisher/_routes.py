"""The two routes to a Fisher norm: by Gram matrices, and matrix-free.

See `norms` for the routes and their options. Every norm is a pair of functions,
one for each route.

Shapes: `N` examples, `C` classes, `D` inputs (flattened).
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from robust_info import _validate
from robust_info._xla import compiled, loops
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


class Options(NamedTuple):
  """Settings of a norm; see `norms`.

  Attributes:
    method: the route.
    batch_size: number of examples at a time.
    num_steps: number of Lanczos steps.
    num_probes: number of probes.
    k: number of eigenvectors.
  """

  method: str
  batch_size: int | None
  num_steps: int
  num_probes: int = 1
  k: int = 0


# A norm by one of the routes: the result and the logits [N, C] of a network.
_ByGram = Callable[[_validate.LogitsFn, jax.Array, int], tuple[Any, jax.Array]]
_ByLanczos = Callable[
  [_validate.LogitsFn, jax.Array, jax.Array, Options], tuple[Any, jax.Array]
]


def measured(
  by_gram: _ByGram,
  by_lanczos: _ByLanczos | None,
  logits_fn: _validate.LogitsFn,
  x: ArrayLike,
  options: Options,
  key: jax.Array | None = None,
) -> Any:
  """A norm by the route of `options`, with a look at the logits."""
  _validate.logits_fn("logits_fn", logits_fn)
  x = _validate.inputs("x", x, "[N, ...]")
  found, logits = _in_batches(logits_fn, x, key, by_gram, by_lanczos, options)
  _validate.warn_of_probabilities(
    "the output of logits_fn", logits, stacklevel=5
  )
  return found


@compiled.once
def _in_batches(logits_fn, x, key, by_gram, by_lanczos, options):
  """The norm of all rows, and the logits of a few."""
  is_exact = _is_exact(logits_fn, x, options)
  key = jax.random.key(0) if key is None else key

  def measure(x, key):
    if is_exact:
      return by_gram(logits_fn, x, options.k)
    return by_lanczos(logits_fn, x, key, options)

  if options.batch_size is not None:
    _validate.positive_int("batch_size", options.batch_size)
  found, logits = loops.in_batches(
    measure, x, key, batch_size=options.batch_size
  )
  return found, logits[: _validate.SAMPLE]


def _is_exact(logits_fn, x, options) -> bool:
  """Validates the network and the options, and chooses the route."""
  num_classes = _validate.network("logits_fn", logits_fn, x)
  _validate.one_of("method", options.method, METHODS)
  _validate.positive_int("num_steps", options.num_steps)
  _validate.positive_int("num_probes", options.num_probes)
  products.check_count(options.k, x)
  is_exact = options.method == "gram" or (
    options.method == "auto" and num_classes <= AUTO_CLASSES
  )
  if not is_exact and options.k > options.num_steps:
    raise ValueError(
      f"Expected num_steps >= k={options.k} to find as many eigenvectors, got "
      f"num_steps={options.num_steps}."
    )
  return is_exact


def full_gram(logits_fn, x, k):
  del k
  logits, pullback = _gram.logits_and_pullback(logits_fn, x)
  return _gram.full_gram(logits, pullback), logits


def norms_by_gram(
  logits_fn: _validate.LogitsFn, x: jax.Array, k: int
) -> tuple[FisherNorms, jax.Array]:
  """Norms and k eigenvectors by the Gram route, and the logits."""
  reduced = _gram.reduced_gram(logits_fn, x)
  epsilon = _rounding.epsilon(logits_fn, x)
  return norms_of_gram(reduced, x, k, epsilon), reduced.logits


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


def trace_by_gram(logits_fn, x, k):
  del k
  reduced = _gram.reduced_gram(logits_fn, x)
  return _gram.trace(reduced), reduced.logits


def frobenius_by_gram(logits_fn, x, k):
  del k
  reduced = _gram.reduced_gram(logits_fn, x)
  return _gram.frobenius(reduced), reduced.logits


def spectral_norm_by_gram(logits_fn, x, k):
  del k
  reduced = _gram.reduced_gram(logits_fn, x)
  return _gram.spectral_norm(reduced), reduced.logits


def eigenvectors_by_gram(logits_fn, x, k):
  reduced = _gram.reduced_gram(logits_fn, x)
  values, vectors = _gram.eigenvectors(reduced, k)
  return (values, _shaped(vectors, x)), reduced.logits


def norms_by_lanczos(logits_fn, x, key, options):
  key_start, key_probe = jax.random.split(key)
  epsilon = _rounding.epsilon(logits_fn, x)
  fisher, found = _lanczos_basis(logits_fn, x, key_start, options)
  values, vectors, residuals = _lanczos.ritz_vectors(found, max(options.k, 1))
  trace, frobenius, trace_error, frobenius_error = _lanczos.trace_and_frobenius(
    fisher, found, key_probe, num_probes=options.num_probes
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
  if options.k:
    norms = _with_vectors(norms, values, vectors, residuals, x)
  return norms, fisher.logits


def trace_by_lanczos(logits_fn, x, key, options):
  key_start, key_probe = jax.random.split(key)
  fisher, found = _lanczos_basis(logits_fn, x, key_start, options)
  trace, _ = _lanczos.trace(
    fisher, found, key_probe, num_probes=options.num_probes
  )
  return trace, fisher.logits


def frobenius_by_lanczos(logits_fn, x, key, options):
  norms, logits = norms_by_lanczos(logits_fn, x, key, options)
  return norms.frobenius, logits


def spectral_norm_by_lanczos(logits_fn, x, key, options):
  (values, _), logits = eigenvectors_by_lanczos(
    logits_fn, x, key, options._replace(k=1)
  )
  return values[:, 0], logits


def eigenvectors_by_lanczos(logits_fn, x, key, options):
  key_start, _ = jax.random.split(key)
  fisher, found = _lanczos_basis(logits_fn, x, key_start, options)
  values, vectors, _ = _lanczos.ritz_vectors(found, options.k)
  return (values, _shaped(vectors, x)), fisher.logits


def _lanczos_basis(logits_fn, x, key, options):
  """The linearised network and its Lanczos basis, of at most D vectors."""
  fisher = products.operator(logits_fn, x)
  num_steps = max(1, min(options.num_steps, fisher.size))
  found = _lanczos.lanczos(fisher, x.shape[0], key, num_steps=num_steps)
  return fisher, found


def _with_vectors(norms, values, vectors, residuals, x):
  return dataclasses.replace(
    norms,
    values=values,
    vectors=_shaped(vectors, x),
    residuals=residuals,
  )


def _shaped(vectors, x):
  """Vectors [N, k, D] in the shape of x."""
  return vectors.reshape((*vectors.shape[:2], *x.shape[1:]))
