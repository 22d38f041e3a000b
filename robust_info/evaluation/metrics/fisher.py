"""Norms of the Fisher information at the examples."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from robust_info import config as config_lib
from robust_info import fisher
from robust_info.evaluation import evaluator as evaluator_lib
from robust_info.evaluation import sample_statistics
from robust_info.evaluation.metrics import rows, subject
from robust_info.runtime import progress

# Field of `fisher.FisherNorms` and of a report -> label in the table.
_NORMS = {
  "trace": "trace",
  "frobenius": "Frobenius norm",
  "spectral_norm": "largest eigenvalue",
}
_LABEL = "Fisher information"
# For more than `fisher.AUTO_CLASSES` classes.
_ESTIMATE = {"num_steps": 16, "num_probes": 16}
# Quantiles of validation, in addition to the mean.
_FOLLOWED = {"median": 0.5, "q95": 0.95}


def norms(
  evaluator: evaluator_lib.Evaluator,
  variables: Any,
  *,
  tick: progress.Tick | None = None,
) -> fisher.FisherNorms:
  """`fisher.fisher_norms` of every example, NumPy [N].

  Cost per example: one forward and C - 1 backward passes up to
  `fisher.AUTO_CLASSES` classes; for the estimates for more classes, and
  their errors, see `fisher.fisher_norms`.
  """
  return evaluator.over_examples(
    _norms, variables, evaluator.keys.probes, tick=tick
  )


def measure(network: subject.Subject) -> dict[str, Any]:
  """`fisher`: sample statistics of the norms over examples.

  `estimation_error` is the mean over examples of the possible error of each
  value, which is rounding only where the norms are exact.
  """

  def described():
    found = norms(
      network.evaluator,
      network.variables,
      tick=network.ticks(_LABEL),
    )
    return {
      name: {
        **sample_statistics.describe(getattr(found, name)),
        "estimation_error": float(
          getattr(found, f"{name}_error").mean(dtype=np.float64)
        ),
      }
      for name in _NORMS
    }

  return {"fisher": network.cache.get("fisher", described)}


def work(
  settings: config_lib.EvaluationConfig, num_examples: int, num_classes: int
) -> Iterator[progress.Work]:
  """The work of `measure`."""
  del settings
  passes = num_classes
  if num_classes > fisher.AUTO_CLASSES:
    # A product with F is a JVP and a VJP.
    passes = 1 + 3 * (_ESTIMATE["num_steps"] + 1 + _ESTIMATE["num_probes"])
  yield progress.Work(_LABEL, num_examples, passes)


def sections(runs: Sequence[rows.Run]) -> Iterator[rows.Section]:
  """The part of the table."""

  def cell(name):
    return lambda run: (
      f"{rows.sampled(run['fisher'][name])} "
      f"({rows.number(run['fisher'][name]['median'])})"
    )

  yield rows.section(
    "Fisher information at the samples, mean (median)",
    runs,
    [(label, cell(name)) for name, label in _NORMS.items()],
  )


def follow(network: subject.Followed) -> Mapping[str, float]:
  """The numbers of validation: mean and quantiles of each norm."""
  found = norms(network.subset, network.variables)
  numbers = {}
  for name in _NORMS:
    values = getattr(found, name)
    numbers[f"fisher_{name}"] = float(values.mean(dtype=np.float64))
    for statistic, level in _FOLLOWED.items():
      numbers[f"fisher_{name}_{statistic}"] = float(np.quantile(values, level))
  return numbers


def _norms(logits_fn, examples, key):
  key = jax.random.fold_in(key, examples.start)
  return fisher.fisher_norms(logits_fn, examples.x, key=key, **_ESTIMATE)
