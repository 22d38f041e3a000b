"""Tensors of torchax: their values, derivatives and views.

Imported only with PyTorch installed.
"""

import contextvars
from typing import Any

import jax
import jax.numpy as jnp
from torchax import tensor, view

Tensor, View = tensor.Tensor, view.View
# The mode of the module that this thread runs, if any.
RUNNING: contextvars.ContextVar[Any] = contextvars.ContextVar(
  "robust_info_torch", default=None
)


class Detached(view.ViewInfo):
  """A view without derivatives; writes reach the values of its source."""

  def __init__(self):
    super().__init__(view.ViewInfoType.NO_OP)

  def transform_tensor(self, jax_array):
    """The view of an array."""
    return jax.lax.stop_gradient(jax_array)

  def update_tensor(self, new_value, jax_array):
    """The array after a write into its view."""
    return derived_as(new_value, jax_array)

  def calculate_output_shape(self, source):
    """The shape of the view of an array."""
    return source.shape


@jax.custom_jvp
def _identity_of_second(value: jax.Array, old: jax.Array) -> jax.Array:
  return value


@_identity_of_second.defjvp
def _(primals, tangents):
  return primals[0], tangents[1]


def derived_as(value: jax.Array, old: jax.Array) -> jax.Array:
  """`value` with the derivative of `old`."""
  if not jnp.issubdtype(old.dtype, jnp.inexact) or value.dtype != old.dtype:
    return jax.lax.stop_gradient(value)
  return _identity_of_second(value, old)


def is_tensor(value: Any) -> bool:
  """Whether a value is a tensor of torchax."""
  return isinstance(value, Tensor | View)


def root_of(tensor: Any) -> Any:
  """The tensor that a view shows, and a tensor itself."""
  while isinstance(tensor, View):
    tensor = tensor.parent
  return tensor
