"""Versions below us that compute wrong numbers."""

import os
import warnings

import jaxlib

# Under jit on CPU, from about 32,768 elements, a broadcast, a product and a
# sum fused into one are silently wrong (jax-ml/jax#39103).
_WRONG_ON_CPU = ("0.10.2",)
_SWITCH = "--xla_cpu_experimental_ynn_fusion_type="


def warn() -> None:
  """Warns, once an import, where CPU results cannot be trusted."""
  version = jaxlib.__version__
  if version in _WRONG_ON_CPU and _SWITCH not in os.environ.get(
    "XLA_FLAGS", ""
  ):
    warnings.warn(
      f"jaxlib {version} computes silently wrong numbers on CPU "
      "(jax-ml/jax#39103); install another version, or set "
      f"XLA_FLAGS={_SWITCH} before importing jax.",
      RuntimeWarning,
      stacklevel=3,
    )
