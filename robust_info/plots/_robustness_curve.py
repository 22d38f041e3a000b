"""Accuracy under attack by radius."""

import math
import numbers
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Bool, Real

from robust_info import _validate, attacks
from robust_info.attacks import results as results_lib
from robust_info.plots import arguments

if TYPE_CHECKING:
  import matplotlib.figure

_Outcome = (
  Real[ArrayLike, ""]
  | Bool[ArrayLike, " N"]
  | attacks.AttackResult
  | attacks.EnsembleResult
)
_Results = (attacks.AttackResult, attacks.EnsembleResult)
_BANDS = "bands: ± 2 standard errors"


def robustness_curve(
  curves: Mapping[float, _Outcome]
  | Mapping[str, Mapping[float, _Outcome]]
  | Mapping[str, Any],
  *,
  num_classes: int | None = None,
  threat: str = "",
  theme: str = "light",
) -> "matplotlib.figure.Figure":
  """Draws the accuracy under attack against the radius, one line per network.

  Where the outcome of every example is known, an example counts at its worst
  radius so far, because a point of a small ball lies in every larger one: the
  line never rises. Bands are two standard errors on each side: binomial ones,
  and at 0 and 1 the exact 95 % bound. A thin line marks chance, 1/C. NaN leaves
  gaps.

  Args:
    curves: by radius, the result of an attack without mask on the same N
      examples in one order; or [N] booleans, whether each is still correct; or
      an accuracy in [0, 1], without a band. The radius 0 takes clean accuracy.
      Or a dictionary of these by name; or a report, with one panel per attack.
    num_classes: C, for the line of chance; by default that of the results.
    threat: see the module docstring.
    theme: see the module docstring.

  Returns:
    The figure. An attack with invalid rows has accuracy NaN.

  Raises:
    ValueError: there is no radius, a radius is negative, an accuracy is out of
      range, or numbers of examples differ.
    TypeError: a result of another kind.
    ImportError: matplotlib is not installed.
  """
  colours = arguments.theme(theme)
  curves_lib = arguments.drawing("curves")
  if arguments.is_report(curves):
    chance = 1 / curves["data"]["num_classes"]
    panels = [curves_lib.Attacked(*panel) for panel in _of_report(curves)]
    names = arguments.run_names(curves)
    return curves_lib.robustness(panels, names, chance, colours)
  found = arguments.by_network("curves", curves)
  points = [
    _points(arguments.of_network("curves", name), curve)
    for name, curve in found.items()
  ]
  if num_classes is None:
    classes = {c for curve in found.values() for c in _classes(curve)}
    num_classes = classes.pop() if len(classes) == 1 else None
  else:
    _validate.positive_int("num_classes", num_classes)
  shorten = arguments.drawing("style").shorten
  panel = curves_lib.Attacked(
    f"Accuracy under {shorten(threat.strip() or 'attack', 40)}",
    _BANDS if np.isfinite([e for run in points for *_, e in run]).any() else "",
    points,
  )
  chance = None if num_classes is None else 1 / num_classes
  return curves_lib.robustness([panel], [*found], chance, colours)


def _of_report(report):
  """Title, note and points of each attack and norm."""
  style = arguments.drawing("style")
  measured = [run["robust_accuracy"] for run in report["runs"]]
  # In the order in which they appear.
  for attack, norm in dict.fromkeys(
    (point["attack"], point["norm"]) for points in measured for point in points
  ):
    yield (
      f"Accuracy under {style.shorten(attack, 24)}",
      f"{style.literal(norm)} ball, {_BANDS}",
      [
        [
          tuple(
            style.number(point[name])
            for name in ("epsilon", "accuracy", "standard_error")
          )
          for point in points
          if (point["attack"], point["norm"]) == (attack, norm)
        ]
        for points in measured
      ],
    )


def _points(argument: str, curve: Any) -> list[tuple[float, float, float]]:
  """Radius, accuracy and standard error, in order of the radii."""
  if not isinstance(curve, Mapping):
    raise arguments.refuse(
      argument, curve, "a dictionary by radius", "for example {0.1: result}"
    )
  if not curve:
    raise ValueError(f"Expected {argument} of at least one radius, got none.")
  for radius in curve:
    if not isinstance(radius, numbers.Real) or not radius >= 0:
      raise ValueError(
        f"Expected {argument} with radii >= 0 as keys, got {radius!r}."
      )
  points, outcomes = [], []
  for radius in sorted(curve):
    outcome = _outcome(f"{argument}[{radius:g}]", curve[radius])
    if outcome.ndim:
      outcomes.append((float(radius), outcome))
    else:
      points.append((float(radius), float(outcome), math.nan))
  counts = sorted({len(outcome) for _, outcome in outcomes})
  if len(counts) > 1:
    raise ValueError(
      f"Expected {argument} of the same examples at every radius, got "
      f"{' and '.join(map(str, counts))} examples."
    )
  points += [
    (point["epsilon"], point["accuracy"], point["standard_error"])
    for point in results_lib.accuracy_by_radius(outcomes)
  ]
  return sorted(points)


def _outcome(argument: str, value: Any) -> np.ndarray:
  """Booleans [N], or one accuracy."""
  if isinstance(value, _Results):
    valid = getattr(value, "valid", None)
    if valid is not None and not np.all(valid):
      return np.array(math.nan)
    return ~np.asarray(value.success)
  if isinstance(value, str | bytes | Mapping):
    raise arguments.refuse(
      argument,
      value,
      "the result of an attack, [N] booleans or an accuracy",
      "pass what the attack returned",
    )
  found = np.asarray(value)
  if found.dtype == bool and found.ndim == 1 and found.size:
    return found
  number = arguments.array(argument, value)
  if number.ndim or number < 0 or number > 1:
    shown = f"shape {number.shape}" if number.ndim else f"{float(number):g}"
    raise ValueError(
      f"Expected {argument} to be [N] booleans or an accuracy in [0, 1], got "
      f"{shown}."
    )
  return number


def _classes(curve: Any):
  """Numbers of classes of the results."""
  if isinstance(curve, Mapping):
    for value in curve.values():
      if isinstance(value, _Results):
        yield value.logits.shape[-1]
