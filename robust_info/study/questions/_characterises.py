"""Does CCKL characterise standard performance?"""

import dataclasses
import pathlib

from robust_info.plots.drawing import style
from robust_info.study import answers
from robust_info.study.questions import shared
from robust_info.study.records import Records

_MEASURES = {
  "accuracy": ("accuracy", 1),
  "-cross-entropy": ("cross_entropy", -1),
  "I(K;Y^)": ("label_information", 1),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Characterises:
  """Claim 1: CCKL is a metric of standard performance.

  Criteria, per case: Spearman's rank correlation of CCKL with accuracy, with
  negative cross-entropy and with the label information, over the validations of
  a training run, and over the networks of each complete seed, exceeds
  `min_correlation`.

  Attributes:
    recipe: recipe whose training is followed.
    min_correlation: threshold of all correlations.
    cases: names of the cases; () means all.
  """

  recipe: str = "standard"
  min_correlation: float = 0.8
  cases: tuple[str, ...] = ()
  name: str = "characterises"
  title: str = "Does CCKL characterise standard performance?"

  def answer(self, found: Records) -> answers.Answer:
    """The answer."""
    criteria = []
    for case in shared.cases_with(found, self.cases, [self.recipe]):
      for title, (name, sign) in _MEASURES.items():
        criteria.append(
          answers.Criterion(
            case,
            f"over training (`{self.recipe}`): rank correlation of CCKL with "
            f"{title}",
            shared.per_seed(
              found,
              case,
              [self.recipe],
              lambda r, name=name, sign=sign: shared.spearman(
                shared.curve(r, "cckl"), sign * shared.curve(r, name)
              ),
            ),
            self.min_correlation,
          )
        )
      for title, (name, sign) in _MEASURES.items():
        values = []
        for seed in shared.complete_seeds(found, case):
          group = [r for r in found if (r.case, r.seed) == (case, seed)]
          if len(group) > 2:
            values.append(
              shared.spearman(
                [r.numbers["cckl"] for r in group],
                [sign * r.numbers[name] for r in group],
              )
            )
        if values:
          criteria.append(
            answers.Criterion(
              case,
              f"over networks: rank correlation of CCKL with {title}",
              values,
              self.min_correlation,
            )
          )
    return answers.Answer(tuple(criteria))

  def draw(self, found: Records, path: pathlib.Path) -> None:
    """CCKL against accuracy, over training and over networks."""
    cases = shared.cases_with(found, self.cases, [self.recipe])
    with shared.panels(path, 2 * len(cases), columns=2) as (_, axes):
      for case, (left, right) in zip(
        cases, zip(axes[::2], axes[1::2], strict=True), strict=True
      ):
        style.title(
          left,
          f"{case}: training of {self.recipe}",
          "one line per seed; open circle: before the first step",
        )
        for index, record in enumerate(found.of(case, self.recipe).values()):
          x, y = shared.curve(record, "cckl"), shared.curve(record, "accuracy")
          hue = style.LIGHT.colour(index)
          left.plot(x, 100 * y, color=hue, marker=".")
          left.plot(x[:1], 100 * y[:1], "o", color=hue, mfc=style.LIGHT.paper)
        style.title(
          right,
          f"{case}: networks",
          "all recipes and seeds; crosses: not trustworthy",
        )
        shared.scatter(right, found, case, "cckl", "accuracy")
        for panel in (left, right):
          shared.log_axis(panel.xaxis)
          panel.set_xlabel("CCKL (nats)")
          panel.set_ylabel("accuracy (%)")
