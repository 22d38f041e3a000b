"""Checks that tell whether a robust accuracy can be believed.

The rules of Carlini et al. (2019) and the warning flags of AutoAttack, run on a
sample of the data. A failed check does not say that a model is not robust; it
says that gradient attacks, on this model, do not find out. Shape letters: N
examples, C classes.
"""

import functools
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from robust_info import _validate
from robust_info._xla import explicit_meshes
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
from robust_info.attacks.sanity import forward_checks

NORMS = ("linf", "l2")

# One compiled program of this many steps serves every number of steps.
_CHUNK = 10
_QUERIES = 500
_NOISE_DRAWS = 10


@explicit_meshes.accepted(rows=False)
def sanity_report(
  logits_fn: inputs.LogitsFn,
  x: ArrayLike,
  y: ArrayLike,
  key: Any,
  *,
  epsilon: float,
  norm: str = "linf",
  bounds: tuple[float, float] = (0.0, 1.0),
  tolerance: float = 0.02,
  evaluated: ensemble.EnsembleResult | None = None,
) -> checks.SanityReport:
  """Runs every check on a sample; a few hundred examples say enough.

  The checks, in order: the forward pass repeats (outputs scaled to unit length
  differ by at most 1e-4 between calls); rows do not depend on the batch; the
  outputs are logits, not probabilities; the forward pass differentiates
  nothing; logit gaps leave float32 gradients; logits are finite, and so are all
  gradients that the attacks met; gradients of the cross-entropy and of the DLR
  loss are not zero; epsilon = 0 gives the clean accuracy;
  iterating beats a single step; random noise is weaker; Square (500 queries) is
  weaker; success does not fall as epsilon grows (half, one, two epsilon);
  four times the steps add little; the largest possible epsilon leaves at most
  chance. `tolerance` is the share of examples by which comparisons of
  accuracies may miss.

  Not for use under `jit`. Cost: about 250 gradients and 600 forward passes on
  the sample, and five compilations.

  Args:
    logits_fn: [N, ...] -> [N, C].
    x: [N, ...] float inputs within `bounds`; images channels-last, for Square.
    y: [N] int labels.
    key: consumed.
    epsilon: radius of the ball, > 0.
    norm: "linf" or "l2".
    bounds: (low, high).
    tolerance: in [0, 1].
    evaluated: an `auto_attack` result, for AutoAttack's own flag: Square after
      the gradient attacks takes more than 0.2 points.

  Returns:
    A `SanityReport`.

  Raises:
    ValueError: bad arguments, or images that look channels-first, which Square
      attacks in vain: see `square`.
    TypeError: as `pgd`.
  """
  _validate.one_of("norm", norm, NORMS)
  inputs.channels_last("x", x)
  _validate.at_least("tolerance", tolerance, 0)
  _validate.at_least("epsilon", epsilon, 0)
  if not epsilon > 0:
    raise ValueError(f"Expected epsilon > 0, got epsilon={epsilon}.")
  inputs.require_key(key)
  checked = inputs.check(logits_fn, x, y, bounds=bounds, where=None)
  num_classes = inputs.num_classes(logits_fn, checked.x)
  _validate.labels_in_range("y", checked.y, num_classes)
  found = forward_checks.run(logits_fn, checked)
  logits = np.asarray(logits_fn(checked.x))
  found.append(
    checks.at_most(
      "finite logits",
      1 - float(np.mean(results.finite(logits))),
      0,
      "that share of examples has NaN or infinite logits, counted as wrong; "
      "mend the network",
    )
  )
  attacked, accuracies = _attack_checks(
    logits_fn, checked, key, float(epsilon), norm, tolerance, num_classes
  )
  found += attacked
  if evaluated is not None and "square" in evaluated.attacks[1:]:
    found.append(
      checks.at_most(
        "square in ensemble",
        checks.taken_by_square(evaluated.attacks, evaluated.accuracies),
        checks.SQUARE_TOLERANCE,
        "random search beats the gradient attacks: gradients are masked",
      )
    )
  return checks.SanityReport(tuple(found), accuracies)


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
  """Ascent from `start`; radius and step size are arguments."""
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


def _attack_checks(
  logits_fn: inputs.LogitsFn,
  checked: inputs.Inputs,
  key: Any,
  epsilon: float,
  norm: str,
  tolerance: float,
  num_classes: int,
) -> tuple[list[checks.Check], dict[str, float]]:
  """What attacks of known order of strength tell."""
  if not isinstance(logits_fn, jax.tree_util.Partial):
    # A new function each time: what it closes over may have changed.
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
      point, broken = outcome.x_adv, broken | np.asarray(outcome.success)
      ran.append(outcome)
    return broken

  def single(loss):
    ran.append(climb(x, y, epsilon, epsilon, loss=loss, num_steps=1))
    return ran[-1]

  wrong = ~np.asarray(results.correct(logits_fn(x), y))
  right = ~wrong
  step_size = 2.5 * epsilon / (2 * _CHUNK)
  one_step, one_step_dlr = single("cross_entropy"), single("dlr")
  still = climb(x, y, 0.0, 0.0, loss="cross_entropy", num_steps=1)
  twenty = iterated(epsilon, 2 * _CHUNK, step_size)
  half = iterated(epsilon / 2, 2 * _CHUNK, step_size / 2)
  double = iterated(2 * epsilon, 2 * _CHUNK, 2 * step_size)
  eighty = iterated(epsilon, 8 * _CHUNK, step_size)
  side = checked.high - checked.low
  largest = side if norm == "linf" else side * float(np.sqrt(x[0].size))
  everything = iterated(largest, 4 * _CHUNK, largest / 16)
  noise = wrong.copy()
  for draw in range(_NOISE_DRAWS):
    points = near(jax.random.fold_in(noise_key, draw), epsilon)
    noise |= ~np.asarray(results.correct(logits_fn(points), y))
  with warnings.catch_warnings():
    # The report says the same and more.
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
    )
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
  at = accuracies
  rises = max(
    at["pgd-20"] - at["pgd-20, half epsilon"],
    at["pgd-20, twice epsilon"] - at["pgd-20"],
  )

  def flat(outcome):
    zero = np.asarray(outcome.zero_gradients)
    return float(np.mean(zero[right])) if right.any() else 0.0

  nonfinite = [np.asarray(run.nonfinite_gradients) for run in ran]
  masked = "gradients are masked; use Square, transfer or adaptive attacks"
  found = [
    checks.at_most(
      "finite gradients",
      float(np.mean(np.any(nonfinite, axis=0))),
      0,
      "that share of examples meets NaN or infinite gradients, which count as "
      "0: attacks may be too weak; mend the layer",
    ),
    checks.at_most(
      "zero gradient, CE",
      flat(one_step),
      0.01,
      "cross-entropy has no gradient at that share of correct examples",
    ),
    checks.at_most(
      "zero gradient, DLR",
      flat(one_step_dlr),
      0.01,
      "the logits have no gradient at that share of correct examples",
    ),
    checks.at_most(
      "epsilon = 0",
      abs(accuracy(still.success) - at["clean"]),
      0,
      "the clean accuracy is not reproduced",
    ),
    checks.at_most(
      "iterating helps", at["pgd-20"] - at["fgsm"], tolerance, masked
    ),
    checks.at_most(
      "noise is weaker", at["pgd-20"] - at["noise"], tolerance, masked
    ),
    checks.at_most(
      "square is weaker", at["pgd-80"] - at["square"], tolerance, masked
    ),
    checks.at_most("grows with epsilon", rises, tolerance, masked),
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
  return found, accuracies
