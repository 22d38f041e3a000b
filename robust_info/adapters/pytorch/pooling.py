"""Pooling as PyTorch does it, where torchax does not.

Functions have the arguments of PyTorch's operations, after the number of pooled
axes. Imported only with PyTorch installed.
"""

import itertools
import math
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from torchax.ops import jaten


def extreme(find, x, dim, keepdim=False):
  """The extreme value; its derivative goes to the first of equal ones."""
  if not x.ndim:
    return x, jnp.zeros((), jnp.int_)
  index = find(x, axis=dim, keepdims=True)
  value = jnp.take_along_axis(x, index, axis=dim)
  index = index.astype(jnp.int_)
  if keepdim:
    return value, index
  return jnp.squeeze(value, dim), jnp.squeeze(index, dim)


def average_pool(
  axes,
  x,
  kernel_size,
  stride=None,
  padding=0,
  ceil_mode=False,
  count_include_pad=True,
  divisor_override=None,
):
  """Averages over windows: of what lies inside the image and its padding."""
  kernel, steps, padding = _windows(axes, kernel_size, stride, padding)
  sizes = x.shape[-axes:]
  ends = _ends(sizes, kernel, steps, padding, ceil_mode)

  def sums(array):
    free = (1,) * (array.ndim - axes)
    return jax.lax.reduce_window(
      array,
      np.zeros((), array.dtype),
      jax.lax.add,
      free + kernel,
      free + steps,
      "valid",
    )

  # Sums of half precision stop growing at a few hundred.
  wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
  total = sums(_padded(wide, padding, ends, 0))
  if divisor_override is not None:
    return (total / divisor_override).astype(x.dtype)
  counted = jnp.ones((1,) * (x.ndim - axes) + sizes, wide.dtype)
  if count_include_pad:
    counted = _padded(counted, padding, padding, 1)
    # Windows of ceil_mode reach further, and others not as far.
    rest = [end - p for end, p in zip(ends, padding, strict=True)]
    counted = _padded(counted, [0] * axes, rest, 0)
  else:
    counted = _padded(counted, padding, ends, 0)
  return (total / sums(counted)).astype(x.dtype)


def max_pool(
  axes,
  x,
  kernel_size,
  stride=None,
  padding=0,
  dilation=1,
  ceil_mode=False,
  return_indices=True,
):
  """The largest of each window and, if asked for, its place in the image."""
  kernel, steps, padding, dilation = _windows(
    axes, kernel_size, stride, padding, dilation
  )
  if dilation == (1,) * axes:
    return jaten.max_pool(
      x, kernel, steps, list(padding), 1, ceil_mode, return_indices
    )
  # XLA has no derivative of dilated windows, so their corners are stacked.
  reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
  sizes = x.shape[-axes:]
  ends = _ends(sizes, reach, steps, padding, ceil_mode)

  def stacked(array, value):
    array = _padded(array, padding, ends, value)
    last = [n - r for n, r in zip(array.shape[-axes:], reach, strict=True)]
    return jnp.stack(
      [
        array[
          (
            ...,
            *(
              slice(c * d, c * d + n + 1, s)
              for c, d, n, s in zip(corner, dilation, last, steps, strict=True)
            ),
          )
        ]
        for corner in itertools.product(*map(range, kernel))
      ],
      axis=-1,
    )

  values = stacked(x, -jnp.inf)
  largest, first = extreme(jnp.argmax, values, -1, keepdim=True)
  if not return_indices:
    return largest[..., 0]
  places = jnp.arange(math.prod(sizes), dtype=jnp.int_).reshape(sizes)
  places = jnp.broadcast_to(stacked(places, 0), values.shape)
  index = jnp.take_along_axis(places, first, axis=-1)
  return largest[..., 0], index[..., 0]


def adaptive_max_pool(axes, x, output_size):
  """The largest of each of windows that cover the image, and its place."""
  sizes = x.shape[-axes:]
  places = jnp.arange(math.prod(sizes)).reshape(sizes)
  found = []
  for window in itertools.product(
    *(_covering(n, o) for n, o in zip(sizes, output_size, strict=True))
  ):
    part = x[(..., *window)]
    part = part.reshape(*part.shape[:-axes], -1)
    largest, first = extreme(jnp.argmax, part, -1)
    found.append((largest, places[window].ravel()[first]))
  shape = (*x.shape[:-axes], *output_size)
  largest, index = (
    jnp.stack(parts, axis=-1).reshape(shape)
    for parts in zip(*found, strict=True)
  )
  return largest, index.astype(jnp.int_)


def _covering(size: int, count: int) -> Iterator[slice]:
  for i in range(count):
    yield slice(i * size // count, -(-(i + 1) * size // count))


def _windows(
  axes: int, *settings: int | Sequence[int] | None
) -> list[tuple[int, ...]]:
  """Kernel size, stride, and other settings of a pooling, one per axis."""
  found = []
  for value in settings:
    values = [value] if isinstance(value, int) else list(value or ())
    # The stride of a pooling is its window unless it is given.
    values = values or list(found[0])
    found.append(tuple(values * (axes if len(values) == 1 else 1)))
  return found


def _ends(sizes, reach, stride, padding, ceil_mode) -> list[int]:
  """The paddings behind axes that end with their last windows.

  They are negative where the last windows end before the image does.
  """
  ends = []
  for size, window, step, before in zip(
    sizes, reach, stride, padding, strict=True
  ):
    whole = size + 2 * before - window
    last = whole // step
    # With ceil_mode one more, if it starts inside the image or before it.
    if ceil_mode and whole % step and (last + 1) * step < size + before:
      last += 1
    ends.append(last * step + window - size - before)
  return ends


def _padded(x, before, behind, value):
  """An array with padding, or less, on its last axes."""
  margins = [(0, 0, 0)] * (x.ndim - len(before))
  margins += [(b, e, 0) for b, e in zip(before, behind, strict=True)]
  return jax.lax.pad(x, jnp.asarray(value, x.dtype), margins)
