"""Windows of the Square attack: sizes, starts and proposals.

The arithmetic is that of the code published with Croce & Hein (2020); the
random choices are arguments. Shape letters: H x W pixels, C channels (the last
axis).
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

# Numbers of queries after which the share of pixels in a window is halved.
_HALVE_AFTER = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
_TINY = 1e-12


def image_shape(shape: tuple[int, ...]) -> tuple[int, int, int]:
  """H, W, C of inputs [N, ...]; vectors are folded to images.

  A vector of D inputs becomes H x W, where H is the largest divisor of D up to
  the square root of D. Axes after H, W, C join the channels.
  """
  if len(shape) >= 3:
    return shape[1], shape[2], math.prod(shape[3:])
  size = shape[1]
  height = max(h for h in range(1, math.isqrt(size) + 1) if size % h == 0)
  return height, size // height, 1


def window_sizes(
  num_queries: int, height: int, width: int, *, norm: str, share: float
) -> np.ndarray:
  """Side of the square window at each query; it never grows.

  Args:
    num_queries: number of queries, >= 1.
    height: height of the image.
    width: width of the image.
    norm: "linf" or "l2"; l2 windows have an odd side of at least 3, unless that
      does not fit the image.
    share: share of the pixels in the first window.

  Returns:
    [num_queries] ints, at most the shorter side of the image.
  """
  query = np.arange(num_queries)[:, None]
  halvings = np.sum(query > np.array(_HALVE_AFTER)[None, :], axis=1)
  side = np.round(np.sqrt(share / 2.0**halvings * height * width)).astype(int)
  if norm == "l2":
    side = np.maximum(side, 3)
    side += side % 2 == 0
  return np.clip(side, 1, min(height, width))


def bump(side: int) -> np.ndarray:
  """Unit-norm [side, side] profile: a positive half above a negative half.

  Each half is a pile of concentric rectangles of height 1/k^2. A single pixel
  has only the negative half.
  """

  def pile(rows, columns):
    profile = np.zeros((rows, columns))
    top, left = rows // 2, columns // 2
    for k in range(max(rows // 2, columns // 2) + 1):
      profile[
        max(top - k, 0) : top + k + 1, max(left - k, 0) : left + k + 1
      ] += 1 / (k + 1) ** 2
    return profile / max(np.sqrt(np.sum(profile**2)), _TINY)

  half = side // 2
  both = np.concatenate([pile(half, side), -pile(side - half, side)])
  return both / np.sqrt(np.sum(both**2))


def padded_bumps(sides: np.ndarray) -> np.ndarray:
  """[K, S, S] bumps, one per side, zero-padded to the largest side S."""
  largest = int(np.max(sides))
  bumps = np.zeros((len(sides), largest, largest))
  for profile, side in zip(bumps, sides, strict=True):
    profile[:side, :side] = bump(int(side))
  return bumps


def tile_side(height: int) -> int:
  """Side of the bumps in `bump_grid`: a fifth of the height, at least 1."""
  return max(height // 5, 1)


def bump_grid(
  signs: jax.Array, turned: jax.Array, height: int, width: int
) -> jax.Array:
  """Places bumps side by side: the start of the l2 attack, before scaling.

  Args:
    signs: [H // side, W // side, C] sign of each bump in each channel, where
      side is `tile_side(height)`.
    turned: [H // side, W // side] bool, the bumps to transpose.
    height: height of the image, H.
    width: width of the image, W.

  Returns:
    [H, W, C]. Half of the rows that five bumps leave free is the margin at the
    top and at the left; bumps beyond the other edges are cut.
  """
  down, across, channels = signs.shape
  side = tile_side(height)
  margin = max(height - 5 * side, 0) // 2
  profile = jnp.asarray(bump(side), signs.dtype)[None, None]
  bumps = jnp.where(
    turned[:, :, None, None], jnp.swapaxes(profile, 2, 3), profile
  )
  tiles = bumps[:, :, :, :, None] * signs[:, :, None, None, :]
  tiles = jnp.swapaxes(tiles, 1, 2).reshape(
    down * side, across * side, channels
  )
  cut = tiles[: height - margin, : width - margin]
  image = jnp.zeros((height, width, channels), signs.dtype)
  return jax.lax.dynamic_update_slice(image, cut, (margin, margin, 0))


def propose_linf(
  delta: jax.Array,
  side: ArrayLike,
  epsilon: ArrayLike,
  *,
  corner: jax.Array,
  signs: jax.Array,
) -> jax.Array:
  """Adds plus or minus twice epsilon in a window.

  Clipping to the ball, by the caller, then makes every value of the window plus
  or minus epsilon.

  Args:
    delta: [H, W, C] perturbation.
    side: side of the window.
    epsilon: radius of the ball.
    corner: [2] int, top left of the window.
    signs: [C] signs, -1 or 1.

  Returns:
    [H, W, C] perturbation, not clipped.
  """
  window = _window(corner, side, delta.shape)
  return delta + jnp.where(window, 2 * epsilon * signs[None, None], 0)


def propose_l2(
  delta: jax.Array,
  side: ArrayLike,
  epsilon: ArrayLike,
  *,
  corner: jax.Array,
  source: jax.Array,
  signs: jax.Array,
  profile: jax.Array,
) -> jax.Array:
  """Moves the norm of one window to another and adds a bump there.

  Each channel is treated on its own: the window receives the norm that both
  windows have in that channel, and an equal share of the norm that the
  perturbation leaves of the radius.

  Args:
    delta: [H, W, C] perturbation.
    side: side of both windows.
    epsilon: radius of the ball.
    corner: [2] int, top left of the window that receives the norm.
    source: [2] int, top left of the window that gives the norm.
    signs: [C] signs, -1 or 1.
    profile: [S, S] bump of that side, zero-padded to S >= side.

  Returns:
    [H, W, C] perturbation of norm `epsilon`.
  """
  height, width, channels = delta.shape
  here = _window(corner, side, delta.shape)
  there = _window(source, side, delta.shape)
  # Move the bump's corner to the corner of the window.
  last = profile.shape[0] - 1
  row = jnp.clip(jnp.arange(height) - corner[0], 0, last)
  column = jnp.clip(jnp.arange(width) - corner[1], 0, last)
  placed = profile[row][:, column][:, :, None] * signs[None, None]
  inside = jnp.where(here, delta, 0)
  fresh = jnp.where(here, placed, 0) + inside / (_plane_norms(inside) + _TINY)
  moved = _plane_norms(jnp.where(here | there, delta, 0))
  spare = jnp.maximum(epsilon**2 - jnp.sum(delta**2), 0) / channels
  scale = jnp.sqrt(spare + moved**2)
  fresh = fresh / (_plane_norms(fresh) + _TINY) * scale
  delta = jnp.where(here, fresh, jnp.where(there, 0, delta))
  return epsilon * delta / (jnp.sqrt(jnp.sum(delta**2)) + _TINY)


def _window(corner, side, shape):
  """[H, W, 1] bool, the pixels of the window at `corner`."""
  row = jnp.arange(shape[0])[:, None, None] - corner[0]
  column = jnp.arange(shape[1])[None, :, None] - corner[1]
  return (row >= 0) & (row < side) & (column >= 0) & (column < side)


def _plane_norms(values):
  """[1, 1, C] l2 norm of each channel."""
  return jnp.sqrt(jnp.sum(values**2, axis=(0, 1), keepdims=True))
