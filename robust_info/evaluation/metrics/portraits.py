"""Single examples: their most fragile direction, and an attack on them."""

from typing import Any

import jax
import numpy as np

from robust_info import fisher
from robust_info.evaluation import evaluator as evaluator_lib
from robust_info.evaluation.metrics import attacked


def portraits(
  evaluator: evaluator_lib.Evaluator, variables: Any, indices: np.ndarray
) -> dict[str, np.ndarray]:
  """The contents of the figure of single examples.

  Args:
    evaluator: evaluator on the split.
    variables: variables of the network.
    indices: int [M], row numbers in the split.

  Returns:
    `eigenvectors` (the top one of F) and `adversarial` (PGD at
    `settings.epsilon`), both [M, H, W, channels], and `probabilities` and
    `adversarial_probabilities`, both [M, C].
  """
  settings = evaluator.settings
  return evaluator.at(
    _portray,
    variables,
    indices,
    evaluator.keys.attack,
    settings.epsilon,
    **attacked.static_options(settings, "pgd"),
  )


def _portray(logits_fn, examples, key, epsilon, **static):
  _, vectors = fisher.fisher_eigenvectors(logits_fn, examples.x, k=1)
  found = attacked.run(logits_fn, examples, key, epsilon, **static)
  return {
    "eigenvectors": vectors[:, 0],
    "adversarial": found.x_adv,
    "probabilities": jax.nn.softmax(logits_fn(examples.x)),
    "adversarial_probabilities": jax.nn.softmax(found.logits),
  }
