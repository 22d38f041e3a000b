"""Keras 3 with its JAX backend."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from robust_info.adapters import base


@dataclasses.dataclass(frozen=True)
class _Run:
  """Calls a model without state; a model is equal to itself only."""

  model: base.Identity

  def __call__(self, variables: Any, x: jax.Array) -> Any:
    outputs, after = self.model.value.stateless_call(
      *variables, x, training=False
    )
    # A random layer moves its seed on; what nothing changes is the same object.
    for new, old in zip(after, variables[1], strict=True):
      if new is not old and old.dtype == jnp.uint32:
        base.refuse_randomness()
    return outputs


def from_keras(
  model: Any,
  *,
  mean: Sequence[float] = (),
  std: Sequence[float] = (),
  channels_first: bool = False,
  output: int | str | None = None,
  images: ArrayLike | None = None,
) -> jax.tree_util.Partial:
  """Adapts a Keras model that runs on JAX (KERAS_BACKEND=jax).

  The result holds the variables that the model has now; train it further and
  adapt it again. Programs are compiled per model object.

  Args:
    model: a built model; it is called with `training=False`.
    mean: see the package.
    std: see the package.
    channels_first: see the package.
    output: see the package.
    images: see the package.

  Returns:
    `logits_fn`; see the package.

  Raises:
    TypeError: `model` is not a Keras model.
    ValueError: the backend is another one, the model is not built, a bad
      option, or `images` tell a difference; when called, a network that draws
      random numbers in evaluation mode.
  """
  keras = base.library("keras", "keras")
  base.require(model, keras.Model, "model", "a Keras model")
  if keras.backend.backend() != "jax":
    raise ValueError(
      "Expected Keras to run on JAX, got the backend "
      f"{keras.backend.backend()!r}; set KERAS_BACKEND=jax before keras is "
      "imported."
    )
  if not model.built:
    raise ValueError(
      "Expected a built model, got one without variables; call it once on a "
      "batch."
    )
  variables = tuple(
    [jnp.asarray(variable.value) for variable in kind]
    for kind in (model.trainable_variables, model.non_trainable_variables)
  )
  return base.adapted(
    _Run(base.Identity(model)),
    variables,
    base.Conversion(mean, std, channels_first, output),
    images=images,
    original=lambda x: model(x, training=False),
  )
