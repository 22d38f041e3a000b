"""Sanity checks of a network from its outputs alone, without an attack.

Shape letters: N examples, C classes.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from robust_info import _validate
from robust_info._xla import convolutions
from robust_info.attacks import checks, inputs

# Logit gap beyond which exp(-gap) is 0 in float32 (denormals flushed).
_FLOAT32_GAP = 87.0
_DERIVATIVE = "jvp("


def run(
  logits_fn: _validate.LogitsFn, checked: inputs.Inputs
) -> list[checks.Check]:
  """Runs the checks of the outputs; calls `logits_fn` outside `jit`."""
  x = checked.x
  logits = np.asarray(logits_fn(x), np.float64)
  repeats = max(
    checks.largest_change(logits, np.asarray(logits_fn(x), np.float64))
    for _ in range(4)
  )
  # Roll by one and cut by one: every row at another place, and another batch
  # size.
  rolled = np.asarray(logits_fn(jnp.roll(x, 1, axis=0)), np.float64)
  moved = checks.largest_change(logits, np.roll(rolled, -1, axis=0))
  if len(x) > 1:
    fewer = np.concatenate([np.asarray(logits_fn(x[:-1])), logits[-1:]])
    moved = max(moved, checks.largest_change(logits, fewer))
  probabilities = float(checks.look_like_probabilities(logits))
  ordered = np.sort(logits, axis=1)
  wide = float(np.mean(ordered[:, -1] - ordered[:, -2] > _FLOAT32_GAP))
  return [
    checks.at_most(
      "random forward pass",
      repeats,
      1e-4,
      "the output changes from call to call; use version='rand'",
    ),
    checks.at_most(
      "row dependence",
      moved,
      1e-4,
      "a row's output depends on its batch; use evaluation mode, and noise by "
      "an explicit key",
    ),
    checks.at_most(
      "probabilities",
      probabilities,
      0,
      "the outputs look like probabilities; return logits, before softmax",
    ),
    checks.at_most(
      "gradient inside",
      differentiates(logits_fn, x),
      0,
      "the forward pass optimises, attack it adaptively; NaN: this version of "
      "JAX does not tell",
    ),
    checks.at_most(
      "float32 saturation",
      wide,
      0.01,
      "logit gaps beyond 87: cross-entropy has no gradient; use margin or DLR, "
      "or rescale the logits",
    ),
  ]


def differentiates(logits_fn: _validate.LogitsFn, x: jax.Array) -> float:
  """1 if the forward pass differentiates anything, 0 if not, NaN if unknown.

  In a traced program the name of each operation records its origin, also inside
  `jit` and loops: "jvp(...)" for all operations that `jax.grad` and its
  relatives add. NaN means that this version of JAX uses other names: they are
  missing even from a probe that does differentiate.
  """
  probe = jax.make_jaxpr(jax.grad(jnp.sin))(1.0)
  if not _has_derivative(probe):
    return math.nan
  # A new function, so that JAX traces it now and finds no earlier trace.
  return float(_has_derivative(jax.make_jaxpr(lambda v: logits_fn(v))(x)))


def _has_derivative(program: Any) -> bool:
  return any(
    _DERIVATIVE in str(eqn.source_info.name_stack)
    or any(map(_has_derivative, convolutions.programs(eqn)))
    for eqn in program.eqns
  )
