"""Networks in Flax Linen, exposed to other packages as pure functions.

    model = models.create("cnn", num_classes=10, activation="relu")
    variables = models.init(model, jax.random.key(0), (28, 28, 1))
    logits = models.apply_fn(model)(variables, x)

`variables` is `{"params": ...}`, together with `"batch_stats"` for models that
keep running statistics. A model has two modes:

- *evaluation*, `apply_fn(model)(variables, x)`: a deterministic function that
  treats rows independently. Metrics and attacks use this one.
- *training*, `train_fn(model)(variables, x, where)`: rows may depend on each
  other through batch statistics, which are returned updated. Rows masked by
  `where` do not count.

Shape letters: N examples, C classes.
"""

import dataclasses
import functools
import inspect
import math
import numbers
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import errors
from flax import linen as nn

from robust_info import _validate
from robust_info import config as config_lib
from robust_info._xla import loops
from robust_info.config import registry
from robust_info.models import layers, residual, small, vgg

NAMES = config_lib.MODELS
ACTIVATIONS = tuple(layers.ACTIVATIONS)
VARIANTS = vgg.VARIANTS
DTYPES = layers.DTYPES


def create(
  name: str,
  *,
  num_classes: int,
  activation: str = "relu",
  features: tuple[int, ...] = (16, 32),
  hidden_sizes: tuple[int, ...] = (100,),
  variant: str = "relu",
  width: float = 1.0,
  mean: tuple[float, ...] = (),
  std: tuple[float, ...] = (),
  dtype: str = "float32",
  remat: bool = False,
) -> nn.Module:
  """Creates a network by name.

  Args:
    name: `logistic` (linear in the input), `mlp`, `cnn` (5x5 convolutions of
      stride 2, then dense layers), `madry_cnn` (see `small`), `vgg11`,
      `vgg13`, `vgg16` (see `vgg`), `resnet20`, `resnet32`, `preact_resnet18`,
      `wide_resnet28` or `wide_resnet34` (see `residual`).
    num_classes: number of classes, C.
    activation: `relu`, `softplus`, `silu`, `gelu` (by erf), `tanh` or
      `identity`; `logistic` has none, and ignores it; the linear variants of
      a VGG refuse another than the default.
    features: channels of the convolutions of `cnn`.
    hidden_sizes: widths of the hidden dense layers of `mlp` and `cnn`.
    variant: variant of a VGG: `relu` (with `activation`), `half_linear` or
      `pure_linear`.
    width: factor on the channels of the stages of a VGG or a residual network,
      > 0; each is rounded (halves to even) and at least 1.
    mean: value per channel to subtract from the input; empty means 0.
    std: value per channel to divide the input by; empty means 1.
    dtype: dtype of the computation in layers, `float32` or `bfloat16`;
      parameters, batch statistics, the last layer and the logits are float32 in
      any case.
    remat: whether the backward pass recomputes the blocks of a residual network
      or the stages of a VGG instead of storing their intermediate values: less
      memory for one more forward pass, the same numbers to rounding.

  Returns:
    The module; hashable, and equal for equal arguments.

  Raises:
    ValueError: the name, activation, variant or dtype is unknown, a size is
      below 1, the width is not positive, or a variant, a width, remat or the
      activation of a VGG would have no effect.
  """
  _validate.one_of("name", name, NAMES)
  _validate.one_of("activation", activation, ACTIVATIONS)
  _validate.one_of("variant", variant, VARIANTS)
  _validate.one_of("dtype", dtype, DTYPES)
  _validate.positive_int("num_classes", num_classes)
  if not (isinstance(width, numbers.Real) and 0 < width < math.inf):
    raise ValueError(f"Expected width > 0 and finite, got width={width!r}.")
  for size in (*features, *hidden_sizes):
    _validate.positive_int("each of features and hidden_sizes", size)
  if len(mean) != len(std):
    raise ValueError(
      f"Expected mean and std of one length, got mean={mean}, std={std}."
    )
  for argument, value, default, takes in (
    ("variant", variant, "relu", vgg.DEPTHS),
    ("width", width, 1, {*vgg.DEPTHS, *residual.ARCHITECTURES}),
    ("remat", remat, False, {*vgg.DEPTHS, *residual.ARCHITECTURES}),
  ):
    if value != default and name not in takes:
      raise ValueError(
        f"Expected {argument} = {default!r} with name = {name!r}, which has "
        f"no other, got {value!r}."
      )
  if variant != "relu" and activation != "relu":
    raise ValueError(
      f"Expected activation = 'relu' with variant = {variant!r}, which has no "
      f"activation, got {activation!r}; use variant = 'relu'."
    )
  common = {"mean": tuple(mean), "std": tuple(std)}
  if name == "logistic":
    return small.Logistic(num_classes, **common)
  common["dtype"] = dtype
  if name == "mlp":
    return small.MLP(num_classes, tuple(hidden_sizes), activation, **common)
  if name == "cnn":
    return small.CNN(
      num_classes, tuple(features), tuple(hidden_sizes), activation, **common
    )
  if name == "madry_cnn":
    return small.MadryCNN(num_classes, activation, **common)
  if name in vgg.DEPTHS:
    return vgg.VGG(
      num_classes,
      vgg.DEPTHS[name],
      layers.widened(width, vgg.FEATURES),
      variant,
      activation,
      remat=remat,
      **common,
    )
  pre_activation, num_blocks, stem, stages = residual.ARCHITECTURES[name]
  return residual.ResNet(
    num_classes,
    pre_activation,
    num_blocks,
    stem,
    layers.widened(width, stages),
    activation,
    remat=remat,
    **common,
  )


def register(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
  """A decorator that makes a network of one's own a value of `model.name`.

      @models.register("mixer")
      class Mixer(nn.Module):
        num_classes: int
        mean: tuple[float, ...]
        std: tuple[float, ...]
        depth: int = 4

        @nn.compact
        def __call__(self, x, *, train=False, where=None): ...

  It decorates a Linen module, or a function that returns one. The module is
  called as `module(x, train=..., where=...)`, with images [N, H, W, channels]
  in [0, 1] and a mask bool [N] of the rows that count in batch statistics
  (`where`), and returns logits [N, C]. Either keyword may be missing. It draws
  no random numbers: dropout is not supported. A network that does not take
  `mean` and `std`, which come from the training images, is not normalised.

  Args:
    name: name in the configuration. See `config.registry` for the arguments
      that a network takes from the section `model` and for its settings.

  Raises:
    ValueError: as `config.registry.register`.
    TypeError: as `config.registry.register`.
  """
  return registry.register("model", name)


def from_config(config: config_lib.ModelConfig) -> nn.Module:
  """The network of a resolved configuration; see `create` and `register`.

  Raises:
    ValueError: a network of one's own cannot be built, or is no Linen module.
  """
  if part := registry.chosen(config):
    model = registry.bound(config)()
    if not isinstance(model, nn.Module):
      raise ValueError(
        f"Expected the model {part.name!r} to be a Flax Linen module, got "
        f"{type(model).__name__}; flax.nnx.bridge.to_linen wraps an NNX module."
      )
    try:
      hash(model)
    except TypeError as error:
      raise ValueError(
        f"Expected the model {part.name!r} to have hashable fields, for "
        f"example tuples instead of lists, got {error}."
      ) from error
    return model
  arguments = {
    field.name: getattr(config, field.name)
    for field in dataclasses.fields(config_lib.ModelConfig)
    if field.name != "image_shape"
  }
  return create(**arguments)


def require_trainable(
  model: nn.Module, num_classes: int, image_shape: tuple[int, int, int]
) -> None:
  """Requires a network to work in both modes; traces it, computes nothing.

  Args:
    model: network from `from_config`.
    num_classes: number of classes, C.
    image_shape: (height, width, channels).

  Raises:
    ValueError: the network does not take such images, does not return logits
      [N, C], or draws random numbers.
  """

  def both(key: jax.Array) -> tuple[Any, Any]:
    variables = init(model, key, image_shape)
    x, where = jnp.zeros((2, *image_shape)), jnp.ones(2, bool)
    return apply_fn(model)(variables, x), train_fn(model)(variables, x, where)

  try:
    evaluated, (trained, _) = jax.eval_shape(both, jax.random.key(0))
  except ValueError:
    raise
  # A network of one's own may raise anything.
  except Exception as error:
    raise ValueError(_failed(type(model).__name__, error)) from error
  for logits in (evaluated, trained):
    shape = getattr(logits, "shape", type(logits).__name__)
    if shape != (2, num_classes):
      raise ValueError(
        f"Expected {type(model).__name__} to return logits of shape "
        f"{(2, num_classes)} for 2 images, got {shape}."
      )


def _failed(name: str, error: Exception) -> str:
  hint = ""
  if isinstance(error, errors.InvalidRngError):
    hint = " (networks draw no random numbers here: leave dropout out)"
  return f"{name} failed with {_validate.reason(error)}{hint}"


def init(
  model: nn.Module, key: jax.Array, image_shape: tuple[int, int, int]
) -> dict[str, Any]:
  """Initialises the variables for images of one shape.

  Args:
    model: network from `create`.
    key: key of the initialisation, consumed.
    image_shape: (height, width, channels).

  Returns:
    `{"params": ...}`, with `"batch_stats"` for models that keep them.

  Raises:
    ValueError: `image_shape` is not three sizes, its channels do not match the
      model's normalisation, or it is too small for the model.
  """
  if len(image_shape) != 3:
    raise ValueError(
      "Expected image_shape to be (height, width, channels), got "
      f"{tuple(image_shape)}."
    )
  channels = len(getattr(model, "mean", ()))
  if channels and channels != image_shape[2]:
    raise ValueError(
      f"Expected image_shape with {channels} channels, those of the model's "
      f"normalisation, got image_shape={tuple(image_shape)}."
    )
  x = jnp.zeros((1, *image_shape), jnp.float32)
  return dict(model.init(key, x, **_modes(model, train=False)))


@functools.cache
def apply_fn(model: nn.Module) -> Callable[[Any, jax.Array], jax.Array]:
  """The evaluation mode: (variables, x [N, H, W, channels]) -> logits [N, C].

  Equal models give the identical function, so passing it to a compiled function
  as a static argument never compiles twice.
  """
  modes = _modes(model, train=False)

  def apply(variables: Any, x: jax.Array) -> jax.Array:
    return model.apply(variables, x, **modes)

  return apply


@functools.cache
def train_fn(
  model: nn.Module,
) -> Callable[[Any, jax.Array, jax.Array], tuple[jax.Array, Any]]:
  """The training mode.

  Returns:
    A function (variables, x [N, H, W, channels], where [N]) -> (logits
    [N, C], batch_stats). The unmasked rows update the statistics, which are
    `{}` for models without any. Without an unmasked row they are unchanged,
    and the logits are finite.
  """

  def apply(
    variables: Any, x: jax.Array, where: jax.Array
  ) -> tuple[jax.Array, Any]:
    if not variables.get("batch_stats"):
      # Rows are independent.
      return loops.side_by_side(
        lambda x: model.apply(
          variables,
          x,
          **_modes(model, train=True, where=jnp.ones(len(x), bool)),
        )
      )(x), {}
    some = jnp.any(where)
    logits, changed = model.apply(
      variables,
      x,
      **_modes(model, train=True, where=where | ~some),
      mutable=["batch_stats"],
    )
    batch_stats = jax.tree.map(
      lambda new, old: jnp.where(some, new, old),
      changed.get("batch_stats", {}),
      variables.get("batch_stats", {}),
    )
    return logits, batch_stats

  return apply


def _modes(model: nn.Module, **arguments: Any) -> dict[str, Any]:
  """The arguments that the module takes; one of one's own may lack some."""
  taken = inspect.signature(type(model).__call__).parameters
  if any(p.kind is p.VAR_KEYWORD for p in taken.values()):
    return arguments
  return {name: value for name, value in arguments.items() if name in taken}
