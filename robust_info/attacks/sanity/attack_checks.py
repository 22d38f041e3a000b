"""Sanity checks that compare attacks whose order of strength is known."""

import functools
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from robust_info import _validate
from robust_info.attacks import (
  ascent,
  checks,
  initial,
  inputs,
  losses,
  projections,
  results,
  steps,
)
from robust_info.attacks.autoattack import ensemble, flags

# Steps per compiled program; longer attacks call the same program repeatedly.
_CHUNK = 10
_QUERIES = 500
_NOISE_DRAWS = 10
# Steps of the iterated attacks: at epsilon, half of it and twice of it; four
# times the steps; at the largest epsilon.
_STEPS, _MANY_STEPS, _LARGEST_STEPS = 2 * _CHUNK, 8 * _CHUNK, 4 * _CHUNK
# Forward passes per example of `run`, a backward pass as one more: of the
# single steps and iterated attacks, and of the draws of noise.
_BEFORE_SQUARE = (
  2 * (3 + 3 * _STEPS + _MANY_STEPS + _LARGEST_STEPS) + _NOISE_DRAWS
)
PASSES = _BEFORE_SQUARE + _QUERIES


class Meter:
  """Tells the share of `PASSES` that is done."""

  def __init__(self, progress: Callable[[float], None] | None):
    """Starts at 0; without a function it tells nobody."""
    self._progress = progress
    self._done = self._told = 0

  def add(self, passes: int) -> None:
    """Counts passes per example."""
    self._done += passes
    self._tell(self._done)

  def at_query(self, event: ensemble.Progress, num_examples: int) -> None:
    """Notes how far Square is; examples that it does not get are done."""
    left = event.total - event.finished - event.under_way
    self._tell(PASSES - _QUERIES * left / num_examples)

  def end(self) -> None:
    """Notes the end, which Square reaches early where it breaks everything."""
    self._tell(PASSES)

  def _tell(self, passes: float) -> None:
    if self._progress is not None and passes != self._told:
      self._progress(passes / PASSES)
    self._told = passes


@functools.partial(
  jax.jit,
  static_argnames=("norm", "loss", "num_steps", "low", "high"),
)
def _climb(
  logits_fn,
  x,
  start,
  y,
  epsilon,
  step_size,
  *,
  norm,
  loss,
  num_steps,
  low,
  high,
):
  """Ascends from `start`; radius and step size are traced arguments."""
  return ascent.ascend(
    ascent.label_objective(
      ascent.evaluator(logits_fn, None),
      y,
      losses.resolve(loss),
      targeted=False,
    ),
    x,
    start,
    jnp.ones(x.shape[0], bool),
    None,
    epsilon=epsilon,
    step_size=step_size,
    num_steps=num_steps,
    step_rule=steps.BY_NORM[norm],
    projection=projections.BY_NORM[norm],
    momentum=0.0,
    keep="last",
    low=low,
    high=high,
  )


def run(
  logits_fn: _validate.LogitsFn,
  checked: inputs.Inputs,
  key: Any,
  epsilon: float,
  norm: str,
  tolerance: float,
  num_classes: int,
  meter: Meter,
) -> tuple[list[checks.Check], dict[str, float]]:
  """Attacks the sample and compares the accuracies.

  Returns:
    The checks, and the accuracies by attack.
  """
  if not isinstance(logits_fn, jax.tree_util.Partial):
    # Wrap in a new function per call, so that it is traced again: values that
    # it closes over may have changed.
    plain = logits_fn
    logits_fn = jax.tree_util.Partial(lambda points: plain(points))
  x, y = checked.x, checked.y
  n = x.shape[0]
  box = {"low": checked.low, "high": checked.high}
  climb = functools.partial(_climb, logits_fn, x, norm=norm, **box)
  noise_key, start_key, square_key = jax.random.split(key, 3)
  ran = []

  def near(draw_key, radius):
    keys = inputs.example_keys(draw_key, None, n)
    point = x + initial.BY_NORM[norm](keys, x, jnp.asarray(radius, x.dtype))
    return projections.BY_NORM[norm](point, x, radius, **box)

  def accuracy(broken):
    return 1 - float(np.mean(np.asarray(broken)))

  def iterated(radius, num_steps, step_size):
    point, broken = near(start_key, radius), np.zeros(n, bool)
    for _ in range(num_steps // _CHUNK):
      outcome = climb(
        point,
        y,
        radius,
        step_size,
        loss="cross_entropy",
        num_steps=_CHUNK,
      )
      meter.add(2 * _CHUNK)
      point, broken = outcome.x_adv, broken | np.asarray(outcome.success)
      ran.append(outcome)
    return broken

  def single(loss, radius=epsilon):
    outcome = climb(x, y, radius, radius, loss=loss, num_steps=1)
    meter.add(2)
    return outcome

  wrong = ~np.asarray(results.correct(logits_fn(x), y))
  right = ~wrong
  step_size = 2.5 * epsilon / _STEPS
  one_step, one_step_dlr = single("cross_entropy"), single("dlr")
  ran += [one_step, one_step_dlr]
  still = single("cross_entropy", radius=0.0)
  twenty = iterated(epsilon, _STEPS, step_size)
  half = iterated(epsilon / 2, _STEPS, step_size / 2)
  double = iterated(2 * epsilon, _STEPS, 2 * step_size)
  eighty = iterated(epsilon, _MANY_STEPS, step_size)
  side = checked.high - checked.low
  largest = side if norm == "linf" else side * float(np.sqrt(x[0].size))
  everything = iterated(largest, _LARGEST_STEPS, largest / 16)
  noise = wrong.copy()
  for draw in range(_NOISE_DRAWS):
    points = near(jax.random.fold_in(noise_key, draw), epsilon)
    noise |= ~np.asarray(results.correct(logits_fn(points), y))
    meter.add(1)
  with warnings.catch_warnings():
    # The report contains these warnings already.
    warnings.simplefilter("ignore", flags.AttackWarning)
    square = ensemble.auto_attack(
      logits_fn,
      x,
      y,
      square_key,
      epsilon=epsilon,
      norm=norm,
      attacks=("square",),
      num_queries=_QUERIES,
      bounds=(checked.low, checked.high),
      progress=lambda event: meter.at_query(event, n),
    )
  meter.end()
  accuracies = {
    "clean": accuracy(wrong),
    "fgsm": accuracy(one_step.success),
    "pgd-20": accuracy(twenty),
    "pgd-80": accuracy(eighty),
    "noise": accuracy(noise),
    "square": square.robust_accuracy,
    "pgd-20, half epsilon": accuracy(half),
    "pgd-20, twice epsilon": accuracy(double),
    "pgd-40, largest epsilon": accuracy(everything),
  }

  def flat(outcome):
    zero = np.asarray(outcome.zero_gradients)
    return float(np.mean(zero[right])) if right.any() else 0.0

  nonfinite = [np.asarray(run.nonfinite_gradients) for run in ran]
  found = _gradient_checks(
    float(np.mean(np.any(nonfinite, axis=0))),
    flat(one_step),
    flat(one_step_dlr),
  )
  found += _comparisons(
    accuracies, accuracy(still.success), tolerance, num_classes
  )
  return found, accuracies


def _gradient_checks(nonfinite, flat, flat_dlr) -> list[checks.Check]:
  """Checks of gradients, from shares of examples."""
  return [
    checks.at_most(
      "finite gradients",
      nonfinite,
      0,
      "that share of examples meets NaN or infinite gradients, which count as "
      "0: attacks may be too weak; mend the layer",
    ),
    checks.at_most(
      "zero gradient, CE",
      flat,
      0.01,
      "cross-entropy has no gradient at that share of correct examples",
    ),
    checks.at_most(
      "zero gradient, DLR",
      flat_dlr,
      0.01,
      "the logits have no gradient at that share of correct examples",
    ),
  ]


def _comparisons(at, still, tolerance, num_classes) -> list[checks.Check]:
  """Comparisons of accuracies by attack; `still` is that at radius 0."""
  rises = max(
    at["pgd-20"] - at["pgd-20, half epsilon"],
    at["pgd-20, twice epsilon"] - at["pgd-20"],
  )
  masked = "gradients are masked; use Square, transfer or adaptive attacks"
  weaker = (
    ("iterating helps", at["pgd-20"] - at["fgsm"]),
    ("noise is weaker", at["pgd-20"] - at["noise"]),
    ("square is weaker", at["pgd-80"] - at["square"]),
    ("grows with epsilon", rises),
  )
  return [
    checks.at_most(
      "epsilon = 0",
      abs(still - at["clean"]),
      0,
      "the clean accuracy is not reproduced",
    ),
    *(checks.at_most(name, value, tolerance, masked) for name, value in weaker),
    checks.at_most(
      "enough steps",
      at["pgd-20"] - at["pgd-80"],
      max(tolerance, 0.05),
      "20 steps are far from enough here; report the stronger attack",
    ),
    checks.at_most(
      "largest epsilon",
      at["pgd-40, largest epsilon"],
      1 / num_classes + tolerance,
      masked,
    ),
  ]
