"""Sanity checks of whether a robust accuracy can be trusted.

These are the rules of Carlini et al. (2019) and the warning flags of
AutoAttack, run on a sample of the data. A failed check does not mean that a
model is not robust; it means that gradient attacks cannot tell for this model.
Shape letters: N examples, C classes.
"""

from collections.abc import Callable

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float, Integer, PRNGKeyArray

from robust_info import _validate
from robust_info._xla import explicit_meshes
from robust_info.attacks import checks, inputs, projections, results
from robust_info.attacks.autoattack import ensemble
from robust_info.attacks.sanity import attack_checks, forward_checks


@explicit_meshes.accepted(rows=False)
def sanity_report(
  logits_fn: _validate.LogitsFn,
  x: Float[ArrayLike, "N ..."],
  y: Integer[ArrayLike, " N"],
  key: PRNGKeyArray,
  *,
  epsilon: float,
  norm: str = "linf",
  bounds: tuple[float, float] = (0.0, 1.0),
  tolerance: float = 0.02,
  evaluated: ensemble.EnsembleResult | None = None,
  progress: Callable[[float], None] | None = None,
) -> checks.SanityReport:
  """Runs every sanity check on a sample; a few hundred examples are enough.

  The checks, in order:

  - The forward pass repeats: outputs scaled to unit length differ by at most
    1e-4 between calls.
  - Rows do not depend on the batch.
  - The outputs are logits, not probabilities.
  - The forward pass differentiates nothing.
  - Logit gaps leave float32 gradients.
  - Logits are finite, and so are all gradients in the attacks.
  - Gradients of the cross-entropy and of the DLR loss are not zero.
  - epsilon = 0 gives the clean accuracy.
  - Iterating beats a single step.
  - Random noise is weaker.
  - Square (500 queries) is weaker.
  - Success does not fall as epsilon grows (half, one, two epsilon).
  - Four times the steps add little.
  - The largest possible epsilon leaves at most chance.

  `tolerance` is the share of examples by which comparisons of accuracies may
  miss.

  Not for use under `jit`. Cost: about 180 gradients and 540 forward passes on
  the sample, and five compilations.

  Args:
    logits_fn: network, [N, ...] -> [N, C].
    x: [N, ...] float inputs within `bounds`; images channels-last, for Square.
    y: [N] int labels.
    key: PRNG key, consumed.
    epsilon: radius of the ball, > 0.
    norm: "linf" or "l2".
    bounds: (low, high) of valid inputs, both finite.
    tolerance: tolerance of comparisons of accuracies, in [0, 1].
    evaluated: result of `auto_attack`, for AutoAttack's own flag: Square after
      the gradient attacks takes more than 0.2 points.
    progress: function called now and then with the share of the work done, in
      [0, 1], at last with 1.

  Returns:
    A `SanityReport`.

  Raises:
    ValueError: an argument is bad, or images look channels-first, where Square
      is weak: see `square`.
    TypeError: as `pgd`.
  """
  _validate.one_of("norm", norm, projections.COMMON_NORMS)
  inputs.channels_last("x", x)
  _validate.at_least("tolerance", tolerance, 0)
  _validate.at_least("epsilon", epsilon, 0)
  if not epsilon > 0:
    raise ValueError(f"Expected epsilon > 0, got epsilon={epsilon}.")
  inputs.require_key(key)
  _require_finite(bounds)
  checked = inputs.check(logits_fn, x, y, bounds=bounds, where=None)
  _validate.some_examples("x", checked.x)
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
  attacked, accuracies = attack_checks.run(
    logits_fn,
    checked,
    key,
    float(epsilon),
    norm,
    tolerance,
    num_classes,
    attack_checks.Meter(progress),
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


def _require_finite(bounds: inputs.Bounds) -> None:
  """Requires a box that a ball can fill."""
  if not np.isfinite(inputs.box(bounds)).all():
    raise ValueError(
      "Expected finite bounds (low, high), because one check attacks in the "
      f"whole box, got bounds={bounds}; pass those of your inputs."
    )
