"""Products with the input-space Fisher information, for any C.

`F(x) v` and `v^T F(x) v` come from derivatives along v; F is never formed. See
`robust_info.fisher.norms` for F, its norms and its eigenvectors.

Shapes: `N` examples, `C` classes, `D` inputs (flattened).
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from robust_info import _validate
from robust_info._xla import compiled, explicit_meshes, loops, tangents
from robust_info.information import divergences


class Operator(NamedTuple):
  """`F(x)` of N examples as functions of [N, D] arrays.

  Attributes:
    product: the function v -> F v.
    quadratic: the function v -> v^T F v, [N].
    size: number of input dimensions, D.
    logits: [N, C], logits of the network.
  """

  product: Callable[[jax.Array], jax.Array]
  quadratic: Callable[[jax.Array], jax.Array]
  size: int
  logits: jax.Array


@explicit_meshes.accepted(rows=True)
def fisher_vector_product(
  logits_fn: _validate.LogitsFn,
  x: Float[ArrayLike, " N *shape"],
  v: Float[ArrayLike, " N *shape"],
) -> Float[Array, " N *shape"]:
  """`F(x) v`, without forming F.

  Args:
    logits_fn: [N, ...] -> [N, C].
    x: [N, ...], floating point.
    v: the shape of x, one direction per example.

  Returns:
    The shape of x. Linear in v, and `u . F v = v . F u`. Cost: one
    forward-mode and one backward pass, for any C; memory of one backward pass.
  """
  found, logits = _product(*_check_direction(logits_fn, x, v))
  _validate.warn_of_probabilities("the output of logits_fn", logits)
  return found


@compiled.once
def _product(logits_fn, x, v):
  _validate.network("logits_fn", logits_fn, x)
  fisher = operator(logits_fn, x)
  image = fisher.product(v.reshape(x.shape[0], fisher.size))
  return image.reshape(x.shape), fisher.logits[: _validate.SAMPLE]


@explicit_meshes.accepted(rows=True)
def fisher_quadratic(
  logits_fn: _validate.LogitsFn,
  x: Float[ArrayLike, " N *shape"],
  v: Float[ArrayLike, " N *shape"],
) -> Float[Array, " N"]:
  """`v^T F(x) v = Var_{k~p}((J v)_k)`.

  Args:
    logits_fn: [N, ...] -> [N, C].
    x: [N, ...], floating point.
    v: the shape of x, one direction per example.

  Returns:
    [N], at least 0. `KL(p(x) || p(x + h v)) = h^2/2 v^T F v + O(h^3)`. Cost:
    one JVP (about two forward passes), no backward pass.
  """
  found, logits = _quadratic(*_check_direction(logits_fn, x, v))
  _validate.warn_of_probabilities("the output of logits_fn", logits)
  return found


@compiled.once
def _quadratic(logits_fn, x, v):
  _validate.network("logits_fn", logits_fn, x)
  logits, tangent = tangents.jvp(logits_fn, x, v)
  _validate.logits_shape(logits.shape, x.shape[0])
  return prediction_variance(logits, tangent), logits[: _validate.SAMPLE]


def prediction_variance(logits: jax.Array, values: jax.Array) -> jax.Array:
  """`Var_{k ~ softmax(logits)}(values_k)`: [..., C], [..., C] -> [...].

  Accurate for confident predictions: deviations are taken from the most
  probable class, never as a difference of large moments.
  """
  logits = _validate.float_array("logits", logits)
  deviation, p = _centred(logits)(values)
  return jnp.sum(p * deviation**2, axis=-1)


def operator(
  logits_fn: Callable[[jax.Array], jax.Array], x: jax.Array
) -> Operator:
  """Linearises the network once; products then need no further forward pass."""
  logits, pushforward, pullback = tangents.linearize(
    loops.side_by_side(logits_fn), x
  )
  _validate.logits_shape(logits.shape, x.shape[0])
  flat = (x.shape[0], math.prod(x.shape[1:]))
  change = _centred(logits)

  def push(v):
    # Add zeros made from x: inside `jax.shard_map` the tangent must differ by
    # device, as x does.
    v = v.reshape(x.shape).astype(x.dtype) + jnp.zeros_like(x)
    return change(pushforward(v))

  def product(v):
    deviation, p = push(v)
    cotangent, scale = _scaled(p * deviation, logits.dtype)
    (row,) = pullback(cotangent)
    return scale * _validate.float_array("x", row).reshape(flat)

  def quadratic(v):
    deviation, p = push(v)
    return jnp.sum(p * deviation**2, axis=-1)

  return Operator(product, quadratic, flat[1], logits)


def _centred(
  logits: jax.Array,
) -> Callable[[jax.Array], tuple[jax.Array, jax.Array]]:
  """`values -> (values - E_p[values], p)`, exact for confident predictions.

  Deviations are taken from the most probable class first, never as a
  difference of large moments.
  """
  p = jnp.exp(divergences.log_softmax(logits))
  top = jnp.argmax(logits, axis=-1, keepdims=True)

  def change(values):
    values = _validate.float_array("values", values)
    values = values - jnp.take_along_axis(values, top, axis=-1)
    return values - jnp.sum(p * values, axis=-1, keepdims=True), p

  return change


def _scaled(cotangent, dtype):
  """Rescales a cotangent [N, C] to `dtype`; returns the factor [N, 1] too.

  The smallest float16 is 6e-8: the factor keeps the digits of small
  probabilities.
  """
  if cotangent.dtype == dtype:
    return cotangent, jnp.ones((), dtype)
  scale = jnp.max(jnp.abs(cotangent), axis=-1, keepdims=True)
  scale = jnp.where(scale == 0, 1.0, scale)
  return (cotangent / scale).astype(dtype), scale


def check_count(num_eigenvectors: int, x: jax.Array) -> None:
  """Raises if there are more eigenvectors than dimensions."""
  size = math.prod(x.shape[1:])
  if num_eigenvectors > size:
    raise ValueError(
      f"Expected k <= {size}, the number of input dimensions, got "
      f"k={num_eigenvectors}."
    )


def _check_direction(logits_fn, x, v):
  _validate.logits_fn("logits_fn", logits_fn)
  x = _validate.inputs("x", x, "[N, ...]")
  v = jnp.asarray(v, x.dtype)
  _validate.same_shape("v", v, "x", x)
  return logits_fn, x, v
