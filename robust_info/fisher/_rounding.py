"""The precision of a network, and the rounding error of a Fisher norm.

A norm of `F = J^T (diag p - p p^T) J` changes by twice the relative error of J
and, since `d log p_k = d z_k - E_p[d z]`, by twice the absolute error of the
logits z: its relative error is `c eps (1 + max_k |z_k|)`. The constant c is
measured.

Compared with float64, in units of `eps (1 + |z|)`, the error was at most 7 for
ReLU networks of 2 to 40 dense layers and of 20 convolutions, for 1,000 classes
and logits up to 220, and for linear networks of 150,528 inputs. Networks that
amplify rounding from layer to layer may exceed the stated error: forty tanh
layers of gain 1.4 had an error of 52.
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core

from robust_info import _validate
from robust_info._xla import convolutions

_FACTOR = 16


def epsilon(fn: Callable[[jax.Array], jax.Array], x: jax.Array) -> float:
  """The coarsest eps of the dtypes that `fn` computes in, and of x.

  Traces `fn` once. Does not see the reduced precision of matrix products on
  accelerators (`jax_default_matmul_precision`), which is not part of a dtype.
  """
  dtypes = {x.dtype, *_dtypes(jax.make_jaxpr(fn)(x).jaxpr)}
  return max(float(jnp.finfo(dtype).eps) for dtype in dtypes)


def relative(logits: jax.Array, epsilon: float) -> jax.Array:
  """[N], the share of a norm that may be rounding error."""
  size = jnp.abs(_validate.float_array("logits", logits))
  size = jax.lax.stop_gradient(size)
  # Impossible classes do not count.
  size = jnp.where(jnp.isfinite(size), size, 0.0)
  return _FACTOR * epsilon * (1.0 + jnp.max(size, axis=-1))


def _dtypes(program: core.Jaxpr) -> Iterator[Any]:
  """Dtypes of all floating-point results, also inside loops and calls."""
  for equation in program.eqns:
    for out in equation.outvars:
      dtype = getattr(out.aval, "dtype", None)
      if dtype is not None and jnp.issubdtype(dtype, jnp.floating):
        yield dtype
    for inner in convolutions.programs(equation):
      yield from _dtypes(inner)
