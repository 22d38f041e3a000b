"""Single examples of a report, with everything that is shown of them.

Shapes: `R` runs, `N` examples, `C` classes.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from robust_info import config as config_lib
from robust_info import data, evaluation
from robust_info.evaluation.metrics import attacked, portraits
from robust_info.report import networks

_NUM_EXAMPLES = 6


@dataclasses.dataclass(frozen=True)
class Examples:
  """Images, their top Fisher eigenvectors, and an attack, for every run.

  Attributes:
    images: clean images, in [0, 1].
    eigenvectors: top eigenvectors of the Fisher information of the input; their
      signs are arbitrary.
    adversarial: attacked images.
    probabilities: predictions at the clean images.
    adversarial_probabilities: predictions at the attacked images.
    labels: N true classes.
    threat: attack and ball as text, for example "PGD-20, linf 0.1".
  """

  images: Float[np.ndarray, "N H W channels"]
  eigenvectors: Float[np.ndarray, "R N H W channels"]
  adversarial: Float[np.ndarray, "R N H W channels"]
  probabilities: Float[np.ndarray, "R N C"]
  adversarial_probabilities: Float[np.ndarray, "R N C"]
  labels: list[int]
  threat: str


def first_of_classes(
  used: Sequence[tuple[str, networks.Network, evaluation.Evaluator]],
  split: data.Split,
  settings: config_lib.EvaluationConfig,
) -> Examples:
  """The first examples of different classes.

  Args:
    used: name, network and evaluator of every run.
    split: the examples of the report.
    settings: settings of the report.
  """
  _, first = np.unique(split.labels, return_index=True)
  indices = np.sort(first)[:_NUM_EXAMPLES]
  found: list[Mapping[str, Any]] = [
    portraits.portraits(evaluator, network.variables, indices)
    for _, network, evaluator in used
  ]
  return Examples(
    images=split.images[indices] / 255.0,
    **{
      key: np.stack([portrait[key] for portrait in found])
      for key in (
        "eigenvectors",
        "adversarial",
        "probabilities",
        "adversarial_probabilities",
      )
    },
    labels=split.labels[indices].tolist(),
    threat=(
      f"{attacked.attack_name('pgd', settings)}, {settings.norm} "
      f"{settings.epsilon:g}"
    ),
  )
