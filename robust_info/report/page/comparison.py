"""The three lenses in words: what each says, and where they disagree."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from robust_info.evaluation.metrics import rows

# Difference in standard errors from which two shares differ clearly.
_CLEAR = 2.0


class Lens(NamedTuple):
  """One lens.

  Attributes:
    key: short name, also its anchor.
    name: name in the table.
    question: question that it answers.
    method: how it splits the divergence.
    share: function from a run to the non-robust share and its standard error.
  """

  key: str
  name: str
  question: str
  method: str
  share: Callable[[rows.Run], tuple[float, float]]


class Row(NamedTuple):
  """One lens, compared between two runs.

  Attributes:
    lens: the lens.
    sign: -1 if the first run is clearly less fragile, 1 if it is clearly more
      fragile, 0 if neither is clear; None if a share is not a number or is
      negative, which says nothing about fragility.
  """

  lens: Lens
  sign: int | None


def _sampled(name):
  def share(run):
    lens = run[name]
    return lens["non_robust_share"], lens["non_robust_share_standard_error"]

  return share


def _taken(run):
  cckl = run["epsilon_lens"]["cckl"]
  return cckl["non_robust_share"], cckl["standard_errors"]["non_robust_share"]


LENSES = (
  Lens(
    "local",
    "local lens",
    "How sensitive is the prediction exactly at the images?",
    "Half the Fisher information at the image, in the direction of an image of "
    "another class, counts as non-robust.",
    _sampled("local_lens"),
  ),
  Lens(
    "path",
    "path lens",
    "How is the divergence spent on the straight line between two images?",
    "The Fisher information along the whole line counts as non-robust, the "
    "curvature of the logits as robust.",
    _sampled("path_lens"),
  ),
  Lens(
    "epsilon",
    "epsilon lens",
    "How much can an attacker take away within the ball?",
    "The divergence that disappears under the attack counts as non-robust.",
    _taken,
  ),
)


def extremes(runs: Sequence[rows.Run]) -> tuple[int, int] | None:
  """Places of the most and the least robust run; None for a single run."""
  if len(runs) < 2:
    return None
  accuracy = [run["robustness"]["accuracy"] for run in runs]
  places = sorted(range(len(runs)), key=lambda i: -accuracy[i])
  return places[0], places[-1]


def compare(first: rows.Run, second: rows.Run) -> list[Row]:
  """Whether the first run is less or more fragile, lens by lens.

  The difference is clear from two standard errors on, those of both runs added
  as if independent.
  """
  found = []
  for lens in LENSES:
    (share, error), (other, other_error) = lens.share(first), lens.share(second)
    difference, sign = share - other, 0
    if not (share >= 0 and other >= 0):  # NaN is neither.
      sign = None
    elif abs(difference) > _CLEAR * math.hypot(error, other_error):
      sign = 1 if difference > 0 else -1
    found.append(Row(lens, sign))
  return found


def explain(compared: Sequence[Row], name: str, other: str) -> list[str]:
  """Sentences on two runs, the more robust one first."""
  lines = []
  for sign, words in (
    (-1, f"{name} less fragile than {other}"),
    (1, f"{name} more fragile than {other}"),
    (0, f"no clear difference between {name} and {other}"),
  ):
    agreeing = [f"the {r.lens.name}" for r in compared if r.sign == sign]
    if agreeing:
      every = len(agreeing) == len(LENSES)
      subject = "all three lenses" if every else " and ".join(agreeing)
      verb = "finds" if len(agreeing) == 1 else "find"
      lines.append(f"{subject[0].upper()}{subject[1:]} {verb} {words}.")
  signs = {row.lens.key: row.sign for row in compared}
  lines += [
    sentence.format(name=name, other=other)
    for (first, second), sentence in _DISAGREEMENTS.items()
    if (signs[first], signs[second]) == (-1, 1)
  ]
  if {-1, 1} <= set(signs.values()):
    lines.append(
      "This is no contradiction: the lenses answer different questions."
    )
  return lines


# (lens that calls the first run less fragile, lens that calls it more fragile).
_DISAGREEMENTS = {
  ("local", "path"): (
    "Compared with {other}, {name} is flat near the images and steep between "
    "them: straight lines between classes cross a steeper boundary."
  ),
  ("path", "local"): (
    "Compared with {other}, {name} is steep near some images and flat between "
    "classes."
  ),
  ("local", "epsilon"): (
    "Compared with {other}, {name} is flat exactly at the images, but gives "
    "way within the ball: the slope at the image does not show it."
  ),
  ("epsilon", "local"): (
    "Compared with {other}, {name} is steep at some images, which dominate the "
    "mean, but an attack takes less away."
  ),
}


def above(runs: Sequence[rows.Run]) -> list[str]:
  """Names of the runs in which some share exceeds 100 %."""
  return _named(runs, lambda share: share > 1)


def below(runs: Sequence[rows.Run]) -> list[str]:
  """Names of the runs in which some share is negative."""
  return _named(runs, lambda share: share < 0)


def _named(runs, condition):
  return [
    run["name"]
    for run in runs
    if any(condition(lens.share(run)[0]) for lens in LENSES)
  ]


def threat_in_words(threat: Mapping[str, Any]) -> str:
  """The ball of a report, for readers who do not know norms."""
  epsilon = f"{threat['epsilon']:g}"
  if threat["norm"] == "linf":
    return (
      f"every pixel may change by at most {epsilon} on a scale from 0 to 1, "
      f"that is {255 * threat['epsilon']:.3g} of 255 grey levels"
    )
  return (
    f"the image may change by a Euclidean distance of at most {epsilon}, with "
    "pixels from 0 to 1"
  )
