"""Convolutions in the form that XLA's CPU backend runs fast inside loops.

That backend passes a convolution to its fast kernel if the axes of images and
weights are in the order of `NHWC` and `HWIO`. It brings other orders into this
form itself, but not inside a loop (jax 0.10.1): the gradient of a convolution
with respect to its input, whose weights have input and output channels swapped,
is then three to fourteen times slower.
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core


def canonical(fn: Callable[..., Any]) -> Callable[..., Any]:
  """`fn` with transpositions instead of unusual orders of axes.

  Args:
    fn: a function of pytrees of arrays.

  Returns:
    A function with the same values and derivatives, which traces `fn` at every
    call. Convolutions that a later differentiation adds are not changed, nor
    are those with `batch_group_count`.
  """

  def call(*args: Any) -> Any:
    leaves, structure = jax.tree.flatten(args)
    result = None

    def of_leaves(*leaves: Any) -> list[Any]:
      nonlocal result
      found, result = jax.tree.flatten(
        fn(*jax.tree.unflatten(structure, leaves))
      )
      return found

    program = _rewritten(jax.make_jaxpr(of_leaves)(*leaves))
    return jax.tree.unflatten(result, core.jaxpr_as_fun(program)(*leaves))

  return call


def _rewritten(param: Any) -> Any:
  """A parameter of an operation, with the programs in it rewritten."""
  # From JAX 0.12 on the two are one class, and a Jaxpr has its constants.
  if isinstance(param, core.Jaxpr):
    if not _concerns(param):
      return param
    return param.replace(eqns=[_rewritten_equation(eqn) for eqn in param.eqns])
  if isinstance(param, core.ClosedJaxpr):
    return param.replace(jaxpr=_rewritten(param.jaxpr))
  if isinstance(param, tuple):
    return tuple(_rewritten(item) for item in param)
  return param


def _rewritten_equation(eqn: core.JaxprEqn) -> core.JaxprEqn:
  if _is_unusual(eqn):
    convolve = jax.jit(lambda *operands: _transposed(eqn, *operands))
    (call,) = jax.make_jaxpr(convolve)(*(v.aval for v in eqn.invars)).eqns
    return call.replace(
      invars=eqn.invars, outvars=eqn.outvars, source_info=eqn.source_info
    )
  if any(_concerns(program) for program in programs(eqn)):
    params = {name: _rewritten(value) for name, value in eqn.params.items()}
    return eqn.replace(params=params)
  return eqn


def programs(eqn: core.JaxprEqn) -> Iterator[core.Jaxpr]:
  """The bodies of loops, branches and calls."""
  for value in eqn.params.values():
    for item in value if isinstance(value, tuple) else (value,):
      if isinstance(item, core.Jaxpr):
        yield item
      elif isinstance(item, core.ClosedJaxpr):
        yield item.jaxpr


def _concerns(program: core.Jaxpr) -> bool:
  return any(
    _is_unusual(eqn) or any(map(_concerns, programs(eqn)))
    for eqn in program.eqns
  )


def _is_unusual(eqn: core.JaxprEqn) -> bool:
  return (
    eqn.primitive is jax.lax.conv_general_dilated_p
    and eqn.params["batch_group_count"] == 1
    and eqn.params["dimension_numbers"] != _usual(eqn.invars[0].aval.ndim)
  )


def _usual(rank: int) -> jax.lax.ConvDimensionNumbers:
  """Batch, space, channels; space, input, output channels."""
  space = tuple(range(1, rank - 1))
  images = (0, rank - 1, *space)
  weights = (rank - 1, rank - 2, *range(rank - 2))
  return jax.lax.ConvDimensionNumbers(images, weights, images)


def _transposed(
  eqn: core.JaxprEqn, images: jax.Array, weights: jax.Array
) -> jax.Array:
  """The result of `eqn`, by a convolution with the usual order of axes."""
  given, usual = eqn.params["dimension_numbers"], _usual(images.ndim)
  out = eqn.primitive.bind(
    _moved(images, given.lhs_spec, usual.lhs_spec),
    _moved(weights, given.rhs_spec, usual.rhs_spec),
    **{**eqn.params, "dimension_numbers": usual},
  )
  return _moved(out, usual.out_spec, given.out_spec)


def _moved(
  array: jax.Array, source: tuple[int, ...], target: tuple[int, ...]
) -> jax.Array:
  """Moves the axes from the positions of `source` to those of `target`."""
  order = [0] * array.ndim
  for old, new in zip(source, target, strict=True):
    order[new] = old
  return jnp.transpose(array, order)
