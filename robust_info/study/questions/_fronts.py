"""At equal cost, are penalties as good as attacks?"""

import dataclasses
import math
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from robust_info.plots.drawing import style
from robust_info.study import answers
from robust_info.study.questions import shared
from robust_info.study.records import Record, Records


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fronts:
  """The paper's direction: rely more on the robust component, at equal cost.

  The best recipe of a family is the one with the highest robust accuracy among
  those whose clean accuracy lies within `tolerance` of that of the most
  accurate network of the seed. Criteria, per case:

  * the best penalty comes within `margin` of the best adversarial recipe;
  * the best smooth penalty exceeds the best ReLU penalty by `gain`.

  Attributes:
    adversarial: recipes that attack during training.
    penalties: recipes of penalties with smooth activations.
    relu_penalties: recipes of the same penalties with ReLU.
    tolerance: loss of clean accuracy that is accepted.
    margin: distance of robust accuracy that counts as equal.
    gain: least advantage of smooth activations.
    cases: names of the cases; () means all.
  """

  adversarial: tuple[str, ...]
  penalties: tuple[str, ...]
  relu_penalties: tuple[str, ...] = ()
  tolerance: float = 0.03
  margin: float = 0.05
  gain: float = 0.05
  cases: tuple[str, ...] = ()
  name: str = "fronts"
  title: str = "At equal cost, are penalties as good as attacks?"

  def answer(self, found: Records) -> answers.Answer:
    """The answer."""
    criteria, tables = [], []
    for case in self._cases(found):
      close, smooth = [], []
      for seed in found.seeds(case, self._needed()):
        best = {
          family: self._best(found, case, seed, recipes)
          for family, recipes in self._families().items()
        }
        close.append(best["penalty"] - best["adversarial"])
        if self.relu_penalties:
          smooth.append(best["penalty"] - best["ReLU penalty"])
      criteria.append(
        answers.Criterion(
          case,
          "robust accuracy of the best penalty minus that of the best "
          "adversarial recipe",
          close,
          -self.margin,
        )
      )
      if self.relu_penalties:
        criteria.append(
          answers.Criterion(
            case,
            "robust accuracy of the best smooth penalty minus that of the best "
            "ReLU penalty",
            smooth,
            self.gain,
          )
        )
      tables.append(self._table(found, case))
    return answers.Answer(tuple(criteria), tuple(tables))

  def _families(self) -> Mapping[str, Sequence[str]]:
    families = {"adversarial": self.adversarial, "penalty": self.penalties}
    if self.relu_penalties:
      families["ReLU penalty"] = self.relu_penalties
    return families

  def _needed(self) -> list[str]:
    return [name for family in self._families().values() for name in family]

  def _cases(self, found: Records) -> list[str]:
    return shared.cases_with(found, self.cases, self._needed())

  def _best(self, found, case, seed, recipes) -> float:
    group = [found.get(case, recipe, seed) for recipe in recipes]
    every = [found.get(case, recipe, seed) for recipe in self._needed()]
    least = max(r.numbers["accuracy"] for r in every) - self.tolerance
    allowed = [
      r.numbers["robust_accuracy"]
      for r in group
      if r.numbers["accuracy"] >= least and not r.doubts
    ]
    # A family without an accurate, trustworthy network has nothing to offer.
    return max(allowed, default=0.0)

  def _table(self, found: Records, case: str) -> answers.Table:
    rows = []
    for family, recipes in self._families().items():
      for recipe in recipes:
        records = [*found.of(case, recipe).values()]
        rows.append(
          [
            family,
            f"`{recipe}`",
            _cost(records[0]),
            *(
              shared.spread([100 * r.numbers[name] for r in records])
              for name in ("accuracy", "robust_accuracy")
            ),
            sum(bool(r.doubts) for r in records),
          ]
        )
    columns = ["family", "recipe", "gradients per example"]
    columns += ["clean %", "robust %", "runs not trustworthy"]
    return answers.Table(
      f"{case}: mean ± standard deviation over seeds", columns, rows
    )

  def draw(self, found: Records, path: pathlib.Path) -> None:
    """Clean against robust accuracy, with the front of each family.

    Recipes of less than half the best clean accuracy did not train, and are
    left out, because they would squeeze all others together.
    """
    cases = self._cases(found)
    with shared.panels(path, len(cases), height=3.6) as (figure, axes):
      for panel, case in zip(axes, cases, strict=True):
        style.title(
          panel,
          case,
          "means over seeds; lines: fronts; crosses: not trustworthy",
        )
        best = np.nanmax(
          [
            _mean([*found.of(case, recipe).values()])[0]
            for recipes in self._families().values()
            for recipe in recipes
          ]
        )
        for index, recipes in enumerate(self._families().values()):
          points = []
          for recipe in recipes:
            records = [*found.of(case, recipe).values()]
            if _mean(records)[0] < best / 2:
              continue
            doubtful = any(r.doubts for r in records)
            panel.plot(
              *_mean(records),
              "x" if doubtful else style.marker(index),
              color=style.LIGHT.colour(index),
            )
            if not doubtful:
              points.append(_mean(records))
          front = np.reshape(_front(points), (-1, 2))
          panel.plot(*front.T, color=style.LIGHT.colour(index), linewidth=1.0)
        panel.set_xlabel("clean accuracy (%)")
        panel.set_ylabel("robust accuracy (%)")
      style.run_legend(figure, [*self._families()])


def _cost(record: Record) -> str:
  cost = record.about["gradients_per_example"]
  return "n/a" if cost is None else f"{cost:.0f}"


def _mean(records: Sequence[Record]) -> tuple[float, float]:
  count = len(records) or math.nan
  return tuple(
    100 * sum(r.numbers[name] for r in records) / count
    for name in ("accuracy", "robust_accuracy")
  )


def _front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
  """The points that no other exceeds in both, by clean accuracy."""
  return sorted(
    (x, y)
    for x, y in points
    if not any((a > x and b >= y) or (a >= x and b > y) for a, b in points)
  )
