"""Checks of a network that need no attack: what its outputs alone tell.

Shape letters: N examples, C classes.
"""

import sys
from concurrent import futures

import jax
import jax.numpy as jnp
import numpy as np

from robust_info.attacks import checks, inputs

# A logit gap beyond which exp(-gap) is 0 in float32 (denormals flushed).
_FLOAT32_GAP = 87.0
_DIFFERENTIATES = ("value_and_grad_f", "vjp", "_vjp", "linearize")


def run(
  logits_fn: inputs.LogitsFn, checked: inputs.Inputs
) -> list[checks.Check]:
  """What the outputs alone tell; calls `logits_fn` outside `jit`."""
  x = checked.x
  logits = np.asarray(logits_fn(x), np.float64)
  repeats = max(
    checks.largest_change(logits, np.asarray(logits_fn(x), np.float64))
    for _ in range(4)
  )
  # Rolled by one and cut by one: another place and another batch size.
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
      float(_differentiates(logits_fn, x)),
      0,
      "the forward pass optimises; attack it adaptively",
    ),
    checks.at_most(
      "float32 saturation",
      wide,
      0.01,
      "logit gaps beyond 87: cross-entropy has no gradient; use margin or DLR, "
      "or rescale the logits",
    ),
  ]


def _differentiates(logits_fn: inputs.LogitsFn, x: jax.Array) -> bool:
  """Whether tracing the forward pass calls `jax.grad` or a relative."""
  seen = []

  def watch(frame, event, _):
    code = frame.f_code
    file = code.co_filename.replace("\\", "/")
    if (
      event == "call"
      and code.co_name in _DIFFERENTIATES
      and file.endswith("jax/_src/api.py")
    ):
      seen.append(code.co_name)

  def trace():
    sys.setprofile(watch)
    try:
      # Without `jit`, or what was traced before would be passed over.
      with jax.disable_jit():
        jax.eval_shape(lambda points: logits_fn(points), x)
    finally:
      sys.setprofile(None)

  # A thread has a profile function of its own: the caller's profiler, which
  # may not be a function, stays as it is.
  with futures.ThreadPoolExecutor(max_workers=1) as pool:
    pool.submit(trace).result()
  return bool(seen)
