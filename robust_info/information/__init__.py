"""Information in predictions: I(K; Y^), its divergences, and CCKL.

Everything is computed from logits, in nats: `divergences` of single
predictions, `stats` of a data set in one pass, their `summary`, the same by
`groups`, the error over examples (`jackknife`), and the temperature of
`calibration`.
"""

from robust_info.information._jackknife import Jackknife, jackknife
from robust_info.information.calibration import fit_temperature
from robust_info.information.divergences import (
  entropy,
  fisher_rao_distance,
  kl_divergence,
)
from robust_info.information.groups import (
  grouped_information_stats,
  merge_across,
  merge_groups,
)
from robust_info.information.summary import (
  InformationStats,
  InformationSummary,
  cckl,
  information_stats,
  label_information,
  lautum_information,
  mutual_information,
  pointwise_information,
  summarize,
)

__all__ = [
  "InformationStats",
  "InformationSummary",
  "Jackknife",
  "cckl",
  "entropy",
  "fisher_rao_distance",
  "fit_temperature",
  "grouped_information_stats",
  "information_stats",
  "jackknife",
  "kl_divergence",
  "label_information",
  "lautum_information",
  "merge_across",
  "merge_groups",
  "mutual_information",
  "pointwise_information",
  "summarize",
]
