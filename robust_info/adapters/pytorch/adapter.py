"""PyTorch, through torchax.

torchax runs the module's own Python code on JAX arrays, so that JAX computes
derivatives of any order and mode, where PyTorch lets gradients flow.
"""

import contextlib
import copy
import dataclasses
import importlib
import sys
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

import jax
from jax.typing import ArrayLike

from robust_info.adapters import base
from robust_info.adapters.pytorch import architecture, comparison, copies

# The oldest and the newest PyTorch on which the tests have run.
_KNOWN = "torch>=2.8,<=2.15.0"


@dataclasses.dataclass(frozen=True)
class _Run:
  """Calls a module whose tensors are arguments.

  Attributes:
    module: the module; its tensors have no values.
    first: name of the tensor whose dtype the inputs take, if any.
    key: everything else that the module holds. Modules with equal keys are of
      one architecture.
  """

  module: Any = dataclasses.field(compare=False)
  first: str | None = dataclasses.field(compare=False)
  key: Any

  def __call__(self, variables: Any, x: jax.Array) -> Any:
    if self.first is not None:
      x = x.astype(variables[self.first].dtype)
    # A copy of this call only, which may keep what it computes.
    module = copy.deepcopy(self.module)
    with _mode().running() as mode:
      copies.put(module, mode.inward(variables))
      try:
        return mode.outward(module(mode.inward(x)))
      except AssertionError as error:
        # As modules of torch.export check the sizes that they were made for.
        if not str(error).startswith("Guard failed"):
          raise
        raise ValueError(
          "Expected module to take images [N, ...] of any number N, got one of "
          f"torch.export for other sizes ({error}); pass the module that was "
          "exported, or export it with dynamic_shapes."
        ) from error


def from_torch(
  module: Any,
  *,
  mean: Sequence[float] = (),
  std: Sequence[float] = (),
  channels_first: bool = True,
  output: int | str | None = None,
  images: ArrayLike | None = None,
) -> jax.tree_util.Partial:
  """Adapts a PyTorch module: a copy of it in evaluation mode, on JAX's devices.

  The network computes in the dtype of its parameters; float64 ones become
  float32 unless `jax_enable_x64` is set. Tensors that are plain attributes of
  a module, alone or in lists, count as buffers. Gradients are those of PyTorch:
  backward rules of `torch.autograd.Function` hold, and nothing flows through
  `torch.no_grad`, `detach` and `.data`.

  Modules of one architecture share programs if they can be pickled; others
  share them with themselves only. A class or function that is defined again is
  another architecture.

  Args:
    module: the module, called as `module(x)`; it stays as it is, in its own
      mode.
    mean: see the package.
    std: see the package.
    channels_first: see the package; PyTorch's custom.
    output: see the package.
    images: see the package. Pass a batch for a new architecture: torchax
      rewrites each operation. The gradient of one random combination of logits
      is compared too, at a few of the images, slightly shifted: one more
      program, and two gradients by PyTorch. A module that PyTorch cannot
      differentiate is compared in its logits.

  Returns:
    `logits_fn`; see the package.

  Raises:
    TypeError: `module` is not a PyTorch module.
    ValueError: a bad option, a module of TorchScript, or `images` tell a
      difference.
  """
  torch = _torch()
  base.require(module, torch.nn.Module, "module", "a PyTorch module")
  if any(isinstance(m, torch.jit.ScriptModule) for m in module.modules()):
    raise ValueError(
      "Expected module to run as Python, got one of TorchScript; pass the "
      "module that torch.jit was given."
    )
  with _mode().grad_mode():
    own = copies.copied(module, copies.on_cpu)
    own = copies.uncompiled(own).eval()
    shape = copies.copied(own, copies.without_values)
  tensors = copies.tensors(own)
  first = copies.first_float(tensors)
  dtype = tensors[first].dtype if first else torch.float32

  def original(x):
    with torch.no_grad():
      outputs = own(torch.from_numpy(x.copy()).to(dtype))
    return jax.tree.map(lambda out: out.float().numpy(), outputs)

  network = base.adapted(
    _Run(shape, first, architecture.of_module(shape)),
    _mode().arrays(tensors),
    base.Conversion(mean, std, channels_first, output),
    images=images,
    original=original,
  )
  if images is not None:
    with _mode().grad_mode():
      comparison.compare(network, own, images)
  return network


def _torch() -> ModuleType:
  return base.library("torch", "torch")


def _mode() -> ModuleType:
  """The module that runs PyTorch code on JAX arrays."""
  torch = _torch()
  try:
    with _dropped_operators(torch):
      torchax = base.library("torchax", "torch")
      torchax.default_env()
    # Else PyTorch takes JAX for its accelerator from now on: DataParallel, for
    # one, would move modules there and fail.
    torchax.device_module.is_available = _never
    return importlib.import_module("robust_info.adapters.pytorch.mode")
  except AttributeError as error:
    raise ImportError(
      f"Expected a PyTorch that torchax knows, got {torch.__version__} "
      f"({error}); run pip install '{_KNOWN}'."
    ) from error


def _never() -> bool:
  return False


class _Dropped:
  """Stands for an operator that PyTorch does not have, and for its overloads.

  Attributes:
    name: name of the operator.
  """

  def __init__(self, name: str):
    self.name = name

  def __getattr__(self, name: str) -> "_Dropped":
    if name.startswith("__"):
      raise AttributeError(name)
    return _Dropped(f"{self.name}.{name}")


@contextlib.contextmanager
def _dropped_operators(torch: ModuleType) -> Iterator[None]:
  """Lets torchax 0.0.13 be imported beside PyTorch 2.13 or later.

  At its import torchax lists operators that PyTorch has dropped: those on named
  tensors in 2.13, `cholesky` and `qr` in 2.14. No module can call them. To be
  deleted with a torchax that leaves them out.
  """
  kinds = torch._ops._OpNamespace, torch._ops.OpOverloadPacket
  plain = [kind.__getattr__ for kind in kinds]

  def lenient(plain):
    def get(self, name):
      try:
        return plain(self, name)
      except AttributeError:
        caller = sys._getframe(1).f_globals["__name__"]
        if name.startswith("__") or caller.partition(".")[0] != "torchax":
          raise
        return _Dropped(name)

    return get

  for kind, get in zip(kinds, plain, strict=True):
    kind.__getattr__ = lenient(get)
  try:
    yield
  finally:
    for kind, get in zip(kinds, plain, strict=True):
      kind.__getattr__ = get
