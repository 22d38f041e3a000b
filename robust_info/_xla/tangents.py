"""Derivatives along a direction, also of networks with `jax.custom_vjp`.

JAX has no forward mode for a function with a backward rule of its own
(`jax.custom_vjp`: kernels of attention, straight-through estimators). The
derivative along v is then the transpose of the pullback, which is linear: one
backward pass, differentiated. To be deleted when `jax.jvp` does so itself.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core

from robust_info._xla import convolutions

Function = Callable[[jax.Array], jax.Array]
# Begin of the name of the operation in a program that is a `jax.custom_vjp`.
_RULE = "custom_vjp_call"


def jvp(
  fn: Function, x: jax.Array, v: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """`fn(x)` and its derivative along v.

  Args:
    fn: function of one array.
    x: where.
    v: the shape of x.

  Raises:
    TypeError: `fn` has a `jax.custom_vjp` whose backward rule cannot be
      differentiated.
  """
  program, function = _traced(fn, x)
  if not _has_backward_rule(program):
    return jax.jvp(function, (x,), (v,))
  value, pullback = jax.vjp(fn, x)
  return value, _transposed(pullback, value, v)


def linearize(
  fn: Function, x: jax.Array
) -> tuple[jax.Array, Function, Callable[[jax.Array], tuple[jax.Array]]]:
  """`fn(x)`, the function v -> derivative along v, and its transpose.

  Args:
    fn: function of one array.
    x: where.

  Returns:
    The function of v raises the TypeError of `jvp`.
  """
  program, function = _traced(fn, x)
  if not _has_backward_rule(program):
    value, push = jax.linearize(function, x)
    return value, push, jax.linear_transpose(push, x)
  value, pullback = jax.vjp(fn, x)
  return value, lambda v: _transposed(pullback, value, v), pullback


def _traced(fn: Function, x: jax.Array) -> tuple[core.ClosedJaxpr, Function]:
  """The program of a function, and the function that runs it.

  The function of the caller, often a deep network, is traced once in this way.
  """
  # A new function, so that JAX traces it now: it may have changed.
  program, out = jax.make_jaxpr(lambda x: fn(x), return_shape=True)(x)
  form = jax.tree.structure(out)
  run = core.jaxpr_as_fun(program)
  return program, lambda x: form.unflatten(run(x))


def _has_backward_rule(program: Any) -> bool:
  return any(
    eqn.primitive.name.startswith(_RULE)
    or any(map(_has_backward_rule, convolutions.programs(eqn)))
    for eqn in program.eqns
  )


def _transposed(
  pullback: Callable[[jax.Array], tuple[jax.Array]],
  value: jax.Array,
  v: jax.Array,
) -> jax.Array:
  try:
    _, push = jax.vjp(lambda c: pullback(c)[0], jnp.zeros_like(value))
    return push(v)[0]
  # Rules of one's own may raise anything.
  except Exception as error:
    first = str(error).strip().partition("\n")[0]
    raise TypeError(
      "Expected logits_fn to have derivatives along a direction, got a "
      "jax.custom_vjp whose backward rule cannot be differentiated "
      f"({type(error).__name__}: {first.rstrip('.')}); use jax.custom_jvp."
    ) from error
