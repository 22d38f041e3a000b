"""PyTorch code on JAX arrays with the derivatives that PyTorch gives.

torchax maps operations to JAX. This module, imported only with PyTorch
installed, adds the rest of PyTorch's semantics: backward rules of
`torch.autograd.Function`, `torch.no_grad`, `.data`, and tensors that a module
makes on the CPU while it runs.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import torch
import torchax
from torch.utils import _mode_utils
from torch.utils import _pytree as pytree

from robust_info.adapters import base
from robust_info.adapters.pytorch import (
  elements,
  operations,
  replaced_methods,
)

_ENVIRONMENT = operations.environment()


@contextlib.contextmanager
def running() -> Iterator["Mode"]:
  """A block in which operations on PyTorch tensors run on JAX arrays.

  Raises:
    ValueError: the block has drawn random numbers.
  """
  if mode := elements.RUNNING.get():
    yield mode
    return
  # Streams of this block only: what is drawn under tracing must not stay.
  key, state = jax.random.key(0), torch.get_rng_state()
  mode = Mode(running)
  token = elements.RUNNING.set(mode)
  try:
    with (
      replaced_methods.METHODS,
      _ENVIRONMENT.override_property(prng=key),
      _eager(),
      grad_mode(),
      _ENVIRONMENT,
      mode,
    ):
      yield mode
      drawn = _ENVIRONMENT.prng_key is not key
  finally:
    elements.RUNNING.reset(token)
  if not torch.equal(torch.get_rng_state(), state):
    torch.set_rng_state(state)
    drawn = True
  if drawn:
    base.refuse_randomness()


def arrays(tensors: Any) -> Any:
  """Tensors of the CPU as JAX arrays; the two share no memory."""
  return _ENVIRONMENT.t2j_copy(pytree.tree_map(torch.clone, tensors))


@contextlib.contextmanager
def grad_mode() -> Iterator[None]:
  """A block with gradients, whatever the caller has switched off."""
  with torch.inference_mode(False), torch.enable_grad():
    yield


def _eager() -> contextlib.AbstractContextManager[Any]:
  """Runs functions of `torch.compile` as they were written."""
  # Nothing is compiled if the compiler was never imported, which is slow.
  dynamo = getattr(torch, "_dynamo", None)
  if dynamo is None:
    return contextlib.nullcontext()
  return torch.compiler.set_stance("force_eager")


class Mode(torch.overrides.TorchFunctionMode):
  """What PyTorch does at each operation, beyond the operation.

  Attributes:
    running: see the function of this name.
    keeps_derivatives: whether `torch.no_grad` and `.data` are ignored. It is so
      in backward rules, which JAX differentiates.
    applied: the class of functions that the `apply` in C calls now, the name
      of the method that it reads next, and whether gradients flow, or None.
  """

  def __init__(self, running: Callable[..., Any]):
    super().__init__()
    self.running = running
    self.keeps_derivatives = False
    self.applied = None
    # id of a CPU tensor that was written to -> it, and the tensor that it
    # became.
    self._became = {}

  def __torch_function__(self, func, types, args=(), kwargs=None):
    args, kwargs = self._moved((args, kwargs or {}))
    if pytree.tree_any(_is_transformed, (args, kwargs)):
      raise ValueError(
        "Expected module to compute its logits without torch.func, got one of "
        "its transformations (vmap, grad, ...); write it as operations on the "
        "whole batch."
      )
    if not pytree.tree_any(_is_ours, (args, kwargs)):
      # Computed now, by PyTorch, so that sizes and conditions may depend on it.
      with _mode_utils.no_dispatch(), torch._C.DisableTorchFunction():
        return func(*args, **kwargs)
    if func in _DETACHED:
      return self.detached(args[0])
    if func is torch.autograd.grad:
      raise ValueError(
        "Expected module to compute its logits without gradients of its own, "
        "got torch.autograd.grad; write the derivative as operations."
      )
    if func in (torch.Tensor.cpu, torch.Tensor.to):
      # There is one device only.
      args = [a for a in args if not _is_cpu(a)]
      kwargs = {k: v for k, v in kwargs.items() if not _is_cpu(v)}
      func = torch.Tensor.to
      if len(args) == 1 and not kwargs:
        return args[0]
    if func is torch.Tensor.new_tensor:
      kwargs = {"dtype": args[0].dtype, **kwargs}
      return self.constant(torch.tensor(*args[1:], **kwargs))
    if func in (torch.tensor, torch.as_tensor) and not pytree.tree_any(
      elements.is_tensor, (args, kwargs)
    ):
      kwargs = {k: v for k, v in kwargs.items() if k != "device"}
      return self.constant(func(*args, **kwargs))
    args, kwargs = self.constants(func, args, kwargs)
    if func is torch.Tensor.__setitem__:  # A tensor that was one of the CPU.
      return args[0].__setitem__(*args[1:])
    try:
      if func in _VALUES:
        return _value(func, args, kwargs)
      return self.observed(func, args, kwargs)
    except torchax.tensor.OperatorNotFound as error:
      raise ValueError(
        "Expected module to consist of operations that torchax knows, got one "
        f"that it lacks ({str(error).rstrip('.')}); write it by others."
      ) from error
    except _UNKNOWN_VALUES as error:
      raise ValueError(
        "Expected module to run the same operations at all inputs, got one "
        f"whose {_name(func)} needs the values of a tensor; write that part as "
        "operations on tensors, for example with torch.where."
      ) from error
    except Exception as error:
      # The innermost function alone; notes of JAX do not count.
      if not any(note.endswith(_RUN) for note in _notes(error)):
        error.add_note(f"in {_name(func)}{_RUN}")
      raise

  def observed(self, func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """Calls a function, without derivatives of its results under no_grad.

    A tensor that the function changes in place has the new values and the old
    derivative, as in PyTorch.
    """
    if torch.is_grad_enabled() or self.keeps_derivatives:
      return func(*args, **kwargs)
    given = [
      t for t in pytree.tree_leaves((args, kwargs)) if elements.is_tensor(t)
    ]
    roots = {id(root): root for root in map(elements.root_of, given)}
    before = {key: root._elem for key, root in roots.items()}
    out = func(*args, **kwargs)
    changed = set()
    for key, root in roots.items():
      if root._elem is not before[key]:
        root._elem = elements.derived_as(root._elem, before[key])
        changed.add(key)
    own = {*map(id, given)}

    def result(tensor):
      if id(tensor) in own or id(elements.root_of(tensor)) in changed:
        return tensor
      return self.detached(tensor)

    return pytree.tree_map_only((elements.Tensor, elements.View), result, out)

  def detached(self, tensor: Any) -> Any:
    """A view of the values without their derivatives."""
    if self.keeps_derivatives:
      return tensor
    return elements.View(tensor, elements.Detached(), _ENVIRONMENT)

  def constant(self, tensor: Any, like: Any = None) -> Any:
    """A tensor of the CPU as a JAX constant.

    Args:
      tensor: the tensor.
      like: dtype that a tensor without axes takes if both are floats: it has no
        part in PyTorch's promotion.
    """
    if tensor.is_meta:
      raise ValueError(
        "Expected module to hold its tensors as parameters, buffers or "
        "attributes, got one that a hook or a closure holds; make it an "
        "attribute."
      )
    with (
      _mode_utils.no_dispatch(),
      torch._C.DisableTorchFunction(),
      # A value that conditions may depend on, also where JAX traces.
      jax.ensure_compile_time_eval(),
    ):
      if like is not None and not tensor.ndim and tensor.is_floating_point():
        tensor = tensor.to(like)
      array = _ENVIRONMENT.t2j_copy(tensor.detach().cpu().clone())
    return elements.Tensor(array, _ENVIRONMENT)

  def inward(self, arrays: Any) -> Any:
    """JAX arrays as tensors."""
    return _ENVIRONMENT.j2t_iso(arrays)

  def outward(self, outputs: Any) -> Any:
    """Tensors as JAX arrays."""
    outputs = pytree.tree_map_only(
      torch.Tensor,
      lambda t: t if elements.is_tensor(t) else self.constant(t),
      self._moved(outputs),
    )
    return _ENVIRONMENT.t2j_iso(outputs)

  def _moved(self, values: Any) -> Any:
    if not self._became:
      return values
    return pytree.tree_map_only(
      torch.Tensor, lambda t: self._became.get(id(t), (t, t))[1], values
    )

  def constants(self, func: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
    """The arguments of an operation, tensors of the CPU as constants."""
    leaves = pytree.tree_leaves((args, kwargs))
    floats = [
      t.dtype
      for t in leaves
      if elements.is_tensor(t) and t.dim() and t.dtype.is_floating_point
    ]
    like = floats[0] if floats else None
    made = {
      id(t): self.constant(t, like)
      for t in leaves
      if isinstance(t, torch.Tensor) and not elements.is_tensor(t)
    }
    written = args[0] if args and _writes(func) else kwargs.get("out")
    if id(written) in made:
      if written._base is not None:
        raise ValueError(
          "Expected module to write into tensors on the device of its input, "
          "got a write into part of a CPU tensor; make that one with "
          "device=x.device."
        )
      made[id(written)] = self.constant(written)
      self._became[id(written)] = written, made[id(written)]
    return pytree.tree_map_only(
      torch.Tensor, lambda t: made.get(id(t), t), (args, kwargs)
    )


def _value(func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
  """What a function makes of the values of a tensor, outside of PyTorch.

  Raises:
    jax.errors.TracerArrayConversionError: JAX traces, so there are no values.
  """
  values = np.array(_ENVIRONMENT.t2j_iso(args[0]))
  if values.dtype.kind == "V":  # bfloat16, which NumPy does not have.
    values = values.astype(np.float32)
  with _mode_utils.no_dispatch(), torch._C.DisableTorchFunction():
    tensor = torch.from_numpy(values).to(args[0].dtype)
    return func(tensor, *args[1:], **kwargs)


def _notes(error: BaseException) -> list[str]:
  return getattr(error, "__notes__", [])


def _name(func: Any) -> str:
  """The public name of a function of PyTorch."""
  return torch.overrides.resolve_name(func) or getattr(func, "__name__", "code")


def _is_ours(value: Any) -> bool:
  """Whether an argument makes an operation one on JAX arrays."""
  if isinstance(value, torch.device):
    return value.type in ("jax", "privateuseone")
  if isinstance(value, str):
    return value.partition(":")[0] == "jax"
  return elements.is_tensor(value)


def _is_transformed(value: Any) -> bool:
  """Whether an argument is a tensor on JAX arrays that `torch.func` wraps."""
  functorch, wrapped = torch._C._functorch, False
  while isinstance(
    value, torch.Tensor
  ) and functorch.is_functorch_wrapped_tensor(value):
    value, wrapped = functorch.get_unwrapped(value), True
  return wrapped and elements.is_tensor(value)


def _is_cpu(value: Any) -> bool:
  return isinstance(value, torch.device | str) and str(value) == "cpu"


def _writes(func: Any) -> bool:
  """Whether an operation writes into its first argument."""
  name = getattr(func, "__name__", "")
  if name.startswith("__"):
    return name == "__setitem__" or (
      name.startswith("__i")
      and name not in ("__index__", "__int__", "__invert__")
    )
  return name.endswith("_")


_RUN = ", as torchax runs it"
# Functions that leave PyTorch, and errors of JAX where it has no values.
_VALUES = (torch.Tensor.numpy, torch.Tensor.tolist, torch.Tensor.__array__)
_UNKNOWN_VALUES = (
  jax.errors.ConcretizationTypeError,
  jax.errors.NonConcreteBooleanIndexError,
  jax.errors.TracerArrayConversionError,
  jax.errors.TracerIntegerConversionError,
)
_DETACHED = (torch.Tensor.data.__get__, torch.Tensor.detach, torch.detach)
