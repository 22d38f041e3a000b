"""Operations that torchax lacks, or computes otherwise than PyTorch.

Most differ in derivatives, where those are a choice: at kinks and ties, and at
norms of zero. Images are there often: pixels that are black or white are at the
bounds of a `clamp`, and an even patch has no deviation. Imported only with
PyTorch installed.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import torch
import torchax
from torchax import decompositions
from torchax.ops import mappings, ops_registry

from robust_info.adapters import base
from robust_info.adapters.pytorch import pooling, views

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
  # PyTorch has attention under two names.
  for operation in ops_registry.all_torch_functions:
    if operation.__name__ == "scaled_dot_product_attention":
      found.override_op_definition(
        operation, functools.partial(on_arrays, _attention)
      )
  for operation, function in _OWN_ON_TENSORS.items():
    found.override_op_definition(operation, function)
  for operation, function in views.operations(found).items():
    found.override_op_definition(operation, function, is_view_op=True)
  return found


def _part_of_input(function: Callable[..., Any], *bounds: Any) -> float:
  """The derivative of PyTorch where an input of 0 equals its bound.

  It is 0, 1/2 or 1, by function and version: those that clamp to a number have
  1 before PyTorch 2.14, and 0 since.
  """
  with torch.inference_mode(False), torch.enable_grad():
    x = torch.zeros((), requires_grad=True)
    [part] = torch.autograd.grad(function(x, *bounds), x)
  return float(part)


_PART_CLAMPED = _part_of_input(torch.clamp, 0.0)
_PART_CLAMPED_TO_TENSORS = _part_of_input(torch.clamp, torch.zeros(()))
_PART_FMAX = _part_of_input(torch.fmax, torch.zeros(()))


def _at_ties(x, bound, otherwise, part, tied=True):
  """`otherwise`, and where x is the bound, a part of the derivative of x."""
  if not jnp.issubdtype(jnp.result_type(x), jnp.floating):
    return otherwise
  # No product with 0, as a bound may be infinite.
  shared = {0.0: bound, 0.5: x / 2 + bound / 2, 1.0: x}[part]
  return jnp.where((x == bound) & tied, shared, otherwise)


def _clamp(x, low=None, high=None, *, part=None):
  """The derivative at a bound is a part of that inside, PyTorch's if None."""
  tensors = any(isinstance(bound, jax.Array) for bound in (low, high))
  if part is None:
    part = _PART_CLAMPED_TO_TENSORS if tensors else _PART_CLAMPED
  given = [v for v in (x, low, high) if isinstance(v, jax.Array)]
  shape = jnp.broadcast_shapes(*(v.shape for v in given))
  x, low, high = (
    jnp.broadcast_to(v, shape) if isinstance(v, jax.Array) else v
    for v in (x, low, high)
  )
  clamped, apart = x, True
  if low is not None and high is not None and tensors:
    apart = low < high  # Where they meet, the derivative is not shared.
  if low is not None:
    clamped = jnp.where(x < low, low, x)
    clamped = _at_ties(x, low, clamped, part, apart)
  if high is not None:
    clamped = jnp.where(clamped > high, high, clamped)
    clamped = _at_ties(x, high, clamped, part, apart)
  return clamped


def _clamp_max(x, high):
  return _clamp(x, None, high)


def _linear(input, weight, bias=None):
  out = jnp.einsum("...a,ba->...b", input, weight)
  return out if bias is None else out + bias


def _einsum(equation, *operands):
  if len(operands) == 1 and isinstance(operands[0], list | tuple):
    [operands] = operands
  return jnp.einsum(equation, *operands)


def _pad(input, pad, mode="constant", value=None):
  """Pads the last axes, or crops them where `pad` is negative."""
  pairs = list(zip(pad[::2], pad[1::2], strict=True))[::-1]
  widths = [(0, 0)] * (input.ndim - len(pairs)) + pairs
  added = [tuple(max(end, 0) for end in width) for width in widths]
  taken = [tuple(max(-end, 0) for end in width) for width in widths]

  def crop(x):
    return x[
      tuple(
        slice(first, max(size - last, first))
        for size, (first, last) in zip(x.shape, taken, strict=True)
      )
    ]

  if mode == "constant":
    fill = 0 if value is None else value
    return crop(jnp.pad(input, added, constant_values=fill))
  if mode == "circular":
    return jnp.pad(crop(input), added, mode="wrap")
  name = {"replicate": "edge", "reflect": "reflect"}[mode]
  return crop(jnp.pad(input, added, mode=name))


def _take_along(input, indices, dim=None):
  if dim is None:
    input, indices = input.ravel(), indices.ravel()
  return jnp.take_along_axis(input, indices, 0 if dim is None else dim)


def _rrelu(x, noise, lower=0.125, upper=1 / 3, training=False, generator=None):
  """In evaluation mode the slope is the mean one."""
  if training:
    base.refuse_randomness()
  return _leaky_relu(x, (lower + upper) / 2)


def _attention(
  query,
  key,
  value,
  attn_mask=None,
  dropout_p=0.0,
  is_causal=False,
  scale=None,
  enable_gqa=False,
):
  """Where a mask leaves nothing, the result is 0."""
  if dropout_p:
    base.refuse_randomness()
  if enable_gqa:
    key, value = (
      jnp.repeat(v, query.shape[-3] // v.shape[-3], -3) for v in (key, value)
    )
  scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
  scores = jnp.einsum("...ld,...sd->...ls", query * scale, key)
  scores = scores.astype(jnp.promote_types(scores.dtype, jnp.float32))
  kept = jnp.tri(*scores.shape[-2:], dtype=bool) if is_causal else None
  if attn_mask is not None:
    shape = jnp.broadcast_shapes(attn_mask.shape, scores.shape)
    attn_mask, scores = (
      jnp.broadcast_to(v, shape) for v in (attn_mask, scores)
    )
    kept = attn_mask
    if attn_mask.dtype != bool:
      kept = attn_mask > -jnp.inf
      scores = scores + attn_mask.astype(scores.dtype)
  if kept is None:
    weights = jax.nn.softmax(scores, -1)
  else:
    kept = jnp.broadcast_to(kept, scores.shape)
    # Rows of nothing but -inf would make NaN, in derivatives too.
    empty = ~jnp.any(kept, -1, keepdims=True)
    scores = jnp.where(kept, scores, jnp.where(empty, 0, -jnp.inf))
    weights = jnp.where(kept, jax.nn.softmax(scores, -1), 0)
  return jnp.einsum("...ls,...sd->...ld", weights.astype(value.dtype), value)


def _hardtanh(x, low=-1.0, high=1.0):
  """The derivative at a bound is the one outside."""
  return jnp.where(x <= low, low, jnp.where(x >= high, high, x))


def _hardsigmoid(x):
  return jnp.where(x <= -3, 0.0, jnp.where(x >= 3, 1.0, x / 6 + 0.5))


def _hardswish(x):
  return jnp.where(x <= -3, 0.0, jnp.where(x >= 3, x, x * (x + 3) / 6))


def _leaky_relu(x, slope=0.01):
  return jnp.where(x > 0, x, slope * x)


def _logit(x, eps=None):
  if eps is not None:
    x = _clamp(x, eps, 1 - eps, part=1.0)
  return jnp.log(x / (1 - x))


def _log_sigmoid(x):
  return -jax.nn.softplus(-x), jnp.zeros_like(x)


def _abs(x):
  """Has the derivative 0 at 0."""
  if not jnp.issubdtype(x.dtype, jnp.floating):
    return jnp.abs(x)
  return x * jax.lax.stop_gradient(jnp.sign(x))


def _fmax(x, other):
  larger = jnp.where(jnp.isnan(other) | (x >= other), x, other)
  return _at_ties(x, other, larger, _PART_FMAX)


def _fmin(x, other):
  smaller = jnp.where(jnp.isnan(other) | (x <= other), x, other)
  return _at_ties(x, other, smaller, _PART_FMAX)


def _xlogy(x, y):
  """Has the value 0 and the derivative log y for x = 0."""
  y = jnp.where((x == 0) & (y <= 0), 1, y)
  return x * jnp.log(y)


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


def _dist(x, other, p=2):
  return _vector_norm(x - other, p)


def _cdist(x, other, p=2.0, compute_mode=None):
  """Distances of all pairs of rows; `compute_mode` has no effect."""
  return _vector_norm(x[..., :, None, :] - other[..., None, :, :], p, -1)


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


def _refuse(what: str, *_, **__):
  raise ValueError(
    "Expected module to consist of operations that torchax computes right, got "
    f"{what}; write it by others."
  )


def _grid_sampler_3d(x, grid, interpolation_mode, padding_mode, align_corners):
  if padding_mode == 2:
    _refuse("grid_sample of volumes with reflection")
  return decompositions._grid_sampler_3d(
    x, grid, interpolation_mode, padding_mode, align_corners
  )


_BAGS = functools.partial(_refuse, "embedding_bag")
# Those of torchax 0.0.13 are wrong, or made of other operations.
_OWN_ON_TENSORS: dict[Any, Callable[..., Any]] = {
  _ATEN._embedding_bag.default: _BAGS,
  _ATEN._embedding_bag_forward_only.default: _BAGS,
  _ATEN.grid_sampler_3d.default: _grid_sampler_3d,
}
_OWN: dict[Any, Callable[..., Any]] = {
  _ATEN.abs.default: _abs,
  _ATEN.clamp.default: _clamp,
  _ATEN.clamp.Tensor: _clamp,
  _ATEN.clamp_min.default: _clamp,
  _ATEN.clamp_min.Tensor: _clamp,
  _ATEN.clamp_max.default: _clamp_max,
  _ATEN.clamp_max.Tensor: _clamp_max,
  _ATEN.dist.default: _dist,
  torch.cdist: _cdist,
  _ATEN.fmax.default: _fmax,
  _ATEN.fmin.default: _fmin,
  _ATEN.hardsigmoid.default: _hardsigmoid,
  _ATEN.hardswish.default: _hardswish,
  _ATEN.hardtanh.default: _hardtanh,
  _ATEN.leaky_relu.default: _leaky_relu,
  _ATEN.linalg_vector_norm.default: _vector_norm,
  _ATEN.log_sigmoid_forward.default: _log_sigmoid,
  _ATEN.logit.default: _logit,
  _ATEN.max.dim: functools.partial(pooling.extreme, jnp.argmax),
  _ATEN.min.dim: functools.partial(pooling.extreme, jnp.argmin),
  _ATEN.sinc.default: jnp.sinc,
  _ATEN.std.default: _of_all(_std),
  _ATEN.std.dim: _std,
  _ATEN.std.correction: _std,
  _ATEN.std_mean.default: _of_all(_std_mean),
  _ATEN.std_mean.dim: _std_mean,
  _ATEN.std_mean.correction: _std_mean,
  _ATEN.xlogy.Tensor: _xlogy,
  _ATEN.xlogy.Scalar_Other: _xlogy,
  _ATEN.convolution.default: _convolution,
  _ATEN.avg_pool1d.default: functools.partial(pooling.average_pool, 1),
  _ATEN.avg_pool2d.default: functools.partial(pooling.average_pool, 2),
  _ATEN.avg_pool3d.default: functools.partial(pooling.average_pool, 3),
  _ATEN.rrelu_with_noise.default: _rrelu,
  torch.nn.functional.linear: _linear,
  torch.einsum: _einsum,
  _ATEN.pad.default: _pad,
  torch.nn.functional.pad: _pad,
  torch.take_along_dim: _take_along,
  torch.Tensor.take_along_dim: _take_along,
  torch.nn.functional.max_pool2d: functools.partial(
    pooling.max_pool, 2, return_indices=False
  ),
  _ATEN.max_pool2d_with_indices.default: functools.partial(pooling.max_pool, 2),
  _ATEN.max_pool3d_with_indices.default: functools.partial(pooling.max_pool, 3),
  _ATEN.adaptive_max_pool2d.default: functools.partial(
    pooling.adaptive_max_pool, 2
  ),
  _ATEN.adaptive_max_pool3d.default: functools.partial(
    pooling.adaptive_max_pool, 3
  ),
}
