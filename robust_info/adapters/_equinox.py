"""Equinox."""

import copy
import dataclasses
import inspect
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from robust_info.adapters import base, undrawn


@dataclasses.dataclass(frozen=True)
class _Run:
  """Calls the model that a tree and its parts other than arrays describe.

  Attributes:
    tree: structure of the model and its state, with a place for each array and
      each other leaf.
    others: leaves that are not arrays; `None` in the places of arrays.
    batched: whether the model takes a batch.
    takes_key: whether its call has an argument `key`.
  """

  tree: Any
  others: tuple[Any, ...]
  batched: bool
  takes_key: bool

  def __call__(self, variables: Any, x: jax.Array) -> Any:
    arrays = iter(variables)
    leaves = [
      next(arrays) if leaf is _ARRAY else base.value_of(leaf)
      for leaf in self.others
    ]
    model, state = self.tree.unflatten(leaves)
    return _call(model, state, x, self.batched, self.takes_key)


def _replaced(module: Any, changed: dict[str, Any]) -> Any:
  """The frozen module with other values in some fields."""
  module = copy.copy(module)
  for name, value in changed.items():
    object.__setattr__(module, name, value)
  return module


class _Array:
  """The place of an array among the other leaves."""


_ARRAY = _Array()


def from_equinox(
  model: Any,
  state: Any = None,
  *,
  batched: bool = False,
  mean: Sequence[float] = (),
  std: Sequence[float] = (),
  channels_first: bool = True,
  output: int | str | None = None,
  images: ArrayLike | None = None,
) -> jax.tree_util.Partial:
  """Adapts an Equinox model: a copy of it in inference mode.

  Args:
    model: the model, of one example [...] -> [C] by the custom of Equinox; it
      stays as it is, in its own mode.
    state: `equinox.nn.State` of a stateful model (for example with BatchNorm),
      which is called as `model(x, state)` and returns (logits, state).
    batched: whether the model takes a batch [N, ...] instead of one example.
    mean: see the package.
    std: see the package.
    channels_first: see the package.
    output: see the package.
    images: see the package.

  Returns:
    `logits_fn`; see the package.

  Raises:
    TypeError: `model` is not an Equinox module.
    ValueError: a bad option, or `images` tell a difference.
  """
  equinox = base.library("equinox", "equinox")
  base.require(model, equinox.Module, "model", "an Equinox module")
  if state is not None:
    base.require(state, equinox.nn.State, "state", "an equinox.nn.State")
  model = base.snapshot(
    equinox.nn.inference_mode(model), equinox.Module, _replaced
  )
  leaves, tree = jax.tree.flatten((model, state))
  is_array = [equinox.is_array_like(leaf) and hasattr(leaf, "dtype")
              for leaf in leaves]  # fmt: skip
  others = tuple(
    _ARRAY if array else base.static(leaf)
    for leaf, array in zip(leaves, is_array, strict=True)
  )
  takes_key = "key" in inspect.signature(type(model).__call__).parameters
  return base.adapted(
    _Run(tree, others, batched, takes_key),
    [
      jnp.asarray(leaf)
      for leaf, array in zip(leaves, is_array, strict=True)
      if array
    ],
    base.Conversion(mean, std, channels_first, output),
    images=images,
    original=lambda x: _call(model, state, jnp.asarray(x), batched, takes_key),
  )


def _call(model, state, x, batched, takes_key):
  """The outputs of a batch; a new state is dropped."""

  def outputs(key):
    options = {"key": key} if takes_key else {}

    def one(x):
      if state is None:
        return model(x, **options)
      return model(x, state, **options)[0]

    # BatchNorm names this axis when it trains.
    return one(x) if batched else jax.vmap(one, axis_name="batch")(x)

  return undrawn.call(outputs) if takes_key else outputs(None)
