"""The adapter of a network, chosen by the library that it comes from."""

from collections.abc import Callable
from typing import Any

import jax
from jax.typing import ArrayLike
from jaxtyping import Float

from robust_info.adapters import _equinox, _keras, _linen, _nnx
from robust_info.adapters.pytorch.adapter import from_torch

# Module of a base class -> adapter of one object.
_OF_LIBRARY: dict[str, Callable[..., jax.tree_util.Partial]] = {
  "flax.nnx": _nnx.from_nnx,
  "equinox": _equinox.from_equinox,
  "keras": _keras.from_keras,
  "torch.nn": from_torch,
}


def adapt(
  network: Any, *, images: Float[ArrayLike, "N ..."] | None = None
) -> Callable[[jax.Array], jax.Array]:
  """Adapts a network of any library, with the custom of that library.

  Args:
    network: a module of Flax NNX, Equinox, Keras or PyTorch; a pair of a Flax
      Linen module and its variables; or a function images [N, ...] -> logits
      [N, C], which is returned as it is. Normalisation, another layout, or one
      of several outputs needs the adapter of the library itself.
    images: [N, ...] batch on which the adapter compares itself with the
      network; see the package.

  Returns:
    A function images [N, ...] -> logits [N, C].

  Raises:
    TypeError: none of these.
    ValueError: see the adapters.
    ImportError: see the adapters.
  """
  if isinstance(network, tuple) and len(network) == 2:
    module, variables = network
    if _comes_from(module, "flax.linen"):
      return _linen.from_linen(module, variables, images=images)
  for library, adapter in _OF_LIBRARY.items():
    if _comes_from(network, library):
      return adapter(network, images=images)
  # A Linen module is callable only while it is bound to variables.
  if callable(network) and not _comes_from(network, "flax.linen"):
    return network
  raise TypeError(
    "Expected a network to be a function images -> logits, a module of Flax "
    "NNX, Equinox, Keras or PyTorch, or (Linen module, variables), got "
    f"{_described(network)}."
  )


def _comes_from(value: Any, library: str) -> bool:
  """Whether a class of the value is defined in a library, not imported here."""
  return any(
    f"{cls.__module__}.".startswith(f"{library}.") for cls in type(value).mro()
  )


def _described(value: Any) -> str:
  if isinstance(value, tuple):
    return f"a tuple of {', '.join(type(item).__name__ for item in value)}"
  return type(value).__name__
