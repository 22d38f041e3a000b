"""Do the non-robust components rise under standard training?"""

import dataclasses
import math
import pathlib

import numpy as np

from robust_info.plots.drawing import style
from robust_info.study import answers
from robust_info.study.questions import shared
from robust_info.study.records import Records


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rises:
  """Claim 3: under standard training the non-robust component rises.

  Criteria, per case and component, on the validation split: the last value is
  more than `factor` times the value before the first step; of the label
  information that PGD removes, it is more than `nats` larger.

  Attributes:
    recipe: recipe whose training is followed.
    factor: factor by which a component has to rise.
    nats: rise of the removed information.
    cases: names of the cases; () means all.
  """

  recipe: str = "standard"
  factor: float = 2.0
  nats: float = 0.1
  cases: tuple[str, ...] = ()
  name: str = "rises"
  title: str = "Do the non-robust components rise under standard training?"

  def answer(self, found: Records) -> answers.Answer:
    """The answer."""
    criteria, rows = [], []
    for case in shared.cases_with(found, self.cases, [self.recipe]):
      for title, name in shared.COMPONENTS.items():

        def growth(record, name=name):
          values = shared.curve(record, name)
          return shared.change(name, values[-1], values[0])

        values = shared.per_seed(found, case, [self.recipe], growth)
        criteria.append(
          answers.Criterion(
            case,
            f"growth: {shared.change_text(title, name)}",
            values,
            self.nats if name == "removed" else math.log2(self.factor),
          )
        )
        rows.append([case, title, *self._extremes(found, case, name)])
    table = answers.Table(
      "Values over training, mean ± standard deviation over seeds",
      ["case", "component", "before", "largest", "at step", "at the end"],
      rows,
    )
    return answers.Answer(tuple(criteria), (table,))

  def _extremes(self, found, case, name):
    curves = [
      (shared.curve(r, name), shared.curve(r, "step"))
      for r in found.of(case, self.recipe).values()
    ]
    return [
      shared.spread([values[0] for values, _ in curves]),
      shared.spread([np.nanmax(values) for values, _ in curves]),
      shared.spread([steps[np.nanargmax(values)] for values, steps in curves]),
      shared.spread([values[-1] for values, _ in curves]),
    ]

  def draw(self, found: Records, path: pathlib.Path) -> None:
    """Components by step on a log scale, one panel per component."""
    cases = shared.cases_with(found, self.cases, [self.recipe])
    with shared.panels(path, len(shared.COMPONENTS), height=2.6) as (
      figure,
      axes,
    ):
      for panel, (title, name) in zip(
        axes, shared.COMPONENTS.items(), strict=True
      ):
        style.title(panel, title[0].upper() + title[1:])
        for index, case in enumerate(cases):
          for record in found.of(case, self.recipe).values():
            # Step 0 has no place on a log scale.
            panel.plot(
              shared.curve(record, "step") + 1,
              shared.curve(record, name),
              color=style.LIGHT.colour(index),
              linewidth=1.0,
            )
        shared.log_axis(panel.xaxis)
        if "Fisher" in title:
          shared.log_axis(panel.yaxis)
        panel.set_xlabel("step + 1")
      style.run_legend(figure, cases)
