"""VGG networks for 32x32 images, in the three variants of the paper's table.

Simonyan & Zisserman, "Very Deep Convolutional Networks for Large-Scale Image
Recognition", 2015, as in the paper's public code [code]: 3x3 convolutions with
bias and without BatchNorm, five 2x2 pools, one dense layer.

    variant       after each convolution   pool      as a function of the input
    relu          activation, or ReLU      maximum   piecewise affine with ReLU
    half_linear   nothing                  maximum   piecewise affine
    pure_linear   nothing                  mean      affine: logistic regression
                                                     with a factored weight

The code calls `half_linear` just "linear"; `relu` is the network with an
activation, which is ReLU there and any of `layers.ACTIVATIONS` here. For the
arguments `train` and `where` see `robust_info.models`; both modes are the same
function. `width` multiplies all channels (`layers.widened`).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from robust_info.models import layers

VARIANTS = ("relu", "half_linear", "pure_linear")
# Number of convolutions before each pool.
DEPTHS = {
  "vgg11": (1, 1, 2, 2, 2),
  "vgg13": (2, 2, 2, 2, 2),
  "vgg16": (2, 2, 3, 3, 3),
}
FEATURES = (64, 128, 256, 512, 512)


class VGG(nn.Module):
  """Stages of 3x3 convolutions, each ending in a pool, then a dense layer.

  A stage halves height and width, rounded down, so S stages need images of at
  least 2^S pixels per side.

  Attributes:
    num_classes: number of logits.
    num_convolutions: number of convolutions of each stage.
    features: channels of each stage.
    variant: one of `VARIANTS`.
    activation: key of `layers.ACTIVATIONS`, for the variant `relu` only.
    mean: see `layers.Normalize`.
    std: see `layers.Normalize`.
    dtype: one of `layers.DTYPES`.
    remat: whether the backward pass recomputes each stage.
  """

  num_classes: int
  num_convolutions: tuple[int, ...]
  features: tuple[int, ...] = FEATURES
  variant: str = "relu"
  activation: str = "relu"
  mean: tuple[float, ...] = ()
  std: tuple[float, ...] = ()
  dtype: str = "float32"
  remat: bool = False

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    *,
    train: bool = False,
    where: jax.Array | None = None,
  ) -> jax.Array:
    """Maps images [N, H, W, channels] to logits [N, C]."""
    del train, where
    layers.require_size(x, 2 ** len(self.features))
    x = layers.Normalize(self.mean, self.std)(x)
    stage = nn.remat(_Stage) if self.remat else _Stage
    sizes = zip(self.num_convolutions, self.features, strict=True)
    is_linear = self.variant != "relu"
    for number, (depth, features) in enumerate(sizes, start=1):
      x = stage(
        depth,
        features,
        "identity" if is_linear else self.activation,
        jnp.mean if self.variant == "pure_linear" else jnp.max,
        self.dtype,
        name=f"stage{number}",
      )(x)
    return nn.Dense(
      self.num_classes,
      kernel_init=nn.initializers.normal(0.01),
      dtype=jnp.float32,
      name="head",
    )(x.reshape(x.shape[0], -1))


class _Stage(nn.Module):
  """Convolutions of one width, then a pool."""

  num_convolutions: int
  features: int
  activation: str
  reduce: Callable[..., jax.Array]
  dtype: str

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    for number in range(1, self.num_convolutions + 1):
      x = layers.convolution(
        self.features,
        3,
        use_bias=True,
        dtype=self.dtype,
        name=f"conv{number}",
      )(x)
      x = layers.ACTIVATIONS[self.activation](x)
    return layers.pool(x, self.reduce)
