"""Flax NNX."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from robust_info.adapters import base, undrawn


@dataclasses.dataclass(frozen=True)
class _Run:
  """Calls the module that a graph definition describes.

  Attributes:
    graphdef: definition of the module, without its arrays.
    is_key: for each leaf of the random streams whether it is a key.
  """

  graphdef: Any
  is_key: tuple[bool, ...]

  def __call__(self, variables: Any, x: jax.Array) -> Any:
    nnx = base.library("flax.nnx", "nnx")
    streams, rest = variables
    leaves, tree = jax.tree.flatten(streams)
    leaves = [
      undrawn.keys(leaf.shape[:-1]) if is_key else leaf
      for leaf, is_key in zip(leaves, self.is_key, strict=True)
    ]
    # A module for this call only: its changes to itself are dropped.
    # Variables of another trace could not enter nnx.scan and its kind.
    rest = jax.tree.map(lambda leaf: leaf, rest)
    module = nnx.merge(self.graphdef, tree.unflatten(leaves), rest)
    return module(x)


def from_nnx(
  module: Any,
  *,
  mean: Sequence[float] = (),
  std: Sequence[float] = (),
  channels_first: bool = False,
  output: int | str | None = None,
  images: ArrayLike | None = None,
) -> jax.tree_util.Partial:
  """Adapts a Flax NNX module: a copy of it in evaluation mode.

  Args:
    module: the module; it stays as it is, in its own mode.
    mean: see the package.
    std: see the package.
    channels_first: see the package.
    output: see the package.
    images: see the package.

  Returns:
    `logits_fn`; see the package.

  Raises:
    TypeError: `module` is not an NNX module.
    ValueError: a bad option, or `images` tell a difference.
  """
  nnx = base.library("flax.nnx", "nnx")
  base.require(module, nnx.Module, "module", "a Flax NNX module")
  copy = nnx.merge(*nnx.split(module))
  copy.eval()
  for _, node in nnx.iter_graph(copy):
    if isinstance(node, nnx.Pytree):
      for name, value in list(vars(node).items()):
        # Parts of the network are copied already, those used twice once.
        vars(node)[name] = base.snapshot(value, nnx.Pytree)
  graphdef, streams, rest = nnx.split(copy, nnx.RngState, ...)
  leaves, tree = jax.tree.flatten(streams)
  is_key = tuple(_is_key(leaf) for leaf in leaves)
  # Keys as numbers, because the leaves of a network are saved and compared.
  streams = tree.unflatten(
    jax.random.key_data(leaf) if _is_key(leaf) else leaf for leaf in leaves
  )
  return base.adapted(
    _Run(graphdef, is_key),
    (streams, rest),
    base.Conversion(mean, std, channels_first, output),
    images=images,
    original=copy,
  )


def _is_key(leaf: Any) -> bool:
  return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
