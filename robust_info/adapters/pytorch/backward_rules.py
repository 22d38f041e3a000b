"""`torch.autograd.Function` as `jax.custom_vjp`.

Imported only with PyTorch installed.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import torch
from torch.utils import _pytree as pytree
from torch.utils import checkpoint


def apply(mode: Any, cls: Any, args: Sequence[Any], kwargs: Any) -> Any:
  """Calls a function whose backward rule JAX is to use.

  Args:
    mode: the mode of the module that runs.
    cls: the subclass of `torch.autograd.Function`.
    args: arguments of `cls.apply`.
    kwargs: the same.

  Returns:
    The outputs, as those of `cls.apply`.
  """
  if cls is checkpoint.CheckpointFunction:
    function, _, *rest = args
    return function(*rest)
  call = _Call(mode, cls, args, kwargs)
  function = jax.custom_vjp(call.forward)
  function.defvjp(lambda *arrays: (function(*arrays), arrays), call.backward)
  call.function = function
  return call.finished(function(*call.arrays))


def sets_context_up(cls: Any) -> bool:
  """Whether a subclass of `torch.autograd.Function` has its `setup_context`."""
  plain = torch.autograd.function._SingleLevelFunction.setup_context
  return cls.setup_context is not plain


class _Context(torch.autograd.function.FunctionCtx):
  """The `ctx` of one forward and one backward pass."""

  def __init__(self, cls: Any, needs_input_grad: tuple[bool, ...]):
    self._forward_cls, self.needs_input_grad = cls, needs_input_grad
    self.to_save, self.dirty_tensors, self.non_differentiable = (), (), ()

  @property
  def saved_tensors(self) -> tuple[Any, ...]:
    return self.to_save


class _Call:
  """One call of a function.

  Attributes:
    arrays: the values of the tensors among its arguments.
    function: `forward` with the backward rule, for rules that use an output.
  """

  def __init__(self, mode, cls, args, kwargs):
    self._mode, self._cls = mode, cls
    self._sets_context_up = sets_context_up(cls)
    if self._sets_context_up:
      bound = inspect.signature(cls.forward).bind(*args, **kwargs)
      bound.apply_defaults()
      args, kwargs = bound.args, bound.kwargs
    self._leaves, self._form = pytree.tree_flatten((args, kwargs))
    self._places = [
      i for i, t in enumerate(self._leaves) if isinstance(t, torch.Tensor)
    ]
    tensors = [self._leaves[i] for i in self._places]
    self.arrays = mode.outward(tensors)
    # Tensors inside lists and dictionaries have no gradient, as in PyTorch.
    own = [id(t) for t in args]
    self._needs = tuple(
      isinstance(t, torch.Tensor) and t.dtype.is_floating_point for t in args
    )
    self._gradient_of = [
      own.index(id(t)) if id(t) in own else None for t in tensors
    ]
    self._outputs, self._output_form = [], None
    self._constant, self._written = (), {}
    self.function = self.forward

  def forward(self, *arrays: jax.Array) -> list[jax.Array]:
    """The outputs that are tensors; the others are kept at the side."""
    with self._mode.running() as mode:
      context, given, out = self._run(mode, arrays)
      leaves, self._output_form = pytree.tree_flatten(out)
      tensors = [t for t in leaves if isinstance(t, torch.Tensor)]
      self._outputs = [
        None if isinstance(t, torch.Tensor) else t for t in leaves
      ]
      self._constant = _positions(context.non_differentiable, tensors)
      self._written = {
        _position(t, tensors): _position(t, given)
        for t in context.dirty_tensors
      }
      return mode.outward(tensors)

  def backward(
    self, arrays: Sequence[jax.Array], cotangents: Sequence[jax.Array]
  ) -> tuple[Any, ...]:
    """The gradients by the backward rule."""
    # JAX may ask for them after the module has run.
    with self._mode.running() as mode:
      context, _, out = self._run(mode, arrays)
      leaves = pytree.tree_leaves(out)
      self._give_derivatives(mode, context, leaves, arrays)
      rest = iter(map(_filled, cotangents))
      given = [
        mode.inward(next(rest)) if isinstance(t, torch.Tensor) else None
        for t in leaves
      ]
      before = mode.keeps_derivatives
      mode.keeps_derivatives = True
      try:
        with torch.enable_grad():
          gradients = self._rule()(context, *given)
      finally:
        mode.keeps_derivatives = before
      if not isinstance(gradients, tuple | list):
        gradients = (gradients,)
      return tuple(
        self._gradient(mode, gradients, place, array)
        for place, array in zip(self._gradient_of, arrays, strict=True)
      )

  def finished(self, arrays: Sequence[jax.Array]) -> Any:
    """The outputs of `forward` as the caller of the function sees them."""
    arrays = list(arrays)
    for i in self._constant:
      arrays[i] = jax.lax.stop_gradient(arrays[i])
    tensors = self._mode.observed(self._mode.inward, (arrays,), {})
    for i, place in self._written.items():
      target = self._leaves[self._places[place]]
      target.copy_(tensors[i])
      tensors[i] = target
    rest = iter(tensors)
    leaves = [next(rest) if t is None else t for t in self._outputs]
    return pytree.tree_unflatten(leaves, self._output_form)

  def _run(
    self, mode: Any, arrays: Sequence[jax.Array]
  ) -> tuple[_Context, list[Any], Any]:
    """The context, the tensors of the arguments, and the outputs."""
    leaves, given = list(self._leaves), mode.inward(list(arrays))
    for place, tensor in zip(self._places, given, strict=True):
      leaves[place] = tensor
    args, kwargs = pytree.tree_unflatten(leaves, self._form)
    context = _Context(self._cls, self._needs)
    with torch.no_grad():
      if self._sets_context_up:
        out = self._cls.forward(*args, **kwargs)
        self._cls.setup_context(context, args, out)
      else:
        out = self._cls.forward(context, *args, **kwargs)
    return context, given, out

  def _give_derivatives(self, mode, context, leaves, arrays) -> None:
    """Lets outputs that a rule keeps have the derivative of the function."""
    kept = {id(t) for t in pytree.tree_leaves(vars(context))}
    if not any(id(t) in kept for t in leaves if isinstance(t, torch.Tensor)):
      return
    tensors = [t for t in leaves if isinstance(t, torch.Tensor)]
    outputs = mode.inward(list(self.function(*arrays)))
    new = {id(old): out for old, out in zip(tensors, outputs, strict=True)}
    for name, value in vars(context).items():
      vars(context)[name] = pytree.tree_map(
        lambda leaf: new.get(id(leaf), leaf), value
      )

  def _rule(self) -> Callable[..., Any]:
    plain = torch.autograd.Function.vjp
    return self._cls.backward if self._cls.vjp is plain else self._cls.vjp

  def _gradient(self, mode, gradients, place, array) -> jax.Array | None:
    if place is None or not jnp.issubdtype(array.dtype, jnp.inexact):
      return None
    if place >= len(gradients):
      raise ValueError(
        f"Expected {self._cls.__name__}.backward to return a gradient of every "
        f"argument, got {len(gradients)}; return None for those without."
      )
    if gradients[place] is None:
      return jnp.zeros_like(array)
    found = mode.outward(gradients[place]).astype(array.dtype)
    if found.shape == array.shape:
      return found
    # As PyTorch, the sum over axes that the forward pass broadcasts.
    [found] = jax.linear_transpose(
      lambda a: jnp.broadcast_to(a, found.shape), array
    )(found)
    return found


def _filled(cotangent: Any) -> jax.Array:
  """A cotangent as an array, also that of integers."""
  if cotangent.dtype == jax.dtypes.float0:
    return jnp.zeros(cotangent.shape, jnp.float32)
  return cotangent


def _position(tensor: Any, tensors: Sequence[Any]) -> int:
  return next(i for i, other in enumerate(tensors) if other is tensor)


def _positions(some: Sequence[Any], tensors: Sequence[Any]) -> list[int]:
  return [i for i, t in enumerate(tensors) if any(t is s for s in some)]
