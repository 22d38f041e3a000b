"""What a report says of one network, measured and described.

Finished measurements are kept in a `MeasurementCache`. Information in nats.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from robust_info import config as config_lib
from robust_info import (
  disentangle,
  estimators,
  evaluation,
  fisher,
  information,
  measurement_cache,
  predictions,
  resampling,
  robustness,
  samples,
)

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
# (label of the measurement) -> called with (done, total).
Ticks = Callable[[str], evaluation.Tick | None]


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
    The fields of a `runs` entry that are measured. Standard errors are over
    examples: of `performance`, `information` and `cckl_matrix` in
    `standard_errors`, of all else beside the numbers. `robust_accuracy` takes
    each example at its worst up to a radius, the clean point included, and so
    may lie below the accuracy of `epsilon_lens`, which is that of one attack.
  """
  clean = evaluator.predict(variables)
  jackknife = resampling.jackknife(clean.parts, information.summarize)
  summary, errors = jax.device_get(
    (jackknife.estimate, jackknife.standard_error)
  )

  def attack(kind: str, epsilon: float) -> dict[str, Any]:
    label = f"{attack_name(kind, settings)} {settings.norm} {epsilon:g}"

    def run():
      found = evaluator.attack(
        variables, epsilon=epsilon, attack=kind, tick=ticks(label)
      )
      return {
        "correct": found.correct.astype(int).tolist(),
        "lens": _describe_epsilon_lens(clean, found),
      }

    return cache.get(f"{kind}-{epsilon!r}", run)

  norms = cache.get(
    "fisher",
    lambda: _norms(
      evaluator.fisher_norms(variables, tick=ticks("Fisher information"))
    ),
  )

  def lens(name: str, measure: Callable[[], disentangle.Components]):
    stored = cache.get(
      name,
      lambda: {
        part: _floats(values)
        for part, values in vars(measure()).items()
        if values is not None
      },
    )
    components = disentangle.Components(
      **{k: np.asarray(v, np.float32) for k, v in stored.items()}
    )
    return describe_lens(
      components, evaluator.pair_indices(), evaluator.labels, jackknife
    )

  local = lens("local-lens", lambda: evaluator.local_lens(variables))
  path = lens(
    "path-lens",
    lambda: evaluator.path_lens(variables, tick=ticks("path lens")),
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
    "standard_errors": {
      "performance": {
        "accuracy": float(errors.accuracy),
        "cross_entropy": float(errors.cross_entropy),
        "calibration_error": float(
          resampling.standard_error(clean.calibration_error_deleted)
        ),
      },
      "information": {
        name: float(getattr(errors, name)) for name in _INFORMATION
      },
      "cckl_matrix": _floats(errors.cckl_matrix),
    },
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


def _norms(norms: fisher.FisherNorms) -> dict[str, Any]:
  """Sample statistics of the norms over examples.

  `estimation_error` is the mean over examples of how far each value may be
  off; 0 where it is exact.
  """
  return {
    name: {
      **samples.describe(getattr(norms, field)),
      "estimation_error": float(
        getattr(norms, f"{field}_error").mean(dtype=np.float64)
      ),
    }
    for name, field in _NORMS.items()
  }


def describe_lens(
  components: disentangle.Components,
  pairs: tuple[np.ndarray, np.ndarray],
  labels: np.ndarray,
  clean: resampling.Jackknife,
) -> dict[str, Any]:
  """A lens over all cross-category pairs, estimated from sampled ones.

  Args:
    components: NumPy [P].
    pairs: the examples of each pair, both [P].
    labels: [N], of all examples.
    clean: the jackknife of `summarize` at the clean predictions, example i in
      group i mod G.

  Returns:
    For `total` (CCKL, exact), `non_robust` and `robust`: the `mean` over all
    pairs, its `standard_error` over examples, and quantiles of the sample. For
    the latter two also the `sampling_error`, the part of it that more pairs
    would reduce; the `plain_mean` of the sampled values and its
    `plain_sampling_error`; and the `variance_reduction` by the control
    variate. Then `non_robust_share`, the ratio of the means, with its standard
    error over examples; the means `by_class` with their sampling errors; and,
    of a lens with a quadrature, the mean and the largest of its estimated
    errors.
  """
  first, second = pairs
  num_groups = len(clean.deleted.cckl)
  means, errors, matrices = jax.device_get(
    _estimate_lens(
      dataclasses.replace(components, error=None),
      first % num_groups,
      second % num_groups,
      labels[first],
      labels[second],
      clean,
    )
  )
  entry: dict[str, Any] = {"num_pairs": len(components.total)}
  for name in ("total", "non_robust", "robust"):
    sample = samples.describe(getattr(components, name))
    found = getattr(means, name)
    part = {"mean": float(means.total)}
    if name != "total":
      part = {
        "mean": float(found.mean),
        "sampling_error": float(found.standard_error),
        "plain_mean": sample["mean"],
        "plain_sampling_error": sample["standard_error"],
        "variance_reduction": float(found.variance_reduction),
      }
    error = float(getattr(errors, name))
    entry[name] = {**sample, **part, "standard_error": error}
  total = float(means.total)
  entry["non_robust_share"] = (
    float(means.non_robust.mean) / total if total else math.nan
  )
  entry["non_robust_share_standard_error"] = float(errors.non_robust_share)
  entry["by_class"] = {
    name: _floats(getattr(matrices, name))
    for name in ("non_robust", "robust", "standard_error", "count")
  }
  if components.error is not None:
    entry["quadrature_error"] = {
      "mean": float(np.mean(components.error, dtype=np.float64)),
      "max": float(np.max(components.error)),
    }
  return entry


@jax.jit
def _estimate_lens(components, groups, groups_other, labels, others, clean):
  return (
    estimators.lens_means(components, clean.estimate.cckl),
    estimators.lens_errors(
      components, groups, groups_other, clean.deleted.cckl
    ),
    estimators.lens_matrices(
      components, labels, others, clean.estimate.cckl_matrix
    ),
  )


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


def _describe_epsilon_lens(
  clean: predictions.Predictions, attacked: predictions.Predictions
) -> dict[str, Any]:
  """The epsilon lens, with standard errors over examples."""
  found = jax.device_get(
    resampling.jackknife(
      {"clean": clean.parts, "attacked": attacked.parts}, _epsilon_lens
    )
  )
  entry = jax.tree.map(float, found.estimate["parts"])
  for name, errors in found.standard_error["parts"].items():
    entry[name]["standard_errors"] = jax.tree.map(float, errors)
  for source, key in (
    (found.estimate, "robust_cckl_matrix"),
    (found.standard_error, "robust_cckl_matrix_standard_error"),
  ):
    entry[key] = _floats(source["robust_cckl_matrix"])
  return entry


def _epsilon_lens(parts: dict[str, Any]) -> dict[str, Any]:
  """What of the epsilon lens a report holds, as a statistic to resample."""
  lens = robustness.epsilon_lens(parts["clean"], parts["attacked"])
  found = {}
  for name in ("accuracy", "label_information", "cckl"):
    split = getattr(lens, name)
    found[name] = {
      **vars(split),
      "non_robust_share": split.non_robust / split.total,
    }
  return {"parts": found, "robust_cckl_matrix": lens.cckl_matrix.robust}


def _floats(array: Any) -> Any:
  return np.asarray(array, np.float64).tolist()
