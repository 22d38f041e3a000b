"""Checks that tell whether a robust accuracy can be believed.

The rules of Carlini et al. (2019) and the warning flags of AutoAttack, run on a
sample of the data. A failed check does not say that a model is not robust; it
says that gradient attacks, on this model, do not find out. Shape letters: N
examples, C classes.
"""

from typing import Any

import numpy as np
from jax.typing import ArrayLike

from robust_info import _validate
from robust_info._xla import explicit_meshes
from robust_info.attacks import (
  checks,
  inputs,
  results,
)
from robust_info.attacks.autoattack import ensemble
from robust_info.attacks.sanity import attack_checks, forward_checks

NORMS = ("linf", "l2")


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
  attacked, accuracies = attack_checks.run(
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
