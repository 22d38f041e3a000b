"""Identifiers of computations, for values that are kept on disk."""

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.extend import core

# Operations whose text does not show all that they compute: host functions,
# foreign libraries, and rules that apply under `vmap` only.
_HIDDEN = ("pure_callback", "io_callback", "ffi_call", "custom_vmap_call")


def digest(fn: Callable[..., Any], *arguments: Any) -> str | None:
  """Identifier of a function by its program; traces it, computes nothing.

  The program shows modules that the function imports and arrays that it closes
  over, but no comments. It is a program of the leaves of the arguments in
  order, whatever holds them.

  Args:
    fn: function of pytrees of arrays.
    *arguments: its arguments, or their shapes and dtypes; their values do not
      count.

  Returns:
    A hash, the same in every process; None if the program does not show all
    that it computes, because it calls a function on the host.

  Raises:
    Exception: whatever `fn` raises.
  """
  # A new function, so that JAX traces it now: it may have changed. An unused
  # argument stays, because the others are known by their number.
  traced = jax.jit(lambda *given: fn(*given), keep_unused=True).trace(
    *jax.tree.map(_shape, arguments)
  )
  found = hashlib.sha256()
  for part in _parts(traced.jaxpr):
    if isinstance(part, str):
      if part in _HIDDEN:
        return None
    else:
      # A program as text may leave out the values of large arrays.
      found.update(_content(part))
  found.update(traced.lower().as_text().encode())
  return found.hexdigest()


def _shape(leaf: Any) -> jax.ShapeDtypeStruct:
  """The leaf without its value and its devices."""
  known = jax.typeof(leaf)
  return jax.ShapeDtypeStruct(
    known.shape, known.dtype, weak_type=known.weak_type
  )


def _parts(program: Any) -> Iterator[Any]:
  """Names of the operations of a program, and the arrays that it holds."""
  # In some releases of JAX a Jaxpr has constants too.
  yield from getattr(program, "consts", ())
  program = getattr(program, "jaxpr", program)
  for eqn in program.eqns:
    yield eqn.primitive.name
    for operand in eqn.invars:
      if isinstance(operand, core.Literal):
        yield operand.val
    for value in eqn.params.values():
      for item in value if isinstance(value, tuple) else (value,):
        if isinstance(item, core.Jaxpr | core.ClosedJaxpr):
          yield from _parts(item)


def _content(value: Any) -> bytes:
  """Bytes of an array or a number."""
  if jax.dtypes.issubdtype(getattr(value, "dtype", None), jax.dtypes.prng_key):
    value = jax.random.key_data(value)
  array = np.ascontiguousarray(value)
  return f"{array.dtype}{array.shape}".encode() + array.tobytes()
