"""Functions that are compiled once per architecture, not once per call.

Outside `jax.jit` JAX runs a function operation by operation, and compiles its
loops again at every call. `once` compiles the whole function instead, where a
compiled program cannot give other numbers than the function itself.
"""

import collections
import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jax.extend import core

Function = TypeVar("Function", bound=Callable[..., Any])

_PACKAGE = __name__.partition(".")[0]
# The state outside of `jax.jit`, `jax.grad` and the like.
_EAGER = core.get_opaque_trace_state()


def once(fn: Function) -> Function:
  """Compiles a function of arrays, or of a network and arrays, when called.

  Arrays are arguments of the program. All else (names, counts, flags, floats)
  is fixed in it, and so is the function of a `jax.tree_util.Partial`: another
  Partial of an equal function, with other arrays, runs the same program.

  `fn` is called as it is, without a program,

  * under tracing: the caller compiles, maps or differentiates;
  * with a function that is neither a Partial of arrays nor named in this
    package: it may hold values that change from call to call, which a program
    would not see;
  * with anything unhashable;
  * if `fn` needs numbers while it is traced.

  Args:
    fn: a pure function of pytrees. Under tracing it does not see the values of
      its arrays, so callers validate values before and after.

  Returns:
    A function with the same results up to rounding.
  """

  @functools.partial(jax.jit, static_argnums=0)
  @functools.wraps(fn)
  def program(form: _Form, arrays: list[Any]) -> Any:
    args, kwargs = form.filled(arrays)
    return fn(*args, **kwargs)

  @functools.wraps(fn)
  def call(*args: Any, **kwargs: Any) -> Any:
    split = _split(args, kwargs)
    if split is not None:
      # A TypeError says that a number was needed, or else comes again below.
      try:
        return program(*split)
      except TypeError:
        pass
    return fn(*args, **kwargs)

  return call


# Calls whose results `remembered` keeps; each is a number.
_MAX_REMEMBERED = 1024


def remembered(fn: Function) -> Function:
  """Calls a function once per architecture, where arrays have these shapes.

  Args:
    fn: a function whose result depends on shapes and dtypes of its arrays only,
      and on all that is not an array. It is called as it is where `once` has no
      program.

  Returns:
    A function with the same results.
  """
  kept: collections.OrderedDict[Any, Any] = collections.OrderedDict()

  @functools.wraps(fn)
  def call(*args: Any, **kwargs: Any) -> Any:
    split = _split(args, kwargs)
    if split is None:
      return fn(*args, **kwargs)
    form, arrays = split
    call_key = form, tuple((leaf.shape, leaf.dtype) for leaf in arrays)
    try:
      return kept[call_key]
    except KeyError:
      kept[call_key] = found = fn(*args, **kwargs)
    while len(kept) > _MAX_REMEMBERED:
      kept.popitem(last=False)
    return found

  return call


class _Form(NamedTuple):
  """The arguments of a call except for its arrays; hashable.

  Attributes:
    structure: the tree of all arguments.
    fixed: for each leaf `None`, if it is an array, or else its type and value:
      1, 1.0 and True are equal.
  """

  structure: Any
  fixed: tuple[tuple[type, Any] | None, ...]

  def filled(self, arrays: list[Any]) -> Any:
    """The arguments."""
    rest = iter(arrays)
    return self.structure.unflatten(
      next(rest) if leaf is None else leaf[1] for leaf in self.fixed
    )


def _split(args: Any, kwargs: Any) -> tuple[_Form, list[Any]] | None:
  """The form and the arrays of a call, or `None` if it has no program."""
  if core.get_opaque_trace_state() != _EAGER:
    return None
  leaves, structure = jax.tree.flatten((args, kwargs))
  if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
    return None
  first = jax.tree.leaves(args[0])
  if callable(args[0]) and not (
    isinstance(args[0], jax.tree_util.Partial) and any(map(_is_array, first))
  ):
    return None
  if not all(map(_is_constant, leaves[len(first) :])):
    return None
  form = _Form(
    structure,
    tuple(None if _is_array(leaf) else (type(leaf), leaf) for leaf in leaves),
  )
  try:
    hash(form)
  except TypeError:
    return None
  return form, [leaf for leaf in leaves if _is_array(leaf)]


def _is_array(leaf: Any) -> bool:
  return isinstance(leaf, jax.Array | np.ndarray)


def _is_constant(leaf: Any) -> bool:
  """Whether a leaf is no function, or one that a module of the package names.

  A function defined inside another one holds values of that call.
  """
  if not callable(leaf):
    return True
  home = str(getattr(leaf, "__module__", "")).partition(".")[0]
  return home == _PACKAGE and "<" not in getattr(leaf, "__qualname__", "<")
