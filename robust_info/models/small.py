"""Multinomial logistic regression, an MLP and two CNNs of a few layers.

Every module maps images [N, H, W, channels] in [0, 1] to logits [N, C]. The
arguments `train` and `where` (a mask [N] of the rows that count) are those of
all models of the package. No layer here depends on them, so both modes are the
same function. `dtype` is the dtype of the hidden layers.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from robust_info.models import layers


class Logistic(nn.Module):
  """Multinomial logistic regression: C*(D+1) parameters.

  Its only layer is the last one, which is float32 in every model.
  """

  num_classes: int
  mean: tuple[float, ...] = ()
  std: tuple[float, ...] = ()

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
    x = layers.Normalize(self.mean, self.std)(x)
    return layers.Head(self.num_classes, (), "identity")(x)


class MLP(nn.Module):
  """Multi-layer perceptron: dense hidden layers, then logits."""

  num_classes: int
  hidden_sizes: tuple[int, ...]
  activation: str
  mean: tuple[float, ...] = ()
  std: tuple[float, ...] = ()
  dtype: str = "float32"

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
    x = layers.Normalize(self.mean, self.std)(x)
    return layers.Head(
      self.num_classes, self.hidden_sizes, self.activation, self.dtype
    )(x)


class CNN(nn.Module):
  """5x5 convolutions of stride 2 with zero padding, then dense layers.

  Each convolution halves height and width, rounded up, so images of any size
  from 1x1 on are accepted. With features (16, 32) and one hidden layer of 100:
  171,158 parameters on 28x28x1 and 10 classes, 27,158 on 8x8x1.
  """

  num_classes: int
  features: tuple[int, ...]
  hidden_sizes: tuple[int, ...]
  activation: str
  mean: tuple[float, ...] = ()
  std: tuple[float, ...] = ()
  dtype: str = "float32"

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
    x = layers.Normalize(self.mean, self.std)(x)
    for features in self.features:
      x = nn.Conv(features, (5, 5), strides=(2, 2), dtype=self.dtype)(x)
      x = layers.ACTIVATIONS[self.activation](x)
    return layers.Head(
      self.num_classes, self.hidden_sizes, self.activation, self.dtype
    )(x)


class MadryCNN(nn.Module):
  """The network of Madry et al. 2018 for MNIST.

  Two 5x5 convolutions of 32 and 64 channels, each with a 2x2 max-pool, then
  one dense layer of 1,024: 3,274,634 parameters on 28x28x1 and 10 classes.
  Images have at least 4x4 pixels.
  """

  num_classes: int
  activation: str
  mean: tuple[float, ...] = ()
  std: tuple[float, ...] = ()
  dtype: str = "float32"

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
    layers.require_size(x, 4)
    x = layers.Normalize(self.mean, self.std)(x)
    for features in (32, 64):
      x = nn.Conv(features, (5, 5), dtype=self.dtype)(x)
      x = layers.ACTIVATIONS[self.activation](x)
      x = layers.pool(x, jnp.max)
    return layers.Head(self.num_classes, (1024,), self.activation, self.dtype)(
      x
    )
