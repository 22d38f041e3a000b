"""Residual networks for small images, post-activation or pre-activation.

    name              block             blocks    channels of      parameters
                                        per stage stem / stages
    resnet20          activation after  3         16 / 16 32 64        272,474
    resnet32          activation after  5         16 / 16 32 64        466,906
    preact_resnet18   activation first  2         64 / 64 ... 512   11,172,170
    wide_resnet28     activation first  4         16 / 16 32 64        369,498
    wide_resnet34     activation first  5         16 / 16 32 64        466,714

(10 classes, 3 channels, width 1; others: docs/guide/models.md.) `width`
multiplies the channels of the stages, not of the stem: width 5 and 10 of
resnet20 and resnet32 are the paper's resnet20x5 to resnet32x10, width 10 of
the wide ones WRN-28-10 and WRN-34-10. It may be below 1 (`layers.widened`).

Activation after: He, Zhang, Ren, Sun, "Deep Residual Learning for Image
Recognition", 2016, with the shortcut of the paper's public code [code]: where
the shape changes, a 1x1 convolution and BatchNorm (their option B; the zeros
of option A would save 2,752 parameters of resnet20). Activation first: He et
al., "Identity Mappings in Deep Residual Networks", 2016, and Zagoruyko &
Komodakis, "Wide Residual Networks", 2016, without dropout: where the shape
changes, the shortcut is a 1x1 convolution of the activated input, and
BatchNorm and activation follow the last block.

For the arguments `train` and `where` see `robust_info.models`.
"""

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn

from robust_info.models import layers

# (activation first, blocks per stage, channels of the stem, of the stages)
ARCHITECTURES = {
  "resnet20": (False, 3, 16, (16, 32, 64)),
  "resnet32": (False, 5, 16, (16, 32, 64)),
  "preact_resnet18": (True, 2, 64, (64, 128, 256, 512)),
  "wide_resnet28": (True, 4, 16, (16, 32, 64)),
  "wide_resnet34": (True, 5, 16, (16, 32, 64)),
}


class ResNet(nn.Module):
  """Stem, stages of residual blocks, mean over all pixels, a dense layer.

  Each stage but the first halves height and width, rounded up, so images of any
  size from 1x1 on are accepted.

  Attributes:
    num_classes: number of logits.
    pre_activation: whether BatchNorm and activation come before each
      convolution of a block, or after it.
    num_blocks: number of blocks per stage; two 3x3 convolutions each.
    stem_features: channels of the first 3x3 convolution.
    features: channels of each stage.
    activation: key of `layers.ACTIVATIONS`.
    mean: see `layers.Normalize`.
    std: see `layers.Normalize`.
    dtype: one of `layers.DTYPES`.
    remat: whether the backward pass recomputes each block.
  """

  num_classes: int
  pre_activation: bool
  num_blocks: int
  stem_features: int
  features: tuple[int, ...]
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
    block = _PreActivationBlock if self.pre_activation else _Block
    if self.remat:
      block = nn.remat(block)
    x = layers.Normalize(self.mean, self.std)(x)
    x = layers.convolution(
      self.stem_features, 3, use_bias=False, dtype=self.dtype, name="stem"
    )(x)
    if not self.pre_activation:
      x = self._activate(x, train, where)
    for stage, features in enumerate(self.features, start=1):
      for number in range(1, self.num_blocks + 1):
        x = block(
          features,
          stride=2 if stage > 1 and number == 1 else 1,
          activation=self.activation,
          dtype=self.dtype,
          train=train,
          name=f"stage{stage}_block{number}",
        )(x, where)
    if self.pre_activation:
      x = self._activate(x, train, where)
    x = jnp.mean(x, axis=(1, 2), dtype=jnp.float32)
    return nn.Dense(self.num_classes, dtype=jnp.float32, name="head")(x)

  def _activate(self, x, train, where):
    x = layers.batch_norm(
      x, train=train, where=where, dtype=self.dtype, name="norm"
    )
    return layers.ACTIVATIONS[self.activation](x)


class _Residual(nn.Module):
  """Parts shared by both kinds of block."""

  features: int
  stride: int
  activation: str
  dtype: str
  train: bool

  def changes_shape(self, x: jax.Array) -> bool:
    return self.stride != 1 or x.shape[-1] != self.features

  def convolve(self, x, size: int, stride: int, name: str) -> jax.Array:
    return layers.convolution(
      self.features,
      size,
      stride=stride,
      use_bias=False,
      dtype=self.dtype,
      name=name,
    )(x)

  def normalize(self, x, where, name: str) -> jax.Array:
    return layers.batch_norm(
      x, train=self.train, where=where, dtype=self.dtype, name=name
    )


class _Block(_Residual):
  """Activation after the sum: act(x + norm(conv(act(norm(conv(x))))))."""

  @nn.compact
  def __call__(self, x: jax.Array, where: jax.Array | None) -> jax.Array:
    activate = layers.ACTIVATIONS[self.activation]
    normalize = functools.partial(self.normalize, where=where)
    out = self.convolve(x, 3, self.stride, "conv1")
    out = activate(normalize(out, name="norm1"))
    out = normalize(self.convolve(out, 3, 1, "conv2"), name="norm2")
    if self.changes_shape(x):
      x = self.convolve(x, 1, self.stride, "shortcut")
      x = normalize(x, name="shortcut_norm")
    return activate(x + out)


class _PreActivationBlock(_Residual):
  """Sum without activation: x + conv(act(norm(conv(act(norm(x))))))."""

  @nn.compact
  def __call__(self, x: jax.Array, where: jax.Array | None) -> jax.Array:
    activate = layers.ACTIVATIONS[self.activation]
    active = activate(self.normalize(x, where, "norm1"))
    out = self.convolve(active, 3, self.stride, "conv1")
    out = activate(self.normalize(out, where, "norm2"))
    out = self.convolve(out, 3, 1, "conv2")
    if self.changes_shape(x):
      x = self.convolve(active, 1, self.stride, "shortcut")
    return x + out
