"""Haiku."""

import dataclasses
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from robust_info.adapters import base, undrawn


@dataclasses.dataclass(frozen=True)
class _Run:
  """Calls `apply` of a transformed function."""

  apply: Callable[..., Any]
  has_state: bool
  has_rng: bool
  arguments: tuple[tuple[str, Any], ...]

  def __call__(self, variables: Any, x: jax.Array) -> Any:
    params, state = variables
    before = (params, state) if self.has_state else (params,)
    options = base.call_arguments(self.arguments)
    if self.has_rng:
      outputs = undrawn.call(lambda key: self.apply(*before, key, x, **options))
    else:
      outputs = self.apply(*before, x, **options)
    return outputs[0] if self.has_state else outputs


def from_haiku(
  apply: Callable[..., Any],
  params: Any,
  state: Any = None,
  *,
  arguments: dict[str, Any] | None = None,
  mean: Sequence[float] = (),
  std: Sequence[float] = (),
  channels_first: bool = False,
  output: int | str | None = None,
  images: ArrayLike | None = None,
) -> jax.tree_util.Partial:
  """Adapts a function that `haiku.transform` has transformed.

  Args:
    apply: `.apply` of the result of `haiku.transform` or
      `haiku.transform_with_state`, with or without `without_apply_rng`. It
      may ask for random keys; outputs that depend on random numbers raise.
    params: parameters.
    state: state, for `haiku.transform_with_state`.
    arguments: further arguments of the function, for example
      `{"is_training": False}`.
    mean: see the package.
    std: see the package.
    channels_first: see the package.
    output: see the package.
    images: see the package.

  Returns:
    `logits_fn`; see the package.

  Raises:
    TypeError: `apply` is not such a function.
    ValueError: a bad option, or `images` tell a difference.
  """
  if not callable(apply):
    raise TypeError(
      "Expected apply to be the apply function of haiku.transform, got "
      f"{type(apply).__name__}."
    )
  names = list(inspect.signature(apply).parameters)
  if ("state" in names) != (state is not None):
    takes = "takes" if state is None else "does not take"
    raise TypeError(
      f"Expected state as apply has it, got an apply that {takes} a state with "
      f"state={None if state is None else '...'}."
    )
  run = _Run(
    apply,
    state is not None,
    "rng" in names,
    base.static_arguments(arguments or {}),
  )
  variables = jax.tree.map(jnp.asarray, (params, state))
  return base.adapted(
    run,
    variables,
    base.Conversion(mean, std, channels_first, output),
    images=images,
    original=lambda x: run(variables, jnp.asarray(x)),
  )
