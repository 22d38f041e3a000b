"""What a report says of one network, measured and described.

Finished measurements are kept in a `MeasurementCache`. Information in nats.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from robust_info import config as config_lib
from robust_info import (
  disentangle,
  evaluation,
  fisher,
  measurement_cache,
  robustness,
)

_QUANTILES = {"q05": 0.05, "q25": 0.25, "median": 0.5, "q75": 0.75, "q95": 0.95}
# Name in a report -> field of `fisher.FisherNorms`.
_NORMS = {
  "trace": "trace",
  "frobenius": "frobenius",
  "spectral": "spectral_norm",
}
_INFORMATION = (
  "mutual_information",
  "lautum_information",
  "label_information",
  "conditional_information",
  "variational_bound",
  "label_entropy",
  "prediction_entropy",
  "cckl",
)
_compiled_lens = jax.jit(robustness.epsilon_lens)
# (label of the measurement) -> called with (done, total).
Ticks = Callable[[str], evaluation.Tick]


def attack_name(attack: str, settings: config_lib.EvaluationConfig) -> str:
  """What a number of this attack is called, "PGD-20x2" with two restarts."""
  name = {"pgd": "PGD", "kl_pgd": "KL-PGD"}[attack]
  restarts = f"x{settings.restarts}" if settings.restarts > 1 else ""
  return f"{name}-{settings.num_steps}{restarts}"


def measure(
  evaluator: evaluation.Evaluator,
  variables: Any,
  settings: config_lib.EvaluationConfig,
  cache: measurement_cache.MeasurementCache,
  *,
  ticks: Ticks,
) -> dict[str, Any]:
  """Measures one network; finished measurements come from the cache.

  Args:
    evaluator: of its architecture, on the split to report.
    variables: of the network.
    settings: those of the evaluator.
    cache: for exactly this network, split and settings.
    ticks: gives the progress callback of each long measurement.

  Returns:
    The fields of a `runs` entry that are measured. `robust_accuracy` takes
    each example at its worst up to a radius, the clean point included, and so
    may lie below the accuracy of `epsilon_lens`, which is that of one attack.
  """
  clean = evaluator.predict(variables)
  summary = clean.summary

  def attack(kind: str, epsilon: float) -> dict[str, Any]:
    label = f"{attack_name(kind, settings)} {settings.norm} {epsilon:g}"

    def run():
      found = evaluator.attack(
        variables, epsilon=epsilon, attack=kind, tick=ticks(label)
      )
      return {
        "correct": found.correct.astype(int).tolist(),
        "lens": _epsilon_lens(_compiled_lens(clean.stats, found.stats)),
      }

    return cache.get(f"{kind}-{epsilon!r}", run)

  norms = cache.get(
    "fisher",
    lambda: _norms(
      evaluator.fisher_norms(variables, tick=ticks("Fisher information"))
    ),
  )
  local = cache.get(
    "local-lens", lambda: describe_lens(evaluator.local_lens(variables))
  )
  path = cache.get(
    "path-lens",
    lambda: describe_lens(
      evaluator.path_lens(variables, tick=ticks("path lens"))
    ),
  )
  grid = sorted({0.0, *settings.epsilon_grid, settings.epsilon})
  curve = accuracy_curve(
    clean.correct,
    [
      (epsilon, np.array(attack("pgd", epsilon)["correct"], bool))
      for epsilon in grid
      if epsilon > 0
    ],
  )
  lenses = [
    {
      "attack": attack_name(kind, settings),
      "norm": settings.norm,
      "epsilon": settings.epsilon,
      **attack(kind, settings.epsilon)["lens"],
    }
    for kind in evaluation.ATTACKS
  ]
  return {
    "performance": {
      "accuracy": float(clean.correct.mean()),
      "cross_entropy": float(summary.cross_entropy),
      "calibration_error": clean.calibration_error,
    },
    "information": {
      name: float(getattr(summary, name)) for name in _INFORMATION
    },
    "cckl_matrix": _floats(summary.cckl_matrix),
    "fisher": norms,
    "local_lens": local,
    "path_lens": path,
    "epsilon_lens": lenses[0],
    "epsilon_lens_by_attack": lenses,
    "robust_accuracy": [
      {"attack": attack_name("pgd", settings), "norm": settings.norm, **point}
      for point in curve
    ],
  }


def describe(values: np.ndarray) -> dict[str, float]:
  """Mean, its standard error, and quantiles of a sample [M].

  The standard error of a single value is NaN.
  """
  values = np.asarray(values, np.float64)
  error = math.nan
  if len(values) > 1:
    error = values.std(ddof=1) / math.sqrt(len(values))
  return {
    "mean": float(values.mean()),
    "standard_error": float(error),
    **{
      name: float(np.quantile(values, level))
      for name, level in _QUANTILES.items()
    },
  }


def _norms(norms: fisher.FisherNorms) -> dict[str, Any]:
  """Sample statistics of the norms over examples.

  `estimation_error` is the mean over examples of how far each value may be
  off; 0 where it is exact.
  """
  return {
    name: {
      **describe(getattr(norms, field)),
      "estimation_error": float(
        getattr(norms, f"{field}_error").mean(dtype=np.float64)
      ),
    }
    for name, field in _NORMS.items()
  }


def describe_lens(components: disentangle.Components) -> dict[str, Any]:
  """Sample statistics of a lens over pairs.

  Args:
    components: NumPy [P].

  Returns:
    `describe` of the three parts; `non_robust_share`, the ratio of the means
    of the non-robust part and the total, with its standard error by the delta
    method (NaN for a mean total of 0); and, of a lens with a quadrature, the
    mean and the largest of its estimated errors.
  """
  parts = {
    name: describe(getattr(components, name))
    for name in ("total", "non_robust", "robust")
  }
  total = parts["total"]["mean"]
  share = parts["non_robust"]["mean"] / total if total else math.nan
  entry = {
    "num_pairs": len(components.total),
    **parts,
    "non_robust_share": share,
    "non_robust_share_standard_error": _ratio_error(
      components.non_robust, components.total
    ),
  }
  if components.error is not None:
    entry["quadrature_error"] = {
      "mean": float(np.mean(components.error, dtype=np.float64)),
      "max": float(np.max(components.error)),
    }
  return entry


def _ratio_error(part: np.ndarray, total: np.ndarray) -> float:
  """Standard error of mean(part) / mean(total), by the delta method."""
  part, total = np.asarray(part, np.float64), np.asarray(total, np.float64)
  mean = total.mean()
  if len(part) < 2 or mean == 0:
    return math.nan
  residual = part - part.mean() / mean * total
  return float(residual.std(ddof=1) / math.sqrt(len(part)) / mean)


def accuracy_curve(
  clean: np.ndarray, attacked: list[tuple[float, np.ndarray]]
) -> list[dict[str, float]]:
  """Robust accuracy by radius, each example at its worst so far.

  A point that fools the network at a radius lies in every larger ball, so an
  example broken once stays broken: the curve never rises.

  Args:
    clean: bool [N], correct at the clean inputs.
    attacked: radii, in increasing order, with who is correct there, bool [N].

  Returns:
    `epsilon`, `accuracy` and its binomial `standard_error`, from radius 0 on.
  """
  correct = clean.copy()
  curve = []
  for epsilon, survivors in [(0.0, clean), *attacked]:
    correct &= survivors
    accuracy = float(correct.mean())
    curve.append(
      {
        "epsilon": epsilon,
        "accuracy": accuracy,
        "standard_error": math.sqrt(accuracy * (1 - accuracy) / len(correct)),
      }
    )
  return curve


def _epsilon_lens(lens: robustness.EpsilonLens) -> dict[str, Any]:
  entry = {}
  for name in ("accuracy", "label_information", "cckl"):
    parts = {k: float(v) for k, v in vars(getattr(lens, name)).items()}
    share = parts["non_robust"] / parts["total"] if parts["total"] else math.nan
    entry[name] = {**parts, "non_robust_share": share}
  entry["robust_cckl_matrix"] = _floats(lens.cckl_matrix.robust)
  return entry


def _floats(array: Any) -> Any:
  return np.asarray(array, np.float64).tolist()
