"""The network under measurement, with everything that metrics need."""

import dataclasses
import functools
from typing import Any

from robust_info import config as config_lib
from robust_info import information
from robust_info.evaluation import cache as cache_lib
from robust_info.evaluation import evaluator as evaluator_lib
from robust_info.evaluation import predictions
from robust_info.runtime import progress


@dataclasses.dataclass(frozen=True)
class Subject:
  """One network on one split.

  Attributes:
    evaluator: of its architecture, on the split.
    variables: of the network.
    settings: those of the evaluator, but for radii and the attack.
    cache: for exactly this network, split and settings.
    ticks: gives the progress callback of each long measurement.
  """

  evaluator: evaluator_lib.Evaluator
  variables: Any
  settings: config_lib.EvaluationConfig
  cache: cache_lib.MeasurementCache
  ticks: progress.Ticks

  @functools.cached_property
  def clean(self) -> predictions.Predictions:
    """The clean predictions."""
    return self.evaluator.predict(self.variables)


@dataclasses.dataclass(frozen=True)
class Followed:
  """One network in training.

  Attributes:
    whole: on the validation split, for metrics that cost little.
    subset: on a part of it, for the others.
    variables: of the network.
  """

  whole: evaluator_lib.Evaluator
  subset: evaluator_lib.Evaluator
  variables: Any

  @functools.cached_property
  def summary(self) -> information.InformationSummary:
    """Of the clean predictions on the whole split."""
    return self.whole.predict(self.variables).summary
