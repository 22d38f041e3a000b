"""Networks in Flax Linen, seen by everything else as pure functions.

    model = models.create("cnn", num_classes=10, activation="relu")
    variables = models.init(model, jax.random.key(0), (28, 28, 1))
    logits = models.apply_fn(model)(variables, x)

`variables` is `{"params": ...}`, with `"batch_stats"` beside it for models
that keep running statistics. A model has two modes:

- *evaluation*, `apply_fn(model)(variables, x)`: a deterministic function that
  treats rows independently. Metrics and attacks use this one.
- *training*, `train_fn(model)(variables, x, where)`: rows may depend on each
  other through batch statistics, which are returned updated. Rows masked by
  `where` count for nothing.

Shape letters: N examples, C classes.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from robust_info import _validate
from robust_info.models import layers, small

NAMES = ("logistic", "mlp", "cnn")
ACTIVATIONS = tuple(layers.ACTIVATIONS)


def create(
  name: str,
  *,
  num_classes: int,
  activation: str = "relu",
  features: tuple[int, ...] = (16, 32),
  hidden_sizes: tuple[int, ...] = (100,),
  mean: tuple[float, ...] = (),
  std: tuple[float, ...] = (),
) -> nn.Module:
  """A network by name.

  Args:
    name: `logistic` (linear in the input), `mlp`, or `cnn` (5x5 convolutions
      of stride 2, then dense layers).
    num_classes: C.
    activation: `relu`, `softplus`, `tanh` or `identity`; `logistic` has none.
    features: channels of the convolutions of `cnn`.
    hidden_sizes: widths of the hidden dense layers of `mlp` and `cnn`.
    mean: subtracted from the input per channel; empty means 0.
    std: divides the input per channel; empty means 1.

  Returns:
    The module; hashable, equal for equal arguments.

  Raises:
    ValueError: an unknown name or activation, or sizes below 1.
  """
  _validate.one_of("name", name, NAMES)
  _validate.one_of("activation", activation, ACTIVATIONS)
  _validate.positive_int("num_classes", num_classes)
  for size in (*features, *hidden_sizes):
    _validate.positive_int("each of features and hidden_sizes", size)
  if len(mean) != len(std):
    raise ValueError(
      f"Expected mean and std of one length, got mean={mean}, std={std}."
    )
  normalization = {"mean": tuple(mean), "std": tuple(std)}
  if name == "logistic":
    return small.Logistic(num_classes, **normalization)
  if name == "mlp":
    return small.MLP(
      num_classes, tuple(hidden_sizes), activation, **normalization
    )
  return small.CNN(
    num_classes,
    tuple(features),
    tuple(hidden_sizes),
    activation,
    **normalization,
  )


def init(
  model: nn.Module, key: jax.Array, image_shape: tuple[int, int, int]
) -> dict[str, Any]:
  """Fresh variables for images of one shape.

  Args:
    model: from `create`.
    key: consumed.
    image_shape: (height, width, channels).

  Returns:
    `{"params": ...}` and, for models that keep them, `"batch_stats"`.

  Raises:
    ValueError: `image_shape` is not three sizes, or its channels are not
      those of the model's normalisation.
  """
  if len(image_shape) != 3:
    raise ValueError(
      "Expected image_shape to be (height, width, channels), got "
      f"{tuple(image_shape)}."
    )
  channels = len(model.mean)
  if channels and channels != image_shape[2]:
    raise ValueError(
      f"Expected image_shape with {channels} channels, those of the model's "
      f"normalisation, got image_shape={tuple(image_shape)}."
    )
  return dict(model.init(key, jnp.zeros((1, *image_shape), jnp.float32)))


@functools.cache
def apply_fn(model: nn.Module) -> Callable[[Any, jax.Array], jax.Array]:
  """The evaluation mode: (variables, x [N, H, W, channels]) -> logits [N, C].

  Equal models give the identical function, so that passing it to a compiled
  function as a static argument never compiles twice.
  """

  def apply(variables: Any, x: jax.Array) -> jax.Array:
    return model.apply(variables, x, train=False)

  return apply


@functools.cache
def train_fn(
  model: nn.Module,
) -> Callable[[Any, jax.Array, jax.Array], tuple[jax.Array, Any]]:
  """The training mode.

  Returns:
    A function (variables, x [N, H, W, channels], where [N]) -> (logits
    [N, C], batch_stats), the statistics updated by the unmasked rows; `{}`
    for models that have none.
  """

  def apply(
    variables: Any, x: jax.Array, where: jax.Array
  ) -> tuple[jax.Array, Any]:
    logits, changed = model.apply(
      variables, x, train=True, where=where, mutable=["batch_stats"]
    )
    return logits, changed.get("batch_stats", {})

  return apply
