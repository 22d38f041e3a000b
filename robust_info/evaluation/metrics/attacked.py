"""Predictions under PGD, and lens 3: the information that an attack removes.

Shapes: `N` examples, `C` classes. Information is in nats.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from robust_info import _validate, attacks
from robust_info import config as config_lib
from robust_info.evaluation import evaluator as evaluator_lib
from robust_info.evaluation import predictions as predictions_lib
from robust_info.evaluation.metrics import rows, subject
from robust_info.information import _jackknife
from robust_info.runtime import progress

# Attacks on the label, and on the divergence from the clean prediction.
ATTACKS = ("pgd", "kl_pgd")


def attack_name(attack: str, settings: config_lib.EvaluationConfig) -> str:
  """The name of this attack, for example "PGD-20x2" with two restarts."""
  name = {"pgd": "PGD", "kl_pgd": "KL-PGD"}[attack]
  restarts = f"x{settings.restarts}" if settings.restarts > 1 else ""
  return f"{name}-{settings.num_steps}{restarts}"


def predictions(
  evaluator: evaluator_lib.Evaluator,
  variables: Any,
  *,
  epsilon: float,
  attack: str = "pgd",
  tick: progress.Tick | None = None,
) -> predictions_lib.Predictions:
  """Predictions at attacked inputs, in the ball that `settings` names.

  Args:
    evaluator: evaluator on the split.
    variables: variables of the network.
    epsilon: radius of the ball; not compiled in.
    attack: "pgd", which maximises the cross-entropy of the label, or "kl_pgd",
      which maximises the divergence from the clean prediction; each example
      keeps the worst point of all steps.
    tick: function called with the numbers (done, total) of examples.

  Returns:
    `Predictions` at the attacked inputs; at epsilon 0 those of `predict`. For a
    larger epsilon the clean point is not among the candidates, so an example
    that is misclassified at the clean point may be correct here. Cost per
    example: `restarts * (num_steps + 1)` forward and `restarts * num_steps`
    backward passes.

  Raises:
    ValueError: an unknown attack, or epsilon below 0.
  """
  _check(attack, epsilon)
  static = static_options(evaluator.settings, attack)
  return evaluator.tally(
    evaluator.by_batch(
      _attacked_logits,
      variables,
      evaluator.keys.attack,
      epsilon,
      tick=tick,
      **static,
    )
  )


def logits(
  evaluator: evaluator_lib.Evaluator,
  variables: Any,
  *,
  epsilon: float,
  attack: str = "pgd",
  num_steps: int | None = None,
  tick: progress.Tick | None = None,
) -> np.ndarray:
  """Logits [N, C] at the inputs of `predictions`, in memory.

  Args:
    evaluator: evaluator on the split.
    variables: variables of the network.
    epsilon: radius of the ball, >= 0; not compiled in.
    attack: name of the attack, as in `predictions`.
    num_steps: number of steps, instead of the number of `settings`.
    tick: function called with the numbers (done, total) of examples.
  """
  _check(attack, epsilon)
  static = static_options(evaluator.settings, attack)
  if num_steps is not None:
    static["num_steps"] = num_steps
  return evaluator.over_examples(
    _attacked_logits,
    variables,
    evaluator.keys.attack,
    epsilon,
    tick=tick,
    **static,
  )


def sections(runs: Sequence[rows.Run]) -> Iterator[rows.Section]:
  """The parts of the table, one per choice of points."""
  for index, lens in enumerate(runs[0]["epsilon_lens_by_attack"]):
    yield rows.section(
      f"Lens 3, epsilon ball: {lens['attack']}, {lens['norm']} "
      f"{lens['epsilon']:g}",
      runs,
      _readers(index),
    )


def _readers(index):
  def cell(show, name, part):
    def read(run):
      entry = run["epsilon_lens_by_attack"][index][name]
      return show(entry[part], entry["standard_errors"][part])

    return read

  for label, name in (("CCKL", "cckl"), ("I(K;Y^)", "label_information")):
    yield f"{label}, robust", cell(rows.number, name, "robust")
    yield f"{label}, non-robust", cell(rows.number, name, "non_robust")
    yield (
      f"{label}, non-robust share",
      cell(rows.percent, name, "non_robust_share"),
    )


def follow(network: subject.Followed) -> Mapping[str, float]:
  """The numbers of validation: accuracy and information under PGD."""
  subset = network.subset
  found = predictions(
    subset, network.variables, epsilon=subset.settings.epsilon
  )
  summary = found.summary
  return {
    "robust_accuracy": float(found.correct.mean()),
    "robust_cckl": float(summary.cckl),
    "robust_label_information": float(summary.label_information),
  }


def _check(attack, epsilon):
  _validate.one_of("attack", attack, ATTACKS)
  _validate.at_least("epsilon", epsilon, 0)


def static_options(
  settings: config_lib.EvaluationConfig, attack: str
) -> dict[str, Any]:
  """Arguments of `run` that are compiled in."""
  return {
    "attack": attack,
    "num_steps": settings.num_steps,
    "norm": settings.norm,
    "restarts": settings.restarts,
  }


def run(
  logits_fn: Any,
  examples: evaluator_lib.Rows,
  key: jax.Array,
  epsilon: float,
  *,
  attack: str,
  **options: Any,
) -> attacks.AttackResult:
  """Attacks a batch; each example keeps the worst point of all steps."""
  options |= {
    "epsilon": epsilon,
    "keep": "worst",
    "where": examples.where,
    "example_ids": examples.ids,
  }
  if attack == "pgd":
    return attacks.pgd(logits_fn, examples.x, examples.label, key, **options)
  return attacks.kl_pgd(logits_fn, examples.x, key, **options)


def _attacked_logits(logits_fn, examples, key, epsilon, **static):
  return run(logits_fn, examples, key, epsilon, **static).logits


def describe(
  clean: predictions_lib.Predictions, attacked: predictions_lib.Predictions
) -> dict[str, Any]:
  """The epsilon lens, with standard errors over examples."""
  before, after = clean.jackknife, attacked.jackknife
  entry: dict[str, Any] = {}
  for name in ("accuracy", "label_information", "cckl"):
    estimate, deleted = (
      _split(*(getattr(getattr(side, field), name) for side in (before, after)))
      for field in ("estimate", "deleted")
    )
    entry[name] = {
      **{part: float(value) for part, value in estimate.items()},
      "standard_errors": {
        part: float(_jackknife.standard_error(values))
        for part, values in deleted.items()
      },
    }
  for key, side in (
    ("robust_cckl_matrix", after.estimate),
    ("robust_cckl_matrix_standard_error", after.standard_error),
  ):
    entry[key] = rows.matrix(side.cckl_matrix)
  return entry


def _split(total: np.ndarray, robust: np.ndarray) -> dict[str, np.ndarray]:
  """`EpsilonComponents` of `epsilon_lens`, and the share that was removed."""
  taken = total - robust
  with np.errstate(divide="ignore", invalid="ignore"):
    share = taken / total
  return {
    "total": total,
    "robust": robust,
    "non_robust": taken,
    "non_robust_share": share,
  }
