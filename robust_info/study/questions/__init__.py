"""The questions of studies, one file per question.

Each is a frozen dataclass with the thresholds of its verdict; see
`study.plan.Question`.
"""

from robust_info.study.questions._characterises import Characterises
from robust_info.study.questions._fronts import Fronts
from robust_info.study.questions._masks import Masks
from robust_info.study.questions._nonlinearity import Nonlinearity
from robust_info.study.questions._predicts import Predicts
from robust_info.study.questions._regularises import Regularises
from robust_info.study.questions._rises import Rises

__all__ = [
  "Characterises",
  "Fronts",
  "Masks",
  "Nonlinearity",
  "Predicts",
  "Regularises",
  "Rises",
]
