"""Does adversarial training regularise the non-robust components?"""

import dataclasses
import math
import pathlib

import numpy as np

from robust_info.plots.drawing import style
from robust_info.study import answers
from robust_info.study.questions import shared
from robust_info.study.records import Record, Records


@dataclasses.dataclass(frozen=True, kw_only=True)
class Regularises:
  """Claim 4: adversarial training regularises the non-robust component.

  Criteria, per case and component, on the validation split: `standard` exceeds
  `adversarial` by more than the factor `factor`, or by more than `nats` of the
  label information that PGD removes,

  * at equal steps: both at the end of training;
  * at equal accuracy: the first validation of `standard` whose accuracy is at
    least the final accuracy of `adversarial`, against the end of `adversarial`.

  Attributes:
    standard: recipe of standard training.
    adversarial: recipe of adversarial training.
    factor: factor by which it has to lower a component.
    nats: reduction of the removed information.
    cases: names of the cases; () means all.
  """

  standard: str = "standard"
  adversarial: str = "pgd"
  factor: float = 2.0
  nats: float = 0.1
  cases: tuple[str, ...] = ()
  name: str = "regularises"
  title: str = "Does adversarial training regularise the non-robust components?"

  def answer(self, found: Records) -> answers.Answer:
    """The answer."""
    criteria = []
    pair = [self.standard, self.adversarial]
    for case in shared.cases_with(found, self.cases, pair):
      for when, place in (
        ("at equal steps", lambda standard, adversarial: -1),
        ("at equal accuracy", _equal_accuracy),
      ):
        for title, name in shared.COMPONENTS.items():

          def ratio(standard, adversarial, name=name, place=place):
            index = place(standard, adversarial)
            if index is None:
              return math.nan
            return shared.change(
              name,
              shared.curve(standard, name)[index],
              shared.curve(adversarial, name)[-1],
            )

          values = shared.per_seed(found, case, pair, ratio)
          criteria.append(
            answers.Criterion(
              case,
              f"{when}, reduction: {shared.change_text(title, name)}",
              [v for v in values if not math.isnan(v)],
              self.nats if name == "removed" else math.log2(self.factor),
            )
          )
    tables = [
      self._table(found, case)
      for case in shared.cases_with(found, self.cases, pair)
    ]
    return answers.Answer(tuple(criteria), tuple(tables))

  def _table(self, found: Records, case: str) -> answers.Table:
    pair = [self.standard, self.adversarial]
    rows = []
    for title, name in shared.COMPONENTS.items():
      last = [
        [shared.curve(r, name)[-1] for r in found.of(case, recipe).values()]
        for recipe in pair
      ]
      rows.append([title, *map(shared.spread, last)])
    return answers.Table(
      f"{case}: at the end of training, mean ± standard deviation over seeds",
      ["component", *(f"`{recipe}`" for recipe in pair)],
      rows,
    )

  def draw(self, found: Records, path: pathlib.Path) -> None:
    """Components against accuracy over training, both recipes."""
    pair = [self.standard, self.adversarial]
    cases = shared.cases_with(found, self.cases, pair)
    names = {
      "Fisher norm, mean": "fisher_frobenius",
      "Local non-robust part": "local_non_robust",
      "Information removed": "removed",
    }
    with shared.panels(path, 3 * len(cases), height=2.6) as (figure, axes):
      for row, case in enumerate(cases):
        for panel, (title, name) in zip(
          axes[3 * row : 3 * row + 3], names.items(), strict=True
        ):
          style.title(panel, title, case)
          for index, recipe in enumerate(pair):
            for record in found.of(case, recipe).values():
              panel.plot(
                100 * shared.curve(record, "accuracy"),
                shared.curve(record, name),
                color=style.LIGHT.colour(index),
                marker=style.marker(index),
                markersize=3,
                linewidth=0.9,
              )
          panel.set_xlabel("validation accuracy (%)")
          if name == "fisher_frobenius":
            shared.log_axis(panel.yaxis)
      style.run_legend(figure, pair)


def _equal_accuracy(standard: Record, adversarial: Record) -> int | None:
  """The first validation at which `standard` is as accurate, or None."""
  wanted = shared.curve(adversarial, "accuracy")[-1]
  reached = np.flatnonzero(shared.curve(standard, "accuracy") >= wanted)
  return int(reached[0]) if len(reached) else None
