"""Do the components predict robustness without an attack?"""

import dataclasses
import math
import pathlib
import warnings
from collections.abc import Sequence

import numpy as np
from scipy import stats

from robust_info.plots.drawing import style
from robust_info.study import answers
from robust_info.study.questions import shared
from robust_info.study.records import Record, Records

# Title -> (number, sign): larger times sign should mean more robust.
CANDIDATES = {
  "Fisher norm, mean": ("fisher_frobenius_mean", -1),
  "Fisher norm, median": ("fisher_frobenius_median", -1),
  "largest eigenvalue, mean": ("fisher_spectral_norm_mean", -1),
  "trace, mean": ("fisher_trace_mean", -1),
  "local non-robust part": ("local_non_robust", -1),
  "local non-robust share": ("local_share", -1),
  "path non-robust part": ("path_non_robust", -1),
  "path non-robust share": ("path_share", -1),
}
BASELINES = {
  "clean accuracy": ("accuracy", 1),
  "input-gradient norm, mean": ("gradient_norm_mean", -1),
  "input-gradient norm, median": ("gradient_norm_median", -1),
  "margin, mean": ("margin_mean", 1),
  "first-order distance, mean": ("first_order_distance_mean", 1),
  "CLEVER, mean": ("clever_mean", 1),
  "random quotient, mean": ("random_quotient_mean", -1),
}
_TARGETS = {
  "robust accuracy": "robust_accuracy",
  "mean minimal distance": "distance_mean",
}
_RESAMPLES = 2000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Predicts:
  """Do attack-free components rank networks by robustness?

  Criteria, per case, over the networks of each complete seed whose robust
  accuracy is trustworthy: Spearman's rank correlation of the robust accuracy
  with the negative mean Fisher norm exceeds `min_correlation`; and it exceeds
  that with the negative mean input-gradient norm.

  Attributes:
    min_correlation: threshold of the first criterion.
    min_networks: least number of networks of a seed.
    cases: names of the cases; () means all.
  """

  min_correlation: float = 0.7
  min_networks: int = 5
  cases: tuple[str, ...] = ()
  name: str = "predicts"
  title: str = "Do the components predict robustness without an attack?"

  def answer(self, found: Records) -> answers.Answer:
    """The answer."""
    criteria, tables = [], []
    for case in self._cases(found):
      norms, gains = [], []
      for group in self._groups(found, case):
        first = correlation(group, CANDIDATES["Fisher norm, mean"])
        base = correlation(group, BASELINES["input-gradient norm, mean"])
        norms.append(first)
        gains.append(first - base)
      criteria += [
        answers.Criterion(
          case,
          "rank correlation of robust accuracy with the negative mean Fisher "
          "norm",
          norms,
          self.min_correlation,
        ),
        answers.Criterion(
          case,
          "its advantage over the negative mean input-gradient norm",
          gains,
          0.0,
        ),
      ]
      tables.append(self._table(found, case))
    return answers.Answer(tuple(criteria), tuple(tables))

  def _cases(self, found: Records) -> list[str]:
    return [
      case
      for case in found.cases()
      if (not self.cases or case in self.cases) and self._groups(found, case)
    ]

  def _groups(self, found: Records, case: str) -> list[list[Record]]:
    """The trusted networks of each complete seed that has enough of them."""
    seeds = shared.complete_seeds(found, case)
    groups = [shared.trusted(found, case, seed) for seed in seeds]
    return [group for group in groups if len(group) >= self.min_networks]

  def _table(self, found: Records, case: str) -> answers.Table:
    networks = [r for group in self._groups(found, case) for r in group]
    # Not every run need have every measurement.
    measured = {
      target: [r for r in networks if name in r.numbers]
      for target, name in _TARGETS.items()
    }
    measured = {target: those for target, those in measured.items() if those}
    rows = []
    for kind, measures in (("ours", CANDIDATES), ("baseline", BASELINES)):
      for title, measure in measures.items():
        cells = []
        for target, those in measured.items():
          x, y = _values(those, measure, _TARGETS[target])
          cells += [
            _with_interval(x, y),
            _text(stats.kendalltau(x, y).statistic),
          ]
        rows.append([title, kind, *cells])
    columns = [
      f"{method} with {target}"
      + f" ({len(those)} networks)" * (len(those) < len(networks))
      for target, those in measured.items()
      for method in ("Spearman", "Kendall")
    ]
    return answers.Table(
      f"{case}: rank correlations over {len(networks)} networks, signs such "
      "that 1 means a perfect ranking; 95 % bootstrap intervals over networks",
      ["measure", "kind", *columns],
      rows,
    )

  def draw(self, found: Records, path: pathlib.Path) -> None:
    """Robust accuracy against the mean Fisher and input-gradient norms."""
    cases = self._cases(found)
    shown = {
      "Mean Fisher norm": "fisher_frobenius_mean",
      "Mean input-gradient norm": "gradient_norm_mean",
      "Mean first-order distance": "first_order_distance_mean",
    }
    with shared.panels(path, 3 * len(cases), height=2.8) as (_, axes):
      for row, case in enumerate(cases):
        for panel, (title, name) in zip(
          axes[3 * row : 3 * row + 3], shown.items(), strict=True
        ):
          style.title(panel, title, f"{case}; crosses: not trustworthy")
          shared.scatter(panel, found, case, name, "robust_accuracy")
          shared.log_axis(panel.xaxis)
          panel.set_ylabel("robust accuracy (%)")


def _values(networks, measure, target):
  name, sign = measure
  x = np.array([sign * r.numbers[name] for r in networks])
  return x, np.array([r.numbers[target] for r in networks])


def correlation(networks: Sequence[Record], measure) -> float:
  """Spearman's correlation of a measure with the robust accuracy."""
  return shared.spearman(*_values(networks, measure, "robust_accuracy"))


def _with_interval(x: np.ndarray, y: np.ndarray) -> str:
  """Spearman's correlation with a bootstrap interval over networks."""
  estimate = shared.spearman(x, y)
  if math.isnan(estimate):
    return _text(estimate)
  with warnings.catch_warnings():
    # Of few networks, some resamples are one network only.
    warnings.simplefilter("ignore", stats.DegenerateDataWarning)
    low, high = stats.bootstrap(
      (x, y),
      lambda x, y, axis: shared.spearman(x, y),
      paired=True,
      vectorized=True,
      method="percentile",
      n_resamples=_RESAMPLES,
      rng=np.random.default_rng(0),
    ).confidence_interval
  if math.isnan(low):
    return f"{estimate:.2f}"
  return f"{estimate:.2f} [{low:.2f}, {high:.2f}]"


def _text(value: float) -> str:
  return "n/a" if math.isnan(value) else f"{value:.2f}"
