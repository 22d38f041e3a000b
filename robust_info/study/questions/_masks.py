"""Do the components see through networks that mask their gradients?"""

import dataclasses
import math
import pathlib

import numpy as np

from robust_info.plots.drawing import style
from robust_info.study import answers
from robust_info.study.questions import _predicts, shared
from robust_info.study.records import Record, Records

# Components that the criteria are about: title -> number.
_COMPONENTS = {
  "Fisher norm, mean": "fisher_frobenius_mean",
  "local non-robust part": "local_non_robust",
  "path non-robust part": "path_non_robust",
  "label information removed": "epsilon_label_information_non_robust",
}
# Others that tables and figure show.
_OTHERS = {
  "path non-robust share": "path_share",
  "input-gradient norm, mean": "gradient_norm_mean",
  "first-order distance, mean": "first_order_distance_mean",
  "CLEVER, mean": "clever_mean",
}
# Ratios beyond these are drawn at the edge of the figure.
_LEAST, _MOST = 3e-3, 3e2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Masks:
  """Not a claim of the paper: a number should not change under a mask.

  A mask makes gradients useless, or changes their size, and leaves the
  decisions of the network alone. Criteria, per case and masked recipe, against
  `plain`, whose weights are the same:

  * the robust accuracy changes by less than `accuracy`: the attacks see through
    the mask;
  * the smaller of the two values of each component, divided by the larger,
    exceeds `1 / factor`. Two values of 0 agree.

  Attributes:
    plain: recipe of the network without a mask.
    masked: recipes of the network behind masks.
    factor: factor by which a component may change.
    accuracy: change of the robust accuracy that is accepted.
    cases: names of the cases; () means all.
  """

  plain: str
  masked: tuple[str, ...]
  factor: float = 2.0
  accuracy: float = 0.05
  cases: tuple[str, ...] = ()
  name: str = "masks"
  title: str = "Do the components see through masks of the gradients?"

  def answer(self, found: Records) -> answers.Answer:
    """The answer."""
    criteria, tables = [], []
    for mask in self.masked:
      pair = [self.plain, mask]
      for case in shared.cases_with(found, self.cases, pair):
        criteria.append(
          answers.Criterion(
            case,
            f"`{mask}`: change of the robust accuracy, negative",
            shared.per_seed(found, case, pair, _lost),
            -self.accuracy,
          )
        )
        for title, name in _COMPONENTS.items():
          criteria.append(
            answers.Criterion(
              case,
              f"`{mask}`: smaller value over larger, {title}",
              shared.per_seed(
                found, case, pair, lambda p, m, n=name: _agreement(p, m, n)
              ),
              1 / self.factor,
            )
          )
    for case in self._cases(found):
      tables += [self._networks(found, case), self._rankings(found, case)]
    return answers.Answer(tuple(criteria), tuple(tables))

  def _cases(self, found: Records) -> list[str]:
    return shared.cases_with(found, self.cases, [self.plain, *self.masked])

  def _networks(self, found: Records, case: str) -> answers.Table:
    columns = {
      "clean %": "accuracy",
      "PGD %": "robust_accuracy_pgd",
      "robust %": "robust_accuracy",
      **_COMPONENTS,
      **_OTHERS,
    }
    table = shared.recipe_table(found, case, columns)
    return dataclasses.replace(
      table, title=f"{case}: mean ± standard deviation over seeds"
    )

  def _rankings(self, found: Records, case: str) -> answers.Table:
    rows = []
    groups = {
      "without masks": lambda r: r.recipe not in self.masked,
      "trustworthy": lambda r: not r.doubts,
      "all": lambda r: True,
    }
    for kind, measures in (
      ("ours", _predicts.CANDIDATES),
      ("baseline", _predicts.BASELINES),
    ):
      for title, measure in measures.items():
        cells = [
          shared.spread(
            [
              _predicts.correlation(
                [r for r in found if r.key[::2] == (case, seed) and counts(r)],
                measure,
              )
              for seed in shared.complete_seeds(found, case)
            ]
          )
          for counts in groups.values()
        ]
        rows.append([title, kind, *cells])
    return answers.Table(
      f"{case}: rank correlation with robust accuracy over the networks of a "
      "seed, signs such that 1 means a perfect ranking; mean ± standard "
      "deviation over seeds",
      ["measure", "kind", *groups],
      rows,
    )

  def draw(self, found: Records, path: pathlib.Path) -> None:
    """Accuracy under attack, and changes of the numbers, by mask."""
    cases = self._cases(found)
    measures = _COMPONENTS | _OTHERS
    # Beyond the axis under most masks; and seven colours are told apart.
    del measures["first-order distance, mean"]
    recipes = [self.plain, *self.masked]
    with shared.panels(
      path, 2 * len(cases), height=0.9 + 0.5 * len(recipes), columns=2
    ) as (figure, axes):
      for case, left, right in zip(cases, axes[::2], axes[1::2], strict=True):
        style.title(
          left,
          f"{case}: accuracy under attack",
          "points: PGD alone (crosses: not trustworthy); bars: AutoAttack",
        )
        for row, recipe in enumerate(recipes):
          for record in found.of(case, recipe).values():
            self._accuracies(left, record, -row)
        left.set_xlabel("%")
        style.title(
          right,
          "Numbers of the masked network",
          "over those of the plain one; arrows: off the axis",
        )
        for row, mask in enumerate(self.masked, 1):
          for index, name in enumerate(measures.values()):
            values = shared.per_seed(
              found,
              case,
              [self.plain, mask],
              lambda p, m, n=name: _ratio(p, m, n),
            )
            for value in values:
              _point(
                right, value, -row - 0.1 * (index - len(measures) / 2), index
              )
        right.axvline(1.0, color=style.LIGHT.quiet, linewidth=0.8)
        right.set_xlim(_LEAST / 1.5, _MOST * 1.5)
        shared.log_axis(right.xaxis)
        for panel in (left, right):
          panel.set_ylim(-len(recipes) + 0.5, 0.5)
          panel.set_yticks([-i for i in range(len(recipes))], recipes)
      style.run_legend(figure, [*measures])

  def _accuracies(self, axes, record: Record, row: float) -> None:
    hue = style.LIGHT.alarm if record.doubts else style.LIGHT.colour(0)
    axes.plot(
      100 * record.numbers["robust_accuracy_pgd"],
      row,
      "x" if record.doubts else "o",
      color=hue,
      alpha=0.7,
    )
    axes.plot(
      100 * record.numbers["robust_accuracy"],
      row,
      "|",
      color=hue,
      markersize=12,
    )


def _lost(plain: Record, masked: Record) -> float:
  numbers = [r.numbers["robust_accuracy"] for r in (plain, masked)]
  return -abs(numbers[0] - numbers[1])


def _agreement(plain: Record, masked: Record, name: str) -> float:
  low, high = sorted(abs(r.numbers[name]) for r in (plain, masked))
  return low / high if high else 1.0


def _ratio(plain: Record, masked: Record, name: str) -> float:
  below, above = plain.numbers[name], masked.numbers[name]
  if below:
    return above / below
  return math.inf if above else 1.0


def _point(axes, ratio: float, height: float, index: int) -> None:
  shape = style.marker(index)
  if not _LEAST <= ratio <= _MOST:
    shape = "<" if ratio < _LEAST else ">"
  axes.plot(
    np.clip(ratio, _LEAST, _MOST),
    height,
    shape,
    color=style.LIGHT.colour(index),
    alpha=0.7,
  )
