"""Operations that torchax lacks, or computes otherwise than PyTorch.

Most differ in derivatives, where those are a choice: at kinks and ties, and at
norms of zero. Images are there often: pixels that are black or white are at the
bounds of a `clamp`, and an even patch has no deviation. Imported only with
PyTorch installed.
"""

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torchax
from torchax.ops import mappings, op_base, ops_registry

_ATEN = torch.ops.aten


def environment() -> torchax.tensor.Environment:
  """An environment of torchax with these operations; others keep theirs."""
  found = torchax.tensor.Environment()

  def on_arrays(function, *args, **kwargs):
    args, kwargs = found.t2j_iso((args, kwargs))
    return found.j2t_iso(function(*args, **kwargs))

  for operation, function in _OWN.items():
    found.override_op_definition(
      operation, functools.partial(on_arrays, function)
    )
  for operation, function in _IN_PLACE.items():
    found.override_op_definition(operation, op_base.InplaceOp(function))
  return found


def _clamp(x, low=None, high=None):
  """The derivative at a bound is the one inside."""
  if isinstance(low, jax.Array):
    x, low = jnp.broadcast_arrays(x, low)
  if isinstance(high, jax.Array):
    x, high = jnp.broadcast_arrays(x, high)
  if low is not None:
    x = jnp.where(x < low, low, x)
  if high is not None:
    x = jnp.where(x > high, high, x)
  return x


def _clamp_max(x, high):
  return _clamp(x, None, high)


def _hardtanh(x, low=-1.0, high=1.0):
  """The derivative at a bound is the one outside."""
  return jnp.where(x <= low, low, jnp.where(x >= high, high, x))


def _hardsigmoid(x):
  return jnp.where(x <= -3, 0.0, jnp.where(x >= 3, 1.0, x / 6 + 0.5))


def _hardswish(x):
  return jnp.where(x <= -3, 0.0, jnp.where(x >= 3, x, x * (x + 3) / 6))


def _leaky_relu(x, slope=0.01):
  return jnp.where(x > 0, x, slope * x)


def _log_sigmoid(x):
  return -jax.nn.softplus(-x), jnp.zeros_like(x)


def _abs(x):
  """Has the derivative 0 at 0."""
  if not jnp.issubdtype(x.dtype, jnp.floating):
    return jnp.abs(x)
  return x * jax.lax.stop_gradient(jnp.sign(x))


def _fmax(x, other):
  return jnp.where(jnp.isnan(other) | (x >= other), x, other)


def _fmin(x, other):
  return jnp.where(jnp.isnan(other) | (x <= other), x, other)


def _xlogy(x, y):
  """Has the value 0 and the derivative log y for x = 0."""
  y = jnp.where((x == 0) & (y <= 0), 1, y)
  return x * jnp.log(y)


def _extreme(find, x, dim, keepdim=False):
  """The extreme value; its derivative goes to the first of equal ones."""
  if not x.ndim:
    return x, jnp.zeros((), jnp.int_)
  index = find(x, axis=dim, keepdims=True)
  value = jnp.take_along_axis(x, index, axis=dim)
  index = index.astype(jnp.int_)
  if keepdim:
    return value, index
  return jnp.squeeze(value, dim), jnp.squeeze(index, dim)


def _root(x, power=0.5):
  """A root of x >= 0 whose derivative at 0 is 0."""
  zero = x == 0
  inner = jnp.where(zero, 1, x)
  return jnp.where(zero, 0, jnp.sqrt(inner) if power == 0.5 else inner**power)


def _vector_norm(x, ord=2, dim=None, keepdim=False, *, dtype=None):
  if not jnp.issubdtype(x.dtype, jnp.floating) or ord <= 0:
    plain = ops_registry.all_aten_ops[_ATEN.linalg_vector_norm].func
    return plain(x, ord, dim, keepdim, dtype)
  if dtype is not None:
    x = x.astype(mappings.t2j_dtype(dtype))
  axes = _axes(dim)
  if ord == math.inf:
    return jnp.max(_abs(x), axis=axes, keepdims=keepdim)
  powers = x * x if ord == 2 else _root(_abs(x), ord)
  return _root(jnp.sum(powers, axis=axes, keepdims=keepdim), 1 / ord)


def _std(x, dim=None, unbiased=True, keepdim=False, *, correction=None):
  if correction is None:
    correction = int(unbiased)
  return _root(jnp.var(x, _axes(dim), ddof=correction, keepdims=keepdim))


def _std_mean(x, dim=None, unbiased=True, keepdim=False, *, correction=None):
  deviation = _std(x, dim, unbiased, keepdim, correction=correction)
  return deviation, jnp.mean(x, _axes(dim), keepdims=keepdim)


def _of_all(function):
  """A function of all entries, called with the flag `unbiased` alone."""
  return lambda x, unbiased=True: function(x, None, unbiased)


def _axes(dim):
  """PyTorch reduces over all axes for an empty list."""
  if isinstance(dim, list | tuple):
    return tuple(dim) or None
  return dim


def _convolution(
  x, weight, bias, stride, padding, dilation, transposed, output_padding, groups
):
  """Hands the filters of groups over in the order that torchax expects."""
  if transposed:
    apart = weight.reshape(groups, -1, *weight.shape[1:])
    weight = jnp.swapaxes(apart, 0, 1).reshape(weight.shape)
  plain = ops_registry.all_aten_ops[_ATEN.convolution].func
  return plain(
    x,
    weight,
    bias,
    stride,
    padding,
    dilation,
    transposed,
    output_padding,
    groups,
  )


def _average_pool(
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


def _max_pool(
  axes, x, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False
):
  """The largest of each window and its place in the image."""
  kernel, steps, padding, dilation = _windows(
    axes, kernel_size, stride, padding, dilation
  )
  if dilation == (1,) * axes:
    plain = ops_registry.all_aten_ops[_ATEN.max_pool2d_with_indices].func
    return plain(x, kernel, steps, list(padding), 1, ceil_mode)
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
  largest, first = _extreme(jnp.argmax, values, -1, keepdim=True)
  places = jnp.arange(math.prod(sizes), dtype=jnp.int_).reshape(sizes)
  places = jnp.broadcast_to(stacked(places, 0), values.shape)
  index = jnp.take_along_axis(places, first, axis=-1)
  return largest[..., 0], index[..., 0]


def _max_pool_of_images(
  x,
  kernel_size,
  stride=None,
  padding=0,
  dilation=1,
  ceil_mode=False,
  return_indices=False,
):
  found = _max_pool(2, x, kernel_size, stride, padding, dilation, ceil_mode)
  return found if return_indices else found[0]


def _adaptive_max_pool(axes, x, output_size):
  """The largest of each of windows that cover the image, and its place."""
  sizes = x.shape[-axes:]
  places = jnp.arange(math.prod(sizes)).reshape(sizes)
  found = []
  for window in itertools.product(
    *(_covering(n, o) for n, o in zip(sizes, output_size, strict=True))
  ):
    part = x[(..., *window)]
    part = part.reshape(*part.shape[:-axes], -1)
    largest, first = _extreme(jnp.argmax, part, -1)
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


_OWN: dict[Any, Callable[..., Any]] = {
  _ATEN.abs.default: _abs,
  _ATEN.clamp.default: _clamp,
  _ATEN.clamp.Tensor: _clamp,
  _ATEN.clamp_min.default: _clamp,
  _ATEN.clamp_min.Tensor: _clamp,
  _ATEN.clamp_max.default: _clamp_max,
  _ATEN.clamp_max.Tensor: _clamp_max,
  _ATEN.fmax.default: _fmax,
  _ATEN.fmin.default: _fmin,
  _ATEN.hardsigmoid.default: _hardsigmoid,
  _ATEN.hardswish.default: _hardswish,
  _ATEN.hardtanh.default: _hardtanh,
  _ATEN.leaky_relu.default: _leaky_relu,
  _ATEN.linalg_vector_norm.default: _vector_norm,
  _ATEN.log_sigmoid_forward.default: _log_sigmoid,
  _ATEN.max.dim: functools.partial(_extreme, jnp.argmax),
  _ATEN.min.dim: functools.partial(_extreme, jnp.argmin),
  _ATEN.std.default: _of_all(_std),
  _ATEN.std.dim: _std,
  _ATEN.std.correction: _std,
  _ATEN.std_mean.default: _of_all(_std_mean),
  _ATEN.std_mean.dim: _std_mean,
  _ATEN.std_mean.correction: _std_mean,
  _ATEN.xlogy.Tensor: _xlogy,
  _ATEN.xlogy.Scalar_Other: _xlogy,
  _ATEN.convolution.default: _convolution,
  _ATEN.avg_pool1d.default: functools.partial(_average_pool, 1),
  _ATEN.avg_pool2d.default: functools.partial(_average_pool, 2),
  _ATEN.avg_pool3d.default: functools.partial(_average_pool, 3),
  torch.nn.functional.max_pool2d: _max_pool_of_images,
  _ATEN.max_pool2d_with_indices.default: functools.partial(_max_pool, 2),
  _ATEN.max_pool3d_with_indices.default: functools.partial(_max_pool, 3),
  _ATEN.adaptive_max_pool2d.default: functools.partial(_adaptive_max_pool, 2),
  _ATEN.adaptive_max_pool3d.default: functools.partial(_adaptive_max_pool, 3),
}
_IN_PLACE = {
  _ATEN.hardsigmoid_.default: _ATEN.hardsigmoid,
  _ATEN.hardswish_.default: _ATEN.hardswish,
  _ATEN.hardtanh_.default: _ATEN.hardtanh,
  _ATEN.leaky_relu_.default: _ATEN.leaky_relu,
}
