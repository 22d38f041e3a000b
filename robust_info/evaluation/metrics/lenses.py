"""Lenses 1 and 2 over pairs of different classes: local and path.

Shapes: `N` examples, `P` pairs. Information is in nats.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from robust_info import config as config_lib
from robust_info import lenses
from robust_info.evaluation import evaluator as evaluator_lib
from robust_info.evaluation import sample_statistics
from robust_info.evaluation.metrics import rows, subject
from robust_info.information import _jackknife
from robust_info.lenses import components as components_lib
from robust_info.lenses import estimators
from robust_info.runtime import progress

# Number of segments of the coarse path lens, which approximates the path lens
# closely.
COARSE_NODES = 8
_LOCAL, _PATH, _COARSE = "local lens", "path lens", "coarse path lens"
_PARTS = ("total", "non_robust", "robust")


def local(
  evaluator: evaluator_lib.Evaluator,
  variables: Any,
  pairs: evaluator_lib.Pairs | None = None,
  *,
  tick: progress.Tick | None = None,
) -> components_lib.Components:
  """`disentangle_local`, by default on `pair_indices`, NumPy [P]."""
  pairs = evaluator.pair_indices() if pairs is None else pairs
  return evaluator.over_pairs(
    lenses.disentangle_local, variables, pairs, tick=tick
  )


def path(
  evaluator: evaluator_lib.Evaluator,
  variables: Any,
  *,
  tick: progress.Tick | None = None,
) -> components_lib.Components:
  """`disentangle_path`, extrapolated, on `pair_indices`, NumPy [P].

  It uses `settings.num_nodes` segments, rounded up to a multiple of 4.
  """
  return evaluator.over_pairs(
    lenses.disentangle_path,
    variables,
    evaluator.pair_indices(),
    tick=tick,
    num_nodes=_num_nodes(evaluator.settings),
    method="extrapolated",
  )


def coarse_path(
  evaluator: evaluator_lib.Evaluator,
  variables: Any,
  pairs: evaluator_lib.Pairs,
  *,
  tick: progress.Tick | None = None,
) -> components_lib.Components:
  """`disentangle_path` with `COARSE_NODES` chords, NumPy [P]."""
  return evaluator.over_pairs(
    lenses.disentangle_path,
    variables,
    pairs,
    tick=tick,
    num_nodes=COARSE_NODES,
  )


def measure(network: subject.Subject) -> dict[str, Any]:
  """`local_lens` and `path_lens`, see `describe`."""
  evaluator, variables = network.evaluator, network.variables
  pairs, many = evaluator.pair_indices(), evaluator.coarse_pair_indices()
  both = tuple(np.concatenate(sides) for sides in zip(many, pairs, strict=True))

  def lens(name: str, fn: Callable[..., components_lib.Components], *sample):
    tick = network.ticks(name)
    stored = network.cache.get(
      name.replace(" ", "-"),
      lambda: {
        part: rows.floats(values)
        for part, values in vars(
          fn(evaluator, variables, *sample, tick=tick)
        ).items()
        if values is not None
      },
    )
    return components_lib.Components(
      **{k: np.asarray(v, np.float32) for k, v in stored.items()}
    )

  def described(components, sample, **coarse):
    return describe(
      components, sample, evaluator.labels, network.clean.jackknife, **coarse
    )

  at_samples = lens(_LOCAL, local, many)
  along = lens(_PATH, path)
  coarse = lens(_COARSE, coarse_path, both)
  return {
    "local_lens": described(at_samples, many),
    "path_lens": described(along, pairs, coarse=coarse, many=many),
  }


def work(
  settings: config_lib.EvaluationConfig, num_examples: int, num_classes: int
) -> Iterator[progress.Work]:
  """The work of `measure`."""
  del num_examples, num_classes
  few, many = settings.num_pairs, settings.num_coarse_pairs
  yield progress.Work(_LOCAL, many, 3, "pairs")
  yield progress.Work(_PATH, few, _num_nodes(settings) + 1, "pairs")
  yield progress.Work(_COARSE, few + many, COARSE_NODES + 1, "pairs")


def _num_nodes(settings):
  return 4 * -(-settings.num_nodes // 4)


def sections(runs: Sequence[rows.Run]) -> Iterator[rows.Section]:
  """The parts of the table."""
  for title, name in (
    ("Lens 1, local: Fisher at the sample", "local_lens"),
    ("Lens 2, path: Fisher along the segment", "path_lens"),
  ):
    entry = runs[0][name]
    pairs = f"{entry['num_pairs']:,}"
    if coarse := entry.get("num_coarse_pairs"):
      pairs = f"{pairs} + {coarse:,} coarse"
    yield rows.section(
      f"{title}; from {pairs} pairs", runs, _readers(name, entry)
    )


def _readers(name, entry):
  def mean(part):
    return lambda run: rows.sampled(run[name][part])

  def share(run):
    lens = run[name]
    return rows.percent(
      lens["non_robust_share"], lens["non_robust_share_standard_error"]
    )

  yield "mean divergence (CCKL)", mean("total")
  yield "non-robust part", mean("non_robust")
  yield "robust part", mean("robust")
  yield "non-robust share", share
  if "quadrature_error" in entry:
    yield (
      "quadrature error, mean",
      lambda run: rows.number(run[name]["quadrature_error"]["mean"]),
    )


def follow(network: subject.Followed) -> Mapping[str, float]:
  """The numbers of validation: means over the pairs."""
  found = {}
  for name, lens in (
    ("local", local(network.whole, network.variables)),
    ("path", path(network.whole, network.variables)),
  ):
    for part in _PARTS:
      values = getattr(lens, part)
      found[f"{name}_{part}"] = float(values.mean(dtype=np.float64))
  return found


def describe(
  components: components_lib.Components,
  pairs: tuple[np.ndarray, np.ndarray],
  labels: np.ndarray,
  clean: _jackknife.Jackknife,
  *,
  coarse: components_lib.Components | None = None,
  many: tuple[np.ndarray, np.ndarray] | None = None,
) -> dict[str, Any]:
  """A lens over all cross-category pairs, estimated from sampled pairs.

  Args:
    components: components of the lens, NumPy [P].
    pairs: indices of the examples of each pair, both [P].
    labels: labels [N] of all examples.
    clean: the jackknife of `summarize` at the clean predictions, example i in
      group i mod G.
    coarse: a coarse version of the lens, a second control variate, NumPy
      [Q + P]: at the other pairs `many` and at `pairs`.
    many: indices of the examples of the other pairs of `coarse`, both [Q];
      required with `coarse`.

  Returns:
    For `total` (CCKL, exact), `non_robust` and `robust`: the `mean` over all
    pairs, its `standard_error` over examples, and quantiles of the sample. For
    `non_robust` and `robust` also: the `sampling_error`, the part of the
    standard error that more pairs would reduce; the `plain_mean` of the sampled
    values and its `plain_sampling_error`; and the `variance_reduction` by the
    control variates. Further: `non_robust_share`, the ratio of the means, with
    its standard error over examples; the means `by_class` with their sampling
    errors; with `coarse`, the number of its other pairs, `num_coarse_pairs`;
    and, for a lens with a quadrature, the mean and the maximum of its estimated
    errors.
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
    name: rows.matrix(getattr(matrices, name))
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
