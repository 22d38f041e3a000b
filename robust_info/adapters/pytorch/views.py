"""Views as PyTorch has them: a write into one reaches all that share memory.

torchax has views of slices only; its other operations that give views copy, and
so do some that write. A write into a copy would be lost without a word.
Imported only with PyTorch installed.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torchax
from torch.utils import _mode_utils
from torchax import view
from torchax.ops import op_base, ops_registry

from robust_info.adapters.pytorch import elements

_ATEN = torch.ops.aten


class Selection(view.ViewInfo):
  """A view of chosen elements in some order.

  Attributes:
    function: takes an array to the array of its chosen elements.
  """

  def __init__(self, function: Callable[[jax.Array], jax.Array]):
    super().__init__(view.ViewInfoType.NARROW)
    self.function = function

  def transform_tensor(self, jax_array):
    """The view of an array."""
    return self.function(jax_array)

  def update_tensor(self, new_value, jax_array):
    """The array after a write into its view."""
    shown = jax.eval_shape(self.function, jax_array)
    new_value = jnp.broadcast_to(new_value, shown.shape).astype(shown.dtype)
    if not jnp.issubdtype(shown.dtype, jnp.inexact):
      places = jnp.arange(jax_array.size).reshape(jax_array.shape)
      flat = jax_array.ravel().at[self.function(places).ravel()]
      return flat.set(new_value.ravel()).reshape(jax_array.shape)
    placed = jax.linear_transpose(self.function, jax_array)
    if shown.size == jax_array.size:
      return placed(new_value)[0]
    [chosen] = placed(jnp.ones(shown.shape, shown.dtype))
    return jnp.where(chosen != 0, placed(new_value)[0], jax_array)

  def calculate_output_shape(self, source):
    """The shape of the view of an array."""
    return jax.eval_shape(self.function, source).shape


class View(elements.View):
  """A view with the strides that PyTorch gives it.

  By them PyTorch tells where `reshape` and `contiguous` copy.
  """

  @staticmethod
  def __new__(cls, parent, info, env, shape):
    """A wrapper of the shape and strides of a tensor without values."""
    return torch.Tensor._make_wrapper_subclass(
      cls,
      shape.shape,
      strides=shape.stride(),
      storage_offset=shape.storage_offset(),
      dtype=parent.dtype,
      device="meta",
    )

  def __init__(self, parent, info, env, shape):
    super().__init__(parent, info, env)
    self._shown = None, None

  def jax(self):
    """The array, computed again only after a write."""
    source = self.parent.jax()
    if self._shown[0] is not source:
      self._shown = source, self.view_info.transform_tensor(source)
    return self._shown[1]


def operations(environment: Any) -> dict[Any, Callable[..., Any]]:
  """Operators of PyTorch that give views or write -> functions that do so."""
  found = _in_place(environment)
  for operator in _GIVE_VIEWS:
    if operator in ops_registry.all_aten_ops:
      plain = ops_registry.all_aten_ops[operator].func
    else:
      plain = ops_registry.all_aten_ops[operator.overloadpacket].func
    found[operator] = functools.partial(_view, environment, operator, plain)
  for operator, plain in _OWN_VIEWS.items():
    found[operator] = functools.partial(_view, environment, operator, plain)
  found[_ATEN.as_strided_.default] = _restride
  found[_ATEN.copy_.default] = functools.partial(_copy, environment)
  found[torch.Tensor.__getitem__] = functools.partial(_item, environment)
  return found


def _view(environment, operator, plain, tensor, *args, **kwargs):
  """A view, or a list of them."""
  shapes = _on_meta(lambda x: operator(x, *args, **kwargs), tensor)

  def one(place, shape):
    def function(array):
      out = plain(array, *args, **kwargs)
      return out if place is None else out[place]

    return View(tensor, Selection(function), environment, shape)

  if isinstance(shapes, torch.Tensor):
    return one(None, shapes)
  return [one(place, shape) for place, shape in enumerate(shapes)]


def _in_place(environment: Any) -> dict[Any, Any]:
  """Operators that write into their first argument, but those of torchax."""
  found = {
    operator: functools.partial(_reshape_in_place, function)
    for operator, function in _RESHAPED_IN_PLACE.items()
  }
  for name in torch._C._dispatch_get_all_op_names():
    full, _, overload = name.partition(".")
    library, _, base = full.partition("::")
    if library != "aten" or not base.endswith("_") or base in _RESIZE:
      continue
    plain = base[:-1]
    if base.startswith("__i"):  # Operators of Python, as __iand__.
      plain = f"__{base[3:]}"
    overload = overload or "default"
    try:
      operator = getattr(getattr(_ATEN, base), overload)
      function = getattr(getattr(_ATEN, plain), overload)
      environment._get_op_or_decomp(function)
    except (AttributeError, torchax.tensor.OperatorNotFound):
      continue
    try:
      knows = environment._get_op_or_decomp(operator).is_view_op
    except torchax.tensor.OperatorNotFound:
      knows = False
    first, *_ = operator._schema.arguments
    if not knows and first.alias_info is not None and first.alias_info.is_write:
      found[operator] = op_base.InplaceOp(function)
  return found


def _reshape_in_place(function, tensor, *args, **kwargs):
  if isinstance(tensor, elements.View):
    name = str(function).removeprefix("aten.").partition(".")[0]
    raise ValueError(
      f"Expected module to reshape views by new tensors, got {name}_ on a "
      f"view; write x = x.{name}(...)."
    )
  tensor._elem = function(tensor, *args, **kwargs).jax()
  return tensor


def _unbind(x, dim=0):
  return [
    jax.lax.index_in_dim(x, i, dim, keepdims=False) for i in range(x.shape[dim])
  ]


def _transposed(x):
  return jnp.swapaxes(x, -1, -2)


def write(tensor: Any, index: Any, value: Any) -> None:
  """`tensor[index] = value`, for tensors and views."""
  whole = tensor.torch() if isinstance(tensor, elements.View) else tensor
  _WRITE(whole, _parts(index), value)
  if whole is not tensor:
    tensor.update(whole)


def _item(environment, tensor, index):
  """The view by a basic index, or the elements by an advanced one."""
  parts = _parts(index)
  if any(isinstance(p, torch.Tensor | np.ndarray | bool) for p in parts):
    array, parts = environment.t2j_iso((tensor, parts))
    return environment.j2t_iso(array[parts])
  shape = _on_meta(lambda x: x[parts], tensor)
  return View(tensor, view.NarrowInfo(parts), environment, shape)


def _parts(index: Any) -> tuple[Any, ...]:
  """An index as a tuple, with arrays in place of lists."""
  if isinstance(index, list):
    numbers = all(isinstance(i, int) for i in index)
    index = (index,) if numbers else tuple(index)
  parts = index if isinstance(index, tuple) else (index,)
  return tuple(np.array(p) if isinstance(p, list) else p for p in parts)


def _restride(tensor, size, stride, storage_offset=None):
  """Accepts other strides where the elements stay in their places.

  PyTorch gives means over images the layout of its inputs in this way.
  """
  plain = torch.empty(tensor.shape, device="meta").stride()
  moved = any(
    length > 1 and new != old
    for length, new, old in zip(size, stride, plain, strict=False)
  )
  if tuple(size) != tuple(tensor.shape) or moved or storage_offset:
    raise torchax.tensor.OperatorNotFound("as_strided_ that moves elements")
  return tensor


def _copy(environment, tensor, source, non_blocking=False):
  """Writes values into a tensor or view, with PyTorch's broadcasting."""
  if not elements.is_tensor(source):
    source = environment.to_xla(source)
  new = jnp.broadcast_to(source.jax(), tensor.shape)
  new = new.astype(tensor.jax().dtype)
  if isinstance(tensor, elements.View):
    tensor.update(new)
  else:
    tensor._elem = new
  return tensor


def _on_meta(function, tensor):
  """What a function gives for a tensor of this shape, without values."""
  with _mode_utils.no_dispatch(), torch._C.DisableTorchFunction():
    if isinstance(tensor, View):
      strides = tensor.stride()
      return function(torch.empty_strided(tensor.shape, strides, device="meta"))
    return function(torch.empty(tensor.shape, device="meta"))


_WRITE = elements.Tensor.__setitem__
_OWN_VIEWS = {
  _ATEN.mT.default: _transposed,
  _ATEN.unbind.int: _unbind,
}
_GIVE_VIEWS = (
  _ATEN.diagonal.default,
  _ATEN.expand.default,
  _ATEN.permute.default,
  _ATEN.select.int,
  _ATEN.slice.Tensor,
  _ATEN.split.Tensor,
  _ATEN.split_with_sizes.default,
  _ATEN.squeeze.default,
  _ATEN.squeeze.dim,
  _ATEN.squeeze.dims,
  _ATEN.t.default,
  _ATEN.transpose.int,
  _ATEN.unfold.default,
  _ATEN.unsqueeze.default,
  _ATEN.view.default,
)
# Operators that give their first argument another shape.
_RESHAPED_IN_PLACE = {
  _ATEN.squeeze_.default: _ATEN.squeeze.default,
  _ATEN.squeeze_.dim: _ATEN.squeeze.dim,
  _ATEN.squeeze_.dims: _ATEN.squeeze.dims,
  _ATEN.t_.default: _ATEN.t.default,
  _ATEN.transpose_.default: _ATEN.transpose.int,
  _ATEN.unsqueeze_.default: _ATEN.unsqueeze.default,
}
_RESIZE = ("as_strided_", "resize_", "resize_as_", "set_")
