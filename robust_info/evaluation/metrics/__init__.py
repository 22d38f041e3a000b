"""What a report says of one network, measured and described.

Finished measurements are kept in a `MeasurementCache`. Information in nats.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from robust_info import config as config_lib
from robust_info import fisher
from robust_info.evaluation import cache as measurement_cache
from robust_info.evaluation import evaluator as evaluator_lib
from robust_info.evaluation import sample_statistics
from robust_info.evaluation.metrics import attacked
from robust_info.information import _jackknife
from robust_info.lenses import components as components_lib
from robust_info.lenses import estimators

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


def measure(
  evaluator: evaluator_lib.Evaluator,
  variables: Any,
  settings: config_lib.EvaluationConfig,
  cache: measurement_cache.MeasurementCache,
  *,
  ticks: attacked.Ticks,
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
    `standard_errors`, of all else beside the numbers. For what is measured
    under attack see `attacked.measure`.
  """
  clean = evaluator.predict(variables)
  jackknife = clean.jackknife
  summary, errors = jackknife.estimate, jackknife.standard_error

  norms = cache.get(
    "fisher",
    lambda: _norms(
      evaluator.fisher_norms(variables, tick=ticks("Fisher information"))
    ),
  )

  def lens(name: str, measure: Callable[[], components_lib.Components]):
    stored = cache.get(
      name,
      lambda: {
        part: _floats(values)
        for part, values in vars(measure()).items()
        if values is not None
      },
    )
    return components_lib.Components(
      **{k: np.asarray(v, np.float32) for k, v in stored.items()}
    )

  pairs, many = evaluator.pair_indices(), evaluator.coarse_pair_indices()
  local = lens(
    "local-lens",
    lambda: evaluator.local_lens(variables, many, tick=ticks("local lens")),
  )
  path = lens(
    "path-lens",
    lambda: evaluator.path_lens(variables, tick=ticks("path lens")),
  )
  both = tuple(np.concatenate(sides) for sides in zip(many, pairs, strict=True))
  coarse = lens(
    "coarse-path-lens",
    lambda: evaluator.coarse_path_lens(
      variables, both, tick=ticks("coarse path lens")
    ),
  )
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
          _jackknife.standard_error(clean.calibration_error_deleted)
        ),
      },
      "information": {
        name: float(getattr(errors, name)) for name in _INFORMATION
      },
      "cckl_matrix": _floats(errors.cckl_matrix),
    },
    "fisher": norms,
    "local_lens": describe_lens(local, many, evaluator.labels, jackknife),
    "path_lens": describe_lens(
      path, pairs, evaluator.labels, jackknife, coarse=coarse, many=many
    ),
    **attacked.measure(
      evaluator, variables, clean, cache, settings, ticks=ticks
    ),
  }


def _norms(norms: fisher.FisherNorms) -> dict[str, Any]:
  """Sample statistics of the norms over examples.

  `estimation_error` is the mean over examples of how far each value may be
  off, by rounding alone where the norms are exact.
  """
  return {
    name: {
      **sample_statistics.describe(getattr(norms, field)),
      "estimation_error": float(
        getattr(norms, f"{field}_error").mean(dtype=np.float64)
      ),
    }
    for name, field in _NORMS.items()
  }


def describe_lens(
  components: components_lib.Components,
  pairs: tuple[np.ndarray, np.ndarray],
  labels: np.ndarray,
  clean: _jackknife.Jackknife,
  *,
  coarse: components_lib.Components | None = None,
  many: tuple[np.ndarray, np.ndarray] | None = None,
) -> dict[str, Any]:
  """A lens over all cross-category pairs, estimated from sampled ones.

  Args:
    components: NumPy [P].
    pairs: the examples of each pair, both [P].
    labels: [N], of all examples.
    clean: the jackknife of `summarize` at the clean predictions, example i in
      group i mod G.
    coarse: a coarse version of the lens, a second control variate, NumPy
      [Q + P]: at `many` other pairs and at `pairs`.
    many: with `coarse`, the examples of its other pairs, both [Q].

  Returns:
    For `total` (CCKL, exact), `non_robust` and `robust`: the `mean` over all
    pairs, its `standard_error` over examples, and quantiles of the sample. For
    the latter two also the `sampling_error`, the part of it that more pairs
    would reduce; the `plain_mean` of the sampled values and its
    `plain_sampling_error`; and the `variance_reduction` by the control
    variates. Then `non_robust_share`, the ratio of the means, with its standard
    error over examples; the means `by_class` with their sampling errors; with
    `coarse` the number of its other pairs, `num_coarse_pairs`; and, of a lens
    with a quadrature, the mean and the largest of its estimated errors.
  """
  num_groups = len(clean.deleted.cckl)

  def groups_and_labels(pairs):
    return [side % num_groups for side in pairs], [labels[i] for i in pairs]

  levels = None
  if coarse is not None:
    split = len(many[0])
    levels = estimators.CoarseLens(
      many=jax.tree.map(lambda part: part[:split], coarse),
      same=jax.tree.map(lambda part: part[split:], coarse),
    )
  means, errors, matrices = jax.device_get(
    _estimate_lens(
      components,
      groups_and_labels(pairs),
      levels,
      (None, None) if many is None else groups_and_labels(many),
      clean.estimate.cckl,
      clean.deleted.cckl,
      clean.estimate.cckl_matrix,
    )
  )
  entry: dict[str, Any] = {"num_pairs": len(components.total)}
  if many is not None:
    entry["num_coarse_pairs"] = len(many[0])
  for name in ("total", "non_robust", "robust"):
    sample = sample_statistics.describe(getattr(components, name))
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
def _estimate_lens(components, sides, coarse, many, cckl, deleted, matrix):
  groups, labels = sides
  coarse_groups, coarse_labels = many
  return (
    estimators.lens_means(components, cckl, coarse=coarse),
    estimators.lens_errors(
      components, *groups, deleted, coarse=coarse, coarse_groups=coarse_groups
    ),
    estimators.lens_matrices(
      components, *labels, matrix, coarse=coarse, coarse_labels=coarse_labels
    ),
  )


def _floats(array: Any) -> Any:
  return np.asarray(array, np.float64).tolist()
