"""Public functions on meshes whose axes are part of the types of arrays.

`jax.make_mesh` makes *explicit* axes: the type of an array says how it is
split, and an operation whose result could be split in several ways raises
ShardingTypeError instead of choosing. The functions of this package leave that
choice to the compiler. Their decorator makes explicit axes automatic on entry,
without moving arrays; results are explicit again.

Shape letters: N rows.
"""

import contextlib
import dataclasses
import functools
import inspect
import math
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, PartitionSpec

Function = TypeVar("Function", bound=Callable[..., Any])


def accepted(*, rows: bool) -> Callable[[Function], Function]:
  """A decorator that lets a function take arrays with explicit axes.

  Args:
    rows: whether the first axis of a result holds the rows of the arguments, so
      that it is split in the same way; otherwise results are replicated.

  Returns:
    A decorator. The network `logits_fn` of a decorated function may hold
    explicit arrays, too: it computes on them, with rows split like those of the
    arguments, and raises if it is differentiated from outside. As leaves of a
    `jax.tree_util.Partial` they are treated as ordinary arguments. Without
    explicit axes in the arguments or the context the function is called
    unchanged.
  """

  def decorate(fn: Function) -> Function:
    signature = inspect.signature(fn)

    @functools.wraps(fn)
    def call(*args: Any, **kwargs: Any) -> Any:
      place = _find((args, kwargs))
      if place is None:
        return fn(*args, **kwargs)
      network = _network(signature, args, kwargs, place)
      with place.automatic():
        args, kwargs = jax.tree.map(_to_context, (args, kwargs))
        if network and args:
          args = (network, *args[1:])
        elif network:
          kwargs["logits_fn"] = network
        out = fn(*args, **kwargs)
      with place.explicit():
        return jax.tree.map(place.like_rows if rows else _to_context, out)

    return call

  return decorate


@dataclasses.dataclass(frozen=True)
class _Place:
  """A mesh with explicit axes, and the rows that lie on it.

  Attributes:
    mesh: the mesh in the types of arrays.
    devices: the same mesh with its devices, if a concrete array has them.
    num_rows: N of the first argument that is split by rows, if there is one.
    axis: the mesh axis of these rows, or a tuple of axes.
  """

  mesh: jax.sharding.AbstractMesh
  devices: jax.sharding.Mesh | None
  num_rows: int | None
  axis: Any

  def explicit(self) -> contextlib.AbstractContextManager[None]:
    """The context of the caller's arrays."""
    return _context(self.mesh, self.devices)

  def automatic(self) -> contextlib.AbstractContextManager[None]:
    """The same context without explicit axes."""
    types = tuple(
      AxisType.Auto if kind == AxisType.Explicit else kind
      for kind in self.mesh.axis_types
    )
    names = self.mesh.axis_names
    mesh = self.mesh.update_axis_types(dict(zip(names, types, strict=True)))
    devices = self.devices and jax.sharding.Mesh(
      self.devices.devices, names, axis_types=types
    )
    return _context(mesh, devices)

  def like_rows(self, leaf: Any) -> Any:
    """Returns a result, split by rows if it has N of them."""
    if not _is_array(leaf) or leaf.shape[:1] != (self.num_rows,):
      return _to_context(leaf)
    return _to_context(leaf, PartitionSpec(self.axis))

  def split(self, x: jax.Array) -> jax.Array:
    """Splits any number of rows, if they divide evenly."""
    names = self.axis if isinstance(self.axis, tuple) else (self.axis,)
    parts = math.prod(self.mesh.shape[name] for name in names if name)
    axis = self.axis if x.shape[0] % parts == 0 else None
    return _to_context(x, PartitionSpec(axis))


def _find(arguments: tuple[tuple[Any, ...], dict[str, Any]]) -> _Place | None:
  """The explicit mesh of the arguments, or else of the context, if any."""
  mesh, devices, found = jax.sharding.get_abstract_mesh(), None, None
  for leaf in filter(_is_on_explicit, jax.tree.leaves(arguments)):
    mesh = _mesh(leaf)
    if found not in (None, mesh):
      raise ValueError(
        f"Expected all arguments on one mesh, got axes {dict(found.shape)} and "
        f"{dict(mesh.shape)}; move them to one with jax.device_put."
      )
    found = mesh
    if not isinstance(leaf, jax.core.Tracer):
      devices = leaf.sharding.mesh
  if AxisType.Explicit not in mesh.axis_types:
    return None
  args, kwargs = arguments
  for array in filter(_is_array, (*args, *kwargs.values())):
    spec = jax.typeof(array).sharding.spec
    if array.ndim and spec[0] is not None:
      return _Place(mesh, devices, array.shape[0], spec[0])
  return _Place(mesh, devices, None, None)


def _network(
  signature: inspect.Signature, args: Any, kwargs: Any, place: _Place
) -> Callable[..., Any] | None:
  """`logits_fn` for automatic axes if it holds explicit arrays, else None."""
  if "logits_fn" not in signature.parameters:
    return None
  given = signature.bind(*args, **kwargs).arguments
  fn, x = given["logits_fn"], given["x"]
  if not callable(fn) or not hasattr(x, "dtype"):
    return None
  held = _held(fn, x, place)
  if held == []:
    return None
  for array in (x, *held) if held else ():
    # One by one: only differentiated arrays need a derivative.
    if jnp.issubdtype(array.dtype, jnp.floating):
      _constant(array)

  def network(x: jax.Array, *others: Any) -> Any:
    with jax.sharding.use_abstract_mesh(place.mesh):
      out = fn(place.split(x), *map(_to_context, others))
    return jax.tree.map(_to_context, out)

  return network


def _held(fn: Any, x: Any, place: _Place) -> list[jax.Array] | None:
  """The explicit arrays in a network, except its leaves as a pytree.

  `None` if it cannot be traced: a call in its own context gives the best error.
  """
  leaves, structure = jax.tree.flatten(fn)
  if jax.tree_util.treedef_is_leaf(structure):
    leaves, structure = [], None

  def call(leaves: list[Any], *args: Any) -> Any:
    return (structure.unflatten(leaves) if structure else fn)(*args)

  rows = jax.ShapeDtypeStruct(x.shape, x.dtype)
  with jax.sharding.use_abstract_mesh(place.mesh):
    # A randomised network also takes a key.
    for others in ((), (jax.eval_shape(lambda: jax.random.key(0)),)):
      with contextlib.suppress(Exception):
        consts = jax.make_jaxpr(call)(leaves, rows, *others).consts
        return list(filter(_is_on_explicit, consts))
  return None


@jax.custom_jvp
def _constant(array: jax.Array) -> jax.Array:
  """Returns the array and forbids its differentiation.

  Loops over automatic axes cannot pass derivatives to explicit ones.
  """
  return array


@_constant.defjvp
def _refuse(primals: Any, tangents: Any) -> Any:
  del primals, tangents
  raise ValueError(
    "Expected logits_fn to hold no arrays with explicit mesh axes where its "
    "results are differentiated; pass jax.tree_util.Partial(apply, params) "
    "instead of lambda x: apply(params, x)."
  )


def _is_array(leaf: Any) -> bool:
  return isinstance(leaf, jax.Array)


def _mesh(array: jax.Array) -> Any:
  return jax.typeof(array).sharding.mesh


def _is_on_explicit(leaf: Any) -> bool:
  return _is_array(leaf) and AxisType.Explicit in _mesh(leaf).axis_types


@contextlib.contextmanager
def _context(mesh: Any, devices: Any) -> Iterator[None]:
  """Sets a mesh of types and, outside of any tracing, of devices as well."""
  context = None
  if devices is not None:
    # `set_mesh` raises while JAX is tracing, and is not needed there.
    with contextlib.suppress(ValueError):
      context = jax.set_mesh(devices)
  with context or jax.sharding.use_abstract_mesh(mesh):
    yield


def _to_context(leaf: Any, spec: PartitionSpec | None = None) -> Any:
  """Moves an array to the mesh of the context; other leaves are unchanged.

  With automatic axes the array stays where it is.
  """
  if not _is_array(leaf):
    return leaf
  return jax.sharding.reshard(leaf, spec or PartitionSpec())
