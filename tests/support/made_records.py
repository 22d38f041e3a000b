"""Records of studies whose truth is known."""

import numpy as np

from robust_info.study import records
from robust_info.study.questions import _predicts

_NAMES = [
  name
  for measures in (_predicts.CANDIDATES, _predicts.BASELINES)
  for name, _ in measures.values()
]
NUMBERS = (
  "accuracy",
  "cross_entropy",
  "cckl",
  "label_information",
  "robust_accuracy",
  "robust_accuracy_pgd",
  "distance_mean",
  "local_share",
  "path_share",
  "epsilon_label_information_share",
  "epsilon_label_information_non_robust",
  *_NAMES,
)
CURVES = (
  "accuracy",
  "cross_entropy",
  "cckl",
  "label_information",
  "robust_label_information",
  "fisher_frobenius",
  "fisher_frobenius_median",
  "fisher_frobenius_q95",
  "local_non_robust",
  "path_non_robust",
)


def record(
  recipe, seed, *, case="case", doubts=(), curves=None, seconds=None, **numbers
):
  """A record; unnamed numbers are 1, unnamed curves constant."""
  trajectory = {name: [1.0] * 8 for name in CURVES}
  trajectory["step"] = trajectory["epoch"] = [0.0, 1, 2, 4, 8, 16, 32, 64]
  return records.Record(
    case=case,
    recipe=recipe,
    seed=seed,
    digest="d",
    numbers=dict.fromkeys(NUMBERS, 1.0) | numbers,
    trajectory=trajectory | (curves or {}),
    doubts=list(doubts),
    about={"gradients_per_example": 10.0},
    seconds=seconds,
  )


def noise(seed, size=None, scale=0.02):
  return scale * np.random.default_rng(seed).normal(size=size)
