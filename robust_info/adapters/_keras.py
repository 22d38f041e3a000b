"""Keras 3 with its JAX backend."""

import dataclasses
import itertools
import json
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from robust_info.adapters import base


@dataclasses.dataclass(frozen=True)
class _Run:
  """Calls a model without state.

  Attributes:
    model: the model, which is equal to itself only.
    key: everything else that its program depends on.
    order: its variables, in the order of their values.
  """

  model: base.Identity
  key: Any
  order: tuple[base.Identity, ...]

  def __call__(self, variables: Any, x: jax.Array) -> Any:
    values = dict(zip(self.order, variables, strict=True))
    # Which variables are trainable may have changed.
    trainable, rest = (
      [_value(values, variable) for variable in kind]
      for kind in _kinds(self.model.value)
    )
    outputs, after = self.model.value.stateless_call(
      trainable, rest, x, training=False
    )
    # A random layer moves its seed on; what nothing changes is the same object.
    for new, old in zip(after, rest, strict=True):
      if new is not old and old.dtype == jnp.uint32:
        base.refuse_randomness()
    return outputs


def _value(values: dict[base.Identity, Any], variable: Any) -> Any:
  held = base.Identity(variable)
  if held not in values:
    raise ValueError(
      f"Expected the variables that the model had, got also {variable.path}; "
      "adapt the model again."
    )
  return values[held]


def _key(model: Any) -> Any:
  """A value that changes with the layers of a model; its own if unknown.

  The configuration of a layer of Keras is complete but for the functions that
  it names; one of the user's own may leave anything out.
  """
  # With the layers of models and of wrappers among them.
  layers = [*model._flatten_layers()]
  if any(type(part).__module__.split(".")[0] != "keras" for part in layers):
    return base.Identity(object())
  functions = (
    base.static(getattr(part, name, None))
    for part in layers
    for name in ("activation", "function")
  )
  return json.dumps(model.get_config(), default=repr), *functions


def _kinds(model: Any) -> tuple[list[Any], list[Any]]:
  return model.trainable_variables, model.non_trainable_variables


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
  adapt it again, also after any other change of the model. Programs are
  compiled per model object; per adaptation, if the model or a layer is of a
  class of your own.

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
  variables = [*itertools.chain(*_kinds(model))]
  order = tuple(map(base.Identity, variables))
  return base.adapted(
    _Run(base.Identity(model), _key(model), order),
    [jnp.asarray(variable.value) for variable in variables],
    base.Conversion(mean, std, channels_first, output),
    images=images,
    original=lambda x: model(x, training=False),
  )
