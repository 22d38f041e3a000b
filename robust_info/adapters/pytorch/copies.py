"""Copies of PyTorch modules, and the tensors in them.

All functions import PyTorch when they are called.
"""

import copy
import importlib
from collections.abc import Callable, Iterator
from typing import Any


def tensors(module: Any) -> dict[str, Any]:
  """The tensors of a module, each once, by name.

  These are parameters, buffers, and tensors that are attributes, alone or in
  lists, tuples and dictionaries.
  """
  found, seen = {}, set()
  for name, tensor in _named(module):
    if id(tensor) not in seen:
      seen.add(id(tensor))
      found[name] = tensor
  return found


def first_float(named: dict[str, Any]) -> str | None:
  """Name of the tensor whose dtype the inputs of a module take, if any.

  Args:
    named: see `tensors`.
  """
  nn = importlib.import_module("torch.nn")
  floats = [name for name, t in named.items() if t.is_floating_point()]
  parameters = [n for n in floats if isinstance(named[n], nn.Parameter)]
  return next(iter(parameters + floats), None)


def copied(module: Any, convert: Callable[[Any], Any]) -> Any:
  """A copy of a module with its own tensors, in the same places.

  Args:
    module: the module; it is not changed.
    convert: tensor -> tensor of the copy, called once for each.
  """
  nn = importlib.import_module("torch.nn")
  memo = {}
  for tensor in tensors(module).values():
    new = convert(tensor)
    if isinstance(tensor, nn.Parameter):
      new = nn.Parameter(new, requires_grad=False)
    memo[id(tensor)] = new
  return copy.deepcopy(module, memo)


def uncompiled(module: Any) -> Any:
  """A module with those that `torch.compile` was given, in place.

  Args:
    module: the module, or the result of `torch.compile`.
  """
  dynamo = getattr(importlib.import_module("torch"), "_dynamo", None)
  if dynamo is None:  # Nothing has been compiled.
    return module
  wrapper = dynamo.eval_frame.OptimizedModule
  for part in [*module.modules()]:
    for name, child in part._modules.items():
      if isinstance(child, wrapper):
        part._modules[name] = child._orig_mod
  return module._orig_mod if isinstance(module, wrapper) else module


def on_cpu(tensor: Any) -> Any:
  """The values of a tensor, on the CPU, without history."""
  return tensor.detach().cpu().clone()


def without_values(tensor: Any) -> Any:
  """Shape and dtype of a tensor."""
  return tensor.detach().to("meta")


def put(module: Any, values: dict[str, Any]) -> None:
  """Replaces tensors of a module, in place and without conversions.

  Args:
    module: the module.
    values: names as in `tensors` -> tensors; each goes wherever the module
      holds the tensor of that name.
  """
  pytree = importlib.import_module("torch.utils._pytree")
  new = {id(t): values[name] for name, t in tensors(module).items()}
  for part in module.modules():
    for name, value in vars(part).items():
      if any(id(leaf) in new for leaf in pytree.tree_leaves(value)):
        vars(part)[name] = pytree.tree_map(
          lambda leaf: new.get(id(leaf), leaf), value
        )


def _named(module: Any) -> Iterator[tuple[str, Any]]:
  torch = importlib.import_module("torch")
  pytree = importlib.import_module("torch.utils._pytree")
  for prefix, part in module.named_modules():
    dot = f"{prefix}." if prefix else ""
    for slot, value in vars(part).items():
      for path, leaf in pytree.tree_leaves_with_path(value):
        if isinstance(leaf, torch.Tensor):
          if slot in ("_parameters", "_buffers"):
            yield f"{dot}{path[0].key}", leaf
          else:
            yield f"{dot}{slot}{pytree.keystr(path)}", leaf
