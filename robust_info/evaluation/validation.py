"""Metrics on the validation split, computed while training.

Information is in nats.
"""

from collections.abc import Mapping
from typing import Any

from robust_info import config as config_lib
from robust_info import data, models
from robust_info.evaluation import evaluator, metrics


class Validator:
  """Metrics on the validation split, computed while training.

  Called as `validator(variables)`; a pure function. Accuracy, cross-entropy and
  information are exact over the split. Attack and Fisher metrics use a fixed
  random subset of `settings.validation_examples` examples. Both lenses use a
  fixed set of pairs.
  """

  def __init__(
    self,
    apply_fn: evaluator.ApplyFn,
    split: data.Split,
    *,
    num_classes: int,
    settings: config_lib.EvaluationConfig,
    seed: int,
  ):
    """See `evaluation.Evaluator`."""
    self._whole = evaluator.Evaluator(
      apply_fn, split, num_classes=num_classes, settings=settings, seed=seed
    )
    if settings.validation_examples:
      rows = evaluator.random_rows(split, settings.validation_examples, seed)
      split = data.Split(split.images[rows], split.labels[rows])
    self._subset = evaluator.Evaluator(
      apply_fn, split, num_classes=num_classes, settings=settings, seed=seed
    )

  def __call__(self, variables: Any) -> Mapping[str, float]:
    """The metrics of a network.

    Args:
      variables: variables of the network, as in `apply_fn`.

    Returns:
      `accuracy`, `cross_entropy`, `cckl`, `mutual_information`,
      `lautum_information` and `label_information` over the whole split;
      `robust_accuracy`, `robust_cckl` and `robust_label_information` (PGD at
      `settings.epsilon`), and the mean, `median` and `q95` of `fisher_trace`,
      `fisher_frobenius` and `fisher_spectral_norm` over the subset; and the
      means of `local_total`, `local_non_robust`, `local_robust`, `path_total`,
      `path_non_robust` and `path_robust` over the pairs.
    """
    return metrics.follow(
      metrics.Followed(self._whole, self._subset, variables)
    )


def of_run(config: config_lib.Config, source: data.DataSource) -> Validator:
  """The validator of a run.

  Args:
    config: resolved configuration, see `setup.resolve`.
    source: data for which it was resolved.

  Raises:
    ValueError: the validation examples are of one class.
  """
  data.check_two_classes(source.validation.labels, split="validation")
  return Validator(
    models.apply_fn(models.from_config(config.model)),
    source.validation,
    num_classes=source.num_classes,
    settings=config.evaluation,
    seed=config.seed,
  )
