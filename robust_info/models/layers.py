"""Parts shared by all models: activations, pooling, normalisation, precision.

Images are [N, H, W, channels] in [0, 1]; models normalise them themselves, so
the epsilon of an attack is in units of the input range. A model computes in its
`dtype`; its parameters, running statistics and logits are float32, and so are
the normalisation of the input and the last layer.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from robust_info import _validate


def gelu(x: jax.Array) -> jax.Array:
  """Gaussian error linear unit, x times the normal distribution function.

  Hendrycks & Gimpel, "Gaussian Error Linear Units", 2016: by erf, as in
  PyTorch's default. JAX's default is an approximation by tanh, which differs by
  up to 5e-4.

  Args:
    x: any shape.

  Returns:
    The shape of x. The first two derivatives are finite for every finite x.
  """
  # Beyond 40 the distribution function is 0 or 1 also in float64. The second
  # derivative of erfc multiplies 0 by infinity at large x.
  near = jnp.clip(x, -40.0, 40.0)
  return 0.5 * x * jax.lax.erfc(-near * math.sqrt(0.5))


# The smooth ones have finite first and second derivatives everywhere.
ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
  "relu": nn.relu,
  "softplus": nn.softplus,
  "silu": nn.silu,
  "gelu": gelu,
  "tanh": jnp.tanh,
  "identity": lambda x: x,
}
DTYPES = ("float32", "bfloat16")


class Normalize(nn.Module):
  """`(x - mean) / std` per channel, with constants instead of parameters.

  Attributes:
    mean: one entry per channel; empty means 0.
    std: one entry per channel, positive; empty means 1.
  """

  mean: tuple[float, ...] = ()
  std: tuple[float, ...] = ()

  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps images [N, H, W, channels] to images of the same shape."""
    # Every model begins here. Bytes would be taken for images in [0, 255], with
    # the mean and the deviation rounded to 0.
    x = _validate.inputs("x", x, "[N, H, W, channels]")
    if not self.mean:
      return x
    shape = (1,) * (x.ndim - 1) + (len(self.mean),)
    mean = jnp.asarray(self.mean, x.dtype).reshape(shape)
    std = jnp.asarray(self.std, x.dtype).reshape(shape)
    return (x - mean) / std


class Head(nn.Module):
  """Flattens, then applies dense layers with activations, then gives logits.

  Attributes:
    num_classes: number of logits.
    hidden_sizes: widths of the hidden layers; empty means a linear head.
    activation: key of `ACTIVATIONS`.
    dtype: dtype of the hidden layers, one of `DTYPES`.
  """

  num_classes: int
  hidden_sizes: tuple[int, ...]
  activation: str
  dtype: str = "float32"

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps activations [N, ...] to float32 logits [N, C]."""
    x = x.reshape(x.shape[0], -1)
    for size in self.hidden_sizes:
      x = ACTIVATIONS[self.activation](nn.Dense(size, dtype=self.dtype)(x))
    return nn.Dense(self.num_classes, dtype=jnp.float32)(x)


def widened(width: float, features: tuple[int, ...]) -> tuple[int, ...]:
  """Channels times `width`, rounded (halves to even), at least 1 each."""
  return tuple(max(1, round(width * channels)) for channels in features)


def convolution(
  features: int,
  size: int,
  *,
  stride: int = 1,
  use_bias: bool,
  dtype: str,
  name: str,
) -> nn.Conv:
  """A square convolution with `size // 2` zeros on every side.

  Heights and widths are divided by `stride`, rounded up. Weights are drawn
  with variance 2 / (size^2 features) (He et al. 2015, "fan out").
  """
  return nn.Conv(
    features,
    (size, size),
    strides=stride,
    padding=size // 2,
    use_bias=use_bias,
    kernel_init=nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
    dtype=dtype,
    name=name,
  )


def batch_norm(
  x: jax.Array,
  *,
  train: bool,
  where: jax.Array | None,
  dtype: str,
  name: str,
) -> jax.Array:
  """Batch normalisation per channel, with scale and offset.

  Args:
    x: [N, H, W, channels].
    train: whether to use the moments of the batch, which then move the running
      moments by a tenth; otherwise the running moments are used, and rows are
      independent.
    where: [N] bool, the rows whose moments count in training; at least one is
      True. None means all.
    dtype: dtype of the result; moments are float32, the variance is the biased
      one.
    name: name of the layer.

  Returns:
    The shape of x.
  """
  mask = None if where is None else where[:, None, None, None]
  return nn.BatchNorm(
    use_running_average=not train,
    momentum=0.9,
    epsilon=1e-5,
    # The mean of squares minus the square of the mean cancels in float32.
    use_fast_variance=False,
    dtype=dtype,
    name=name,
  )(x, mask=mask)


def pool(x: jax.Array, reduce: Callable[..., jax.Array]) -> jax.Array:
  """Reduces blocks of 2x2 pixels; an odd last row or column is dropped.

  Reduces a reshaped array instead of windows: this can be differentiated
  forwards, backwards and one after the other in every dtype. Next to a
  convolution its gradient costs nothing, while that of `nn.max_pool` takes as
  long as half the convolution (2 CPU cores, jax 0.10.1, 64 channels). A
  maximum divides its gradient evenly among equal entries.

  Args:
    x: [N, H, W, channels].
    reduce: `jnp.max` or `jnp.mean`.

  Returns:
    [N, H // 2, W // 2, channels].
  """
  num, height, width, channels = x.shape
  x = x[:, : height // 2 * 2, : width // 2 * 2]
  blocks = x.reshape(num, height // 2, 2, width // 2, 2, channels)
  return reduce(blocks, axis=(2, 4))


def require_size(x: jax.Array, size: int) -> None:
  """Requires images of at least `size` x `size` pixels.

  Raises:
    ValueError: the images are smaller.
  """
  if min(x.shape[1:3]) < size:
    raise ValueError(
      f"Expected image_shape of at least {size}x{size} pixels, which this "
      f"model's pooling needs, got {tuple(x.shape[1:])}; resnet20 and cnn take "
      "any size."
    )
