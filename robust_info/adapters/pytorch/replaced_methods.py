"""Methods that bypass the function modes of PyTorch.

Imported only with PyTorch installed.
"""

import functools
import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils import _pytree as pytree

from robust_info.adapters.pytorch import backward_rules, elements, views


class _Methods:
  """Methods that bypass function modes, replaced while a module runs.

  Threads share the replacement: the last to leave undoes it.
  """

  def __init__(self):
    self._lock, self._users, self._plain = threading.Lock(), 0, {}

  def __enter__(self):
    with self._lock:
      if not self._users:
        for owner, name, make in _REPLACED:
          plain = vars(owner).get(name)
          self._plain[owner, name] = plain
          setattr(owner, name, make(plain))
      self._users += 1

  def __exit__(self, *_):
    with self._lock:
      self._users -= 1
      if not self._users:
        for (owner, name), plain in self._plain.items():
          if plain is None:
            delattr(owner, name)
          else:
            setattr(owner, name, plain)


def _observed(plain: Callable[..., Any]) -> Callable[..., Any]:
  @functools.wraps(plain)
  def method(self, *args, **kwargs):
    mode = elements.RUNNING.get()
    if mode is None:
      return plain(self, *args, **kwargs)
    args, kwargs = mode.constants(None, args, kwargs)
    return mode.observed(plain, (self, *args), kwargs)

  return method


def _write(plain: Callable[..., Any]) -> Callable[..., Any]:
  write = _observed(views.write)

  @functools.wraps(plain)
  def method(self, index, value):
    if elements.RUNNING.get() is None:
      plain(self, index, value)
    else:
      write(self, index, value)

  return method


def _detach(plain: Callable[..., Any]) -> Callable[..., Any]:
  @functools.wraps(plain)
  def method(self):
    mode = elements.RUNNING.get()
    return plain(self) if mode is None else mode.detached(self)

  return method


def _data(plain: property) -> property:
  def write(self, other):
    mode = elements.RUNNING.get()
    if mode is None:
      plain.fset(self, other)
    else:
      self._elem = elements.derived_as(mode.outward(other), self._elem)

  return property(_detach(plain.fget), write)


def _pytorchs(plain: Callable[..., Any]) -> Callable[..., Any]:
  """PyTorch's method, which the mode sees, in place of that of torchax."""
  seen = getattr(torch.Tensor, plain.__name__)

  @functools.wraps(plain)
  def method(self, *args, **kwargs):
    call = plain if elements.RUNNING.get() is None else seen
    return call(self, *args, **kwargs)

  return method


def _type_as(plain: Callable[..., Any]) -> Callable[..., Any]:
  """A method that makes a tensor; that of torchax 0.0.13 changes its own."""

  @functools.wraps(plain)
  def method(self, other):
    if elements.RUNNING.get() is None:
      return plain(self, other)
    return self.to(other.dtype)

  return method


def _apply(plain: Any) -> classmethod:
  def apply(cls, *args, **kwargs):
    mode = elements.RUNNING.get()
    if mode is not None and _has_ours(args, kwargs):
      return backward_rules.apply(mode, cls, args, kwargs)
    if plain is None:
      return super(_BASE, cls).apply(*args, **kwargs)
    return plain.__get__(None, cls)(*args, **kwargs)

  return classmethod(apply)


def _attribute(_: None) -> Callable[[type, str], Any]:
  """Looks names up in a class of functions; sees `apply` where it is C.

  PyTorch 2.14 has `apply` in C, and modules hold it: `rounded = Rounded.apply`.
  It then reads `_backward_cls`, which nothing else does, calls `forward`, and
  `setup_context` if the class has its own.
  """

  def get(cls, name):
    found = type.__getattribute__(cls, name)
    mode = elements.RUNNING.get()
    if mode is None:
      return found
    if name == "_backward_cls":
      # Before `apply` switches gradients off.
      mode.applied = cls, "forward", torch.is_grad_enabled()
    elif mode.applied is not None and mode.applied[:2] == (cls, name):
      *_, gradients = mode.applied
      mode.applied = None
      if name == "setup_context":
        return _mark_dirty
      return functools.partial(_forward, mode, cls, found, gradients)
    return found

  return get


def _forward(
  mode: Any,
  cls: Any,
  plain: Callable[..., Any],
  gradients: bool,
  *args: Any,
  **kwargs: Any,
) -> Any:
  """`forward` as the `apply` in C calls it."""
  if not _has_ours(args, kwargs):
    return plain(*args, **kwargs)
  context = None
  if not backward_rules.sets_context_up(cls):
    context, *args = args
  with torch.set_grad_enabled(gradients):
    out = backward_rules.apply(mode, cls, args, kwargs)
  if context is None:
    mode.applied = cls, "setup_context", gradients
  else:
    _mark_dirty(context, args, out)
  return out


def _mark_dirty(context: Any, inputs: Sequence[Any], output: Any) -> None:
  """Lets the `apply` in C return the inputs that the function has changed."""
  outputs = {id(t) for t in pytree.tree_leaves(output)}
  context.mark_dirty(*(t for t in inputs if id(t) in outputs))


def _has_ours(args: Any, kwargs: Any) -> bool:
  return pytree.tree_any(elements.is_tensor, (args, kwargs))


# Modules may hold the method `apply` of a function. Before PyTorch 2.14 it
# calls that of its base class.
_BASE = torch.autograd.function._SingleLevelFunction
_REPLACED = (
  (elements.Tensor, "__setitem__", _write),
  (elements.Tensor, "flatten", _pytorchs),
  (elements.Tensor, "numpy", _pytorchs),
  (elements.Tensor, "tolist", _pytorchs),
  (elements.Tensor, "detach", _detach),
  (elements.Tensor, "data", _data),
  (elements.Tensor, "type_as", _type_as),
  (elements.View, "__setitem__", _write),
  (_BASE, "apply", _apply),
  (torch.autograd.Function, "apply", _apply),
  (type(_BASE), "__getattribute__", _attribute),
)
# A context in which they are replaced.
METHODS = _Methods()
