"""PyTorch, through torchax.

torchax runs the module's own Python code on JAX arrays, so that derivatives of
any order and mode are those of JAX.
"""

import contextlib
import copy
import dataclasses
import pickle
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

import jax
from jax.typing import ArrayLike

from robust_info.adapters import base


@dataclasses.dataclass(frozen=True)
class _Run:
  """Calls a module whose tensors are arguments.

  Attributes:
    module: the module; its own parameters and buffers are not used.
    key: everything else that the module holds. Modules with equal keys are of
      one architecture.
  """

  module: Any = dataclasses.field(compare=False)
  key: Any

  def __call__(self, variables: Any, x: jax.Array) -> Any:
    torch, environment = _libraries()
    floats = [v.dtype for v in variables.values() if _is_float(v)]
    if floats:
      x = x.astype(floats[0])
    tensors, x = environment.j2t_iso((variables, x))
    # A stream of this call only: what a network drew under tracing must not
    # stay in the environment.
    key = jax.random.key(0)
    with environment.override_property(prng=key), environment:
      outputs = torch.func.functional_call(self.module, tensors, (x,))
      if environment.prng_key is not key:
        base.refuse_randomness()
    return environment.t2j_iso(outputs)


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
  a module count as buffers. Modules of one architecture share
  programs if they can be pickled; others share them with themselves only.

  Args:
    module: the module, called as `module(x)`; it stays as it is, in its own
      mode.
    mean: see the package.
    std: see the package.
    channels_first: see the package; PyTorch's custom.
    output: see the package.
    images: see the package. Pass a batch for a new architecture: torchax
      rewrites each operation.

  Returns:
    `logits_fn`; see the package.

  Raises:
    TypeError: `module` is not a PyTorch module.
    ValueError: a bad option, or `images` tell a difference.
  """
  torch, environment = _libraries()
  base.require(module, torch.nn.Module, "module", "a PyTorch module")
  module = copy.deepcopy(module).cpu().eval().requires_grad_(False)
  _register_tensors(torch, module)
  tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}

  def original(x):
    dtypes = [t.dtype for t in tensors.values() if t.is_floating_point()]
    x = torch.from_numpy(x.copy()).to(dtypes[0] if dtypes else torch.float32)
    outputs = module(x)
    return jax.tree.map(lambda out: out.float().numpy(), outputs)

  return base.adapted(
    _Run(module, _architecture(module)),
    environment.t2j_copy(tensors),
    base.Conversion(mean, std, channels_first, output),
    images=images,
    original=original,
  )


def _register_tensors(torch: ModuleType, module: Any) -> None:
  """Makes buffers of tensors that are plain attributes, in place."""
  for part in module.modules():
    for name, value in list(vars(part).items()):
      if isinstance(value, torch.Tensor):
        delattr(part, name)
        part.register_buffer(name, value.detach().cpu(), persistent=False)


def _architecture(module: Any) -> Any:
  """The module without the values of its tensors, to compare."""
  try:
    return pickle.dumps(copy.deepcopy(module).to("meta"))
  except (pickle.PicklingError, AttributeError, TypeError, NotImplementedError):
    return base.Identity(module)


def _is_float(array: jax.Array) -> bool:
  return jax.numpy.issubdtype(array.dtype, jax.numpy.floating)


def _libraries() -> tuple[ModuleType, Any]:
  """PyTorch, and the environment in which torchax runs modules."""
  torch = base.library("torch", "torch")
  with _named_overloads(torch):
    return torch, base.library("torchax", "torch").default_env()


@contextlib.contextmanager
def _named_overloads(torch: ModuleType) -> Iterator[None]:
  """Lets torchax 0.0.13 be imported beside PyTorch 2.13 or later.

  At its import torchax lists operators on named tensors, which PyTorch 2.13 has
  dropped. No module calls them. To be deleted with a torchax that leaves them
  out.
  """
  packet = torch._ops.OpOverloadPacket
  plain = packet.__getattr__

  def lenient(self, name):
    try:
      return plain(self, name)
    except AttributeError:
      if "imname" not in name and "names" not in name:
        raise
      return getattr(self, self.overloads()[0])

  packet.__getattr__ = lenient
  try:
    yield
  finally:
    packet.__getattr__ = plain
