"""The evaluated network, with everything that metrics need."""

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
    evaluator: evaluator of its architecture, on the split.
    variables: variables of the network.
    settings: settings of the report, equal to those of the evaluator except for
      radii and the attack.
    cache: cache for exactly this network, split and settings.
    ticks: function that returns the progress callback of each long measurement.
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
  """One network while it is trained.

  Attributes:
    whole: evaluator on the validation split, for cheap metrics.
    subset: evaluator on a part of it, for all other metrics.
    variables: variables of the network.
  """

  whole: evaluator_lib.Evaluator
  subset: evaluator_lib.Evaluator
  variables: Any

  @functools.cached_property
  def summary(self) -> information.InformationSummary:
    """The summary of the clean predictions on the whole split."""
    return self.whole.predict(self.variables).summary
