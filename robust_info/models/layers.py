"""What all models share: activations, normalisation, the mode argument.

Images are [N, H, W, channels] in [0, 1]; models normalise them themselves, so
that an epsilon of an attack is in units of the input range. Everything is
computed in float32.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
  "relu": nn.relu,
  "softplus": nn.softplus,
  "tanh": jnp.tanh,
  "identity": lambda x: x,
}


class Normalize(nn.Module):
  """`(x - mean) / std` per channel, with constants, not parameters.

  Attributes:
    mean: one entry a channel; empty means 0.
    std: one entry a channel, positive; empty means 1.
  """

  mean: tuple[float, ...] = ()
  std: tuple[float, ...] = ()

  def __call__(self, x: jax.Array) -> jax.Array:
    """Images [N, H, W, channels] to images of the same shape."""
    if not self.mean:
      return x
    shape = (1,) * (x.ndim - 1) + (len(self.mean),)
    mean = jnp.asarray(self.mean, x.dtype).reshape(shape)
    std = jnp.asarray(self.std, x.dtype).reshape(shape)
    return (x - mean) / std


class Head(nn.Module):
  """Flattens, then dense layers with an activation between, then logits.

  Attributes:
    num_classes: number of logits.
    hidden_sizes: widths of the hidden layers; empty means a linear head.
    activation: key of `ACTIVATIONS`.
  """

  num_classes: int
  hidden_sizes: tuple[int, ...]
  activation: str

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Activations [N, ...] to logits [N, C]."""
    x = x.reshape(x.shape[0], -1)
    for size in self.hidden_sizes:
      x = ACTIVATIONS[self.activation](nn.Dense(size)(x))
    return nn.Dense(self.num_classes)(x)
