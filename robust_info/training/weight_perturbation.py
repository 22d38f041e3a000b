"""Adversarial weight perturbation, for any objective.

Wu, Xia, Wang, "Adversarial Weight Perturbation Helps Robust Generalization",
2020: the gradient that updates the parameters is computed at parameters moved
slightly towards higher loss, so that training ends in a flat region.
"""

from typing import Any

import jax
import jax.numpy as jnp

from robust_info.training import optimizers


def perturb(params: Any, gradient: Any, *, gamma: jax.Array | float) -> Any:
  """One normalised ascent step: `w + gamma |w| g / |g|`, layer by layer.

  Args:
    params: a pytree of arrays.
    gradient: gradient of the loss, with the structure of `params`.
    gamma: size of the step relative to the norm of each array, as in the
      paper; may be traced.

  Returns:
    The structure of `params`. Arrays of fewer than two axes (biases, scales and
    offsets of normalisation layers) are unchanged, and so are arrays whose
    gradient is 0. Cost: O(size of the parameters).
  """

  def move(is_kernel: bool, w: jax.Array, g: jax.Array) -> jax.Array:
    if not is_kernel:
      return w
    size, slope = jnp.linalg.norm(w.ravel()), jnp.linalg.norm(g.ravel())
    scale = jnp.where(slope > 0, size / jnp.where(slope > 0, slope, 1.0), 0.0)
    return w + gamma * scale * g

  return jax.tree.map(move, optimizers.kernels(params), params, gradient)
