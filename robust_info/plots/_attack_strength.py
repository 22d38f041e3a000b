"""What survives an attack, by the strength of the attack."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from robust_info import attacks, lenses
from robust_info.attacks import results as results_lib
from robust_info.plots import arguments

if TYPE_CHECKING:
  import matplotlib.figure

_QUANTITIES = ("accuracy", "label_information", "cckl")


def attack_strength(
  found: attacks.EnsembleResult
  | Mapping[str, attacks.EnsembleResult]
  | Mapping[str, lenses.EpsilonLens]
  | Mapping[str, Mapping[str, lenses.EpsilonLens]]
  | Mapping[str, Any],
  *,
  threat: str = "",
  theme: str = "light",
) -> "matplotlib.figure.Figure":
  """Draws the quantities left by stronger and stronger attacks.

  One panel per quantity, one line per network. Attacks are ordered from weak at
  the top to strong at the bottom; a line moves to the left where a stronger
  attack removes more. NaN leaves gaps.

  Args:
    found: result of `auto_attack`: the accuracy left after each of its attacks,
      with bands of two standard errors on each side (binomial ones, and at 0
      and 1 the exact 95 % bound; the examples include those of a mask). Or a
      dictionary from attacks, in order, to results of `epsilon_lens`: accuracy,
      label information and CCKL, each the smallest so far, because all are
      upper bounds on what survives. Or a dictionary of one of these by name; or
      a report of an ensemble.
    threat: see the module docstring; here the ball alone, "linf 0.1".
    theme: see the module docstring.

  Returns:
    The figure.

  Raises:
    ValueError: there is no attack, or networks have different attacks.
    TypeError: a result of another kind.
    ImportError: matplotlib is not installed.
  """
  colours = arguments.theme(theme)
  strengths = arguments.drawing("strengths")
  style = arguments.drawing("style")
  if arguments.is_report(found):
    curves = [run["strength_curve"] for run in found["runs"]]
    longest = max(curves, key=len)
    where = "in the ball"
    if longest:
      radius = style.number(longest[0]["epsilon"])
      norm = style.literal(longest[0]["norm"])
      where = f"in the {norm} ball of radius {radius:.3g}"
    return strengths.strength(
      [[_left(point) for point in curve] for curve in curves],
      arguments.run_names(found),
      [point["attack"] for point in longest],
      where,
      colours,
    )
  if _is_lenses(found):
    found = {"": found}
  networks = {
    name: _curve(arguments.of_network("found", name), result)
    for name, result in arguments.by_network("found", found).items()
  }
  attacked = {name: [*curve] for name, curve in networks.items()}
  first, names = next(iter(attacked.items()))
  for name, other in attacked.items():
    if other != names:
      raise ValueError(
        f"Expected found[{name!r}] with the attacks of found[{first!r}], "
        f"{names}, got {other}."
      )
  return strengths.strength(
    [[*curve.values()] for curve in networks.values()],
    [*networks],
    names,
    f"at {style.shorten(threat, 30)}" if threat.strip() else "by the attacks",
    colours,
  )


def _is_lenses(value: Any) -> bool:
  return (
    isinstance(value, Mapping)
    and bool(value)
    and all(isinstance(lens, lenses.EpsilonLens) for lens in value.values())
  )


def _left(point: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
  """Robust parts of a point of a report, with their standard errors."""
  number = arguments.drawing("style").number
  return {
    name: (
      number(point[name]["robust"]),
      number(point[name]["standard_errors"]["robust"]),
    )
    for name in _QUANTITIES
  }


def _curve(argument: str, value: Any) -> dict[str, dict[str, Any]]:
  """By attack, what is left of each quantity and its standard error."""
  if isinstance(value, attacks.EnsembleResult):
    curve = {}
    for name, accuracy in value.accuracies.items():
      point = results_lib.share(float(accuracy), len(value.success))
      curve[name] = {"accuracy": (point["accuracy"], point["standard_error"])}
    return curve
  if not _is_lenses(value):
    raise arguments.refuse(
      argument,
      value,
      "EnsembleResult or a dictionary of EpsilonLens by attack",
      "pass the result of auto_attack or of epsilon_lens",
    )
  table = np.array(
    [
      [float(getattr(lens, name).robust) for name in _QUANTITIES]
      for lens in value.values()
    ]
  )
  least = np.fmin.accumulate(table, axis=0)
  return {
    attack: {
      name: (float(number), math.nan)
      for name, number in zip(_QUANTITIES, row, strict=True)
    }
    for attack, row in zip(value, least, strict=True)
  }
