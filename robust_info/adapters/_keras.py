"""Keras 3 with its JAX backend."""

import dataclasses
import itertools
import json
from collections.abc import Iterator, Sequence
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
    places: of each variable the place of its value.
  """

  model: base.Identity
  key: Any
  places: dict[int, int] = dataclasses.field(compare=False)

  def __call__(self, variables: Any, x: jax.Array) -> Any:
    # Which variables are trainable may have changed.
    trainable, rest = (
      [variables[self._place(variable)] for variable in kind]
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

  def _place(self, variable: Any) -> int:
    if id(variable) not in self.places:
      raise ValueError(
        f"Expected the variables that the model had, got also {variable.path}; "
        "adapt the model again."
      )
    return self.places[id(variable)]


def _key(keras: Any, model: Any) -> Any:
  """A value that changes with the layers of a model; its own if unknown.

  The configuration of a layer of Keras is complete but for the functions that
  it names; one of the user's own may leave anything out.
  """
  layers = [*_layers(keras, model)]
  if any(type(part).__module__.split(".")[0] != "keras" for part in layers):
    return base.Identity(object())
  functions = (getattr(part, "activation", None) for part in layers)
  return json.dumps(model.get_config(), default=repr), *map(
    base.static, functions
  )


def _layers(keras: Any, model: Any) -> Iterator[Any]:
  """The model, its layers, and those of models among them."""
  yield model
  for part in model.layers:
    if isinstance(part, keras.Model):
      yield from _layers(keras, part)
    else:
      yield part


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
  places = {id(variable): k for k, variable in enumerate(variables)}
  return base.adapted(
    _Run(base.Identity(model), _key(keras, model), places),
    [jnp.asarray(variable.value) for variable in variables],
    base.Conversion(mean, std, channels_first, output),
    images=images,
    original=lambda x: model(x, training=False),
  )
