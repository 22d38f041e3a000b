"""The precision of a network, and how far rounding may move a Fisher norm.

A norm of `F = J^T (diag p - p p^T) J` moves by twice the relative error of J
and, since `d log p_k = d z_k - E_p[d z]`, by twice the absolute error of the
logits z: by `c eps (1 + max_k |z_k|)` of itself. The constant is measured.

Against float64, in units of `eps (1 + |z|)`, ReLU networks of 2 to 40 dense
layers and of 20 convolutions, 1,000 classes and logits up to 220, and linear
networks of 150,528 inputs were off by at most 7. Networks that amplify rounding
from layer to layer may be further off than stated here: forty tanh layers of
gain 1.4 by 52.
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

  Traces `fn` once. Matrix products that an accelerator takes to fewer digits
  by itself (`jax_default_matmul_precision`) have no dtype of their own and go
  unseen.
  """
  dtypes = {x.dtype, *_dtypes(jax.make_jaxpr(fn)(x).jaxpr)}
  return max(float(jnp.finfo(dtype).eps) for dtype in dtypes)


def relative(logits: jax.Array, epsilon: float) -> jax.Array:
  """[N], the share of a norm that may be rounding."""
  size = jnp.abs(_validate.float_array("logits", logits))
  size = jax.lax.stop_gradient(size)
  # Classes that are impossible do not count.
  size = jnp.where(jnp.isfinite(size), size, 0.0)
  return _FACTOR * epsilon * (1.0 + jnp.max(size, axis=-1))


def _dtypes(program: core.Jaxpr) -> Iterator[Any]:
  """Of every floating-point result, those in loops and calls included."""
  for equation in program.eqns:
    for out in equation.outvars:
      dtype = getattr(out.aval, "dtype", None)
      if dtype is not None and jnp.issubdtype(dtype, jnp.floating):
        yield dtype
    for inner in convolutions.programs(equation):
      yield from _dtypes(inner)
