"""Comparison of an adapter's gradient with that of PyTorch."""

import copy
import dataclasses
import importlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from robust_info import _validate
from robust_info.adapters import base
from robust_info.adapters.pytorch import copies

# Number of images that are compared, and the size of a shift, in units of their
# range: where images are constant, ReLU and max pooling have ties, at which
# libraries choose different derivatives.
_ROWS, _SHIFT = 8, 1e-2
# Relative differences of gradients: the smallest that is refused, the factor by
# which rounding the inputs counts (it measures the condition of the network),
# and a bound, below the 1 of a gradient that is missing.
_TOLERANCE, _FACTOR, _LARGEST = 0.05, 20.0, 0.9


def compare(
  network: jax.tree_util.Partial, module: Any, images: ArrayLike
) -> None:
  """Compares one input gradient of an adapter with PyTorch's.

  Both compute in float32 at least, so that half precision raises no alarm.

  Args:
    network: result of the adapter.
    module: the module on the CPU, in evaluation mode.
    images: batch in the layout of the adapter.

  Raises:
    ValueError: the gradients differ by more than rounding explains.
  """
  images = np.asarray(base.float_inputs("images", images))[:_ROWS]
  if not images.size:
    return
  rng = np.random.default_rng(0)
  spread = float(np.ptp(images)) or 1.0
  shift = rng.uniform(-spread, spread, images.shape) * _SHIFT
  x = np.asarray(
    network.func.converted(jnp.asarray(images + shift, images.dtype))
  )
  weights = rng.normal(
    size=_validate.network("the network", network, jnp.asarray(images))
  )
  output = network.func.conversion.output
  module = copies.copied(module, _wide)
  noise = 4 * np.finfo(np.float32).eps * rng.choice([-1, 1], x.shape)
  try:
    expected = _of_torch(module, output, x, weights)
    nearby = _of_torch(
      module, output, (x * (1 + noise)).astype(x.dtype), weights
    )
  # The module's own code may raise anything. PyTorch cannot differentiate it,
  # or not in float32, so that there is nothing to compare with.
  except Exception:
    return
  try:
    found = _of_jax(network, x, weights)
  # Backward rules may raise anything.
  except Exception as error:
    raise ValueError(
      "Expected module to be differentiable as in PyTorch, got "
      f"{_validate.reason(error).rstrip('.')}; write that operation by others."
    ) from error
  difference = _difference(found, expected)
  allowed = _TOLERANCE + _FACTOR * _difference(nearby, expected)
  if not difference <= min(allowed, _LARGEST):
    raise ValueError(
      "Expected the gradient of the adapter to be that of the network, got a "
      f"relative difference of {difference:.3g}; write the operation with "
      "another derivative as a torch.autograd.Function."
    )


def _wide(tensor: Any) -> Any:
  torch = importlib.import_module("torch")
  half = tensor.dtype in (torch.float16, torch.bfloat16)
  return tensor.float() if half else tensor


def _of_torch(
  module: Any, output: int | str | None, x: np.ndarray, weights: np.ndarray
) -> np.ndarray:
  torch = importlib.import_module("torch")
  tensors = copies.tensors(module)
  first = copies.first_float(tensors)
  dtype = tensors[first].dtype if first else torch.float32
  inputs = torch.from_numpy(x.copy()).to(dtype).requires_grad_()
  # Modules may keep tensors, or write into their inputs, which leaves may not.
  outputs = copy.deepcopy(module)(inputs * 1)
  logits = outputs if output is None else outputs[output]
  logits = logits.reshape(len(x), -1).double()
  # A network with one output has the logits 0 and its own.
  total = (logits * torch.from_numpy(weights[-logits.shape[1] :])).sum()
  if not total.requires_grad:
    return np.zeros(x.shape)
  # Not torch.autograd.grad: some checkpoints refuse it.
  total.backward()
  if inputs.grad is None:
    return np.zeros(x.shape)
  return inputs.grad.double().numpy()


def _of_jax(
  network: jax.tree_util.Partial, x: np.ndarray, weights: np.ndarray
) -> np.ndarray:
  output = network.func.conversion.output
  plain = dataclasses.replace(
    network.func, conversion=base.Conversion(output=output)
  )
  variables = jax.tree.map(
    lambda a: (
      a.astype(jnp.promote_types(a.dtype, jnp.float32))
      if jnp.issubdtype(a.dtype, jnp.floating)
      else a
    ),
    network.args[0],
  )

  def total(x, variables):
    logits = plain(variables, x)
    return jnp.sum(logits @ jnp.asarray(weights, logits.dtype))

  return np.asarray(jax.jit(jax.grad(total))(jnp.asarray(x), variables), float)


def _difference(found: np.ndarray, expected: np.ndarray) -> float:
  """Norm of the difference, relative to the larger gradient."""
  # PyTorch's own NaN says nothing about the adapter.
  known = np.isfinite(expected)
  found, expected = found[known], expected[known]
  largest = max(np.linalg.norm(found), np.linalg.norm(expected))
  return float(np.linalg.norm(found - expected) / largest) if largest else 0.0
