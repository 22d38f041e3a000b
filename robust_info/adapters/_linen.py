"""Flax Linen."""

import dataclasses
import inspect
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from robust_info.adapters import base, undrawn

# Usual names of the argument that chooses the mode -> evaluation.
_EVALUATION = {
  "train": False,
  "training": False,
  "is_training": False,
  "deterministic": True,
  "use_running_average": True,
}


@dataclasses.dataclass(frozen=True)
class _Run:
  """Calls a module."""

  module: Any
  method: str | None
  arguments: tuple[tuple[str, Any], ...]

  def __call__(self, variables: Any, x: jax.Array) -> Any:
    arguments = base.call_arguments(self.arguments)
    return _call(
      base.value_of(self.module), variables, x, method=self.method, **arguments
    )


def from_linen(
  module: Any,
  variables: Any,
  *,
  method: str | None = None,
  arguments: dict[str, Any] | None = None,
  mean: Sequence[float] = (),
  std: Sequence[float] = (),
  channels_first: bool = False,
  output: int | str | None = None,
  images: ArrayLike | None = None,
) -> jax.tree_util.Partial:
  """Adapts a Flax Linen module.

  Args:
    module: an unbound module.
    variables: result of `module.init`, `{"params": ...}` with other
      collections.
    method: name of the method to call, `__call__` unless given.
    arguments: further arguments of the call. Those that choose the mode
      (`train`, `training`, `is_training`, `deterministic`,
      `use_running_average`) are set to evaluation if the method has them.
      `rngs` with keys makes the numbers drawn from them part of the network.
    mean: see the package.
    std: see the package.
    channels_first: see the package.
    output: see the package.
    images: see the package.

  Returns:
    `logits_fn`; see the package.

  Raises:
    TypeError: `module` is not a Linen module, or `variables` are not its own.
    ValueError: a bad option, or `images` tell a difference.
  """
  linen = base.library("flax.linen", "train")
  base.require(module, linen.Module, "module", "a Flax Linen module")
  if not hasattr(variables, "keys") or "params" not in variables:
    raise TypeError(
      "Expected variables to be the result of module.init, "
      f"{{'params': ...}}, got {type(variables).__name__}."
    )
  module = base.snapshot(
    module, linen.Module, lambda module, changed: module.clone(**changed)
  )
  called = getattr(type(module), method or "__call__")
  known = inspect.signature(called).parameters
  evaluation = {k: v for k, v in _EVALUATION.items() if k in known}
  chosen = evaluation | dict(arguments or {})
  run = _Run(base.static(module), method, base.static_arguments(chosen))
  variables = jax.tree.map(jnp.asarray, variables)
  return base.adapted(
    run,
    variables,
    base.Conversion(mean, std, channels_first, output),
    images=images,
    original=lambda x: _call(module, variables, x, method=method, **chosen),
  )


def _call(module, variables, x, **options):
  """The outputs of a batch; keys of all names are those of `params`."""
  if "rngs" in options:
    return module.apply(variables, x, **options)
  return undrawn.call(
    lambda key: module.apply(
      variables, x, rngs=key if key is None else {"params": key}, **options
    )
  )
