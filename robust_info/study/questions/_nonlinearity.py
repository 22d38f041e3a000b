"""Does non-linearity move performance into the robust component?"""

import dataclasses
import pathlib

from robust_info.plots.drawing import style
from robust_info.study import answers
from robust_info.study.questions import shared
from robust_info.study.records import Records

_SHARES = {
  "local lens": "local_share",
  "path lens": "path_share",
  "epsilon lens, I(K;Y^)": "epsilon_label_information_share",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Nonlinearity:
  """Claim 5: models that rely more on the robust component do better.

  The paper compares linear, half-linear and normal networks. Criteria, per case
  and pair of recipes, which differ in the non-linearity only: the robust share
  of each lens rises by more than `share` from the linear to the non-linear
  network, and the robust accuracy rises by more than `accuracy`.

  Attributes:
    pairs: title -> (linear recipe, non-linear recipe).
    share: least rise of the robust shares.
    accuracy: least rise of the robust accuracy.
    cases: names of the cases; () means all.
  """

  pairs: tuple[tuple[str, str, str], ...]
  share: float = 0.05
  accuracy: float = 0.05
  cases: tuple[str, ...] = ()
  name: str = "nonlinearity"
  title: str = "Does non-linearity move performance into the robust component?"

  def answer(self, found: Records) -> answers.Answer:
    """The answer."""
    criteria, tables = [], []
    for title, linear, other in self.pairs:
      for case in shared.cases_with(found, self.cases, [linear, other]):
        for lens, name in _SHARES.items():
          criteria.append(
            answers.Criterion(
              case,
              f"{title}: rise of the robust share, {lens}",
              shared.per_seed(
                found,
                case,
                [linear, other],
                lambda a, b, n=name: a.numbers[n] - b.numbers[n],
              ),
              self.share,
            )
          )
        criteria.append(
          answers.Criterion(
            case,
            f"{title}: rise of the robust accuracy",
            shared.per_seed(
              found,
              case,
              [linear, other],
              lambda a, b: (
                b.numbers["robust_accuracy"] - a.numbers["robust_accuracy"]
              ),
            ),
            self.accuracy,
          )
        )
    columns = {
      "clean %": "accuracy",
      "robust %": "robust_accuracy",
      "CCKL": "cckl",
      "Fisher norm, mean": "fisher_frobenius_mean",
      "local share %": "local_share",
      "path share %": "path_share",
      "epsilon share %": "epsilon_label_information_share",
    }
    recipes = self._recipes()
    for case in self._cases(found):
      table = shared.recipe_table(found, case, columns)
      rows = [row for row in table.rows if row[0].split("`")[1] in recipes]
      tables.append(
        answers.Table(
          f"{case}: non-robust shares, mean ± standard deviation over seeds",
          table.columns,
          rows,
        )
      )
    return answers.Answer(tuple(criteria), tuple(tables))

  def _cases(self, found: Records) -> list[str]:
    """The cases that have some pair."""
    having = [
      {*shared.cases_with(found, self.cases, pair[1:])} for pair in self.pairs
    ]
    return [case for case in found.cases() if case in set().union(*having)]

  def _recipes(self) -> list[str]:
    return list(
      dict.fromkeys(recipe for pair in self.pairs for recipe in pair[1:])
    )

  def draw(self, found: Records, path: pathlib.Path) -> None:
    """Non-robust shares by recipe, one panel per lens, and accuracy."""
    recipes = self._recipes()
    cases = self._cases(found)
    panels_of = {"robust accuracy": "robust_accuracy", **_SHARES}
    height = 0.9 + 0.22 * len(recipes)
    with shared.panels(path, len(panels_of), height=height, columns=2) as (
      figure,
      axes,
    ):
      for panel, (title, name) in zip(axes, panels_of.items(), strict=True):
        note = "crosses: not trustworthy"
        if name != "robust_accuracy":
          note = f"non-robust share; {note}"
        style.title(panel, title[0].upper() + title[1:], note)
        for index, case in enumerate(cases):
          for row, recipe in enumerate(recipes):
            for record in found.of(case, recipe).values():
              panel.plot(
                100 * record.numbers[name],
                -row - 0.15 * index,
                "x" if record.doubts else style.marker(index),
                color=style.LIGHT.colour(index),
                alpha=0.7,
              )
        panel.set_yticks([-i for i in range(len(recipes))], recipes)
        panel.set_xlabel("%")
      style.run_legend(figure, cases)
