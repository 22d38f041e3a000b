"""Augmentation on the device, a pure function of the images and a key."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from robust_info import _validate
from robust_info.config import registry


def register(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
  """A decorator that makes an augmentation a value of `data.augment`.

      @augmentation.register("noise")
      def noise(images, key, *, scale: float = 0.1):
        return images + scale * jax.random.normal(key, images.shape)

  The function maps images float [N, H, W, channels] in [0, 1] and a typed key
  to images of the same shape, under `jit`. Its other arguments become fields of
  the section `data`.

  Args:
    name: name in the configuration; see `config.registry`.

  Raises:
    ValueError: as `config.registry.register`.
    TypeError: as `config.registry.register`.
  """
  return registry.register("augmentation", name)


def crop_flip(images: jax.Array, key: jax.Array, *, padding: int) -> jax.Array:
  """Shifts each image by up to `padding` pixels, and mirrors half of them.

  The usual augmentation of CIFAR (He et al. 2016): the image is padded with 0
  on all sides, a random crop of the original size is taken, and the crop is
  flipped horizontally with probability 1/2. Draws are independent per image.

  Args:
    images: [N, H, W, channels], any dtype.
    key: typed PRNG key; consumed.
    padding: pixels on each side, >= 0; 0 flips only.

  Returns:
    The shape and dtype of `images`. Cost: memory of the padded batch.

  Raises:
    ValueError: `images` does not have four axes, or padding < 0.
    TypeError: padding is not an int.
  """
  _validate.rank("images", images, 4, "[N, H, W, channels]")
  _validate.nonnegative_int("padding", padding)
  num_images, height, width, channels = images.shape
  corner_key, flip_key = jax.random.split(key)
  corners = jax.random.randint(corner_key, (num_images, 2), 0, 2 * padding + 1)
  flips = jax.random.bernoulli(flip_key, shape=(num_images,))
  border = (padding, padding)
  padded = jnp.pad(images, ((0, 0), border, border, (0, 0)))

  def augment(
    image: jax.Array, corner: jax.Array, flip: jax.Array
  ) -> jax.Array:
    crop = jax.lax.dynamic_slice(
      image, (corner[0], corner[1], 0), (height, width, channels)
    )
    return jnp.where(flip, crop[:, ::-1], crop)

  return jax.vmap(augment)(padded, corners, flips)
