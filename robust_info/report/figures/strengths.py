"""The information that survives an attack, by the strength of the attack."""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.axes
import matplotlib.ticker
import numpy as np

from robust_info.report.figures import style

_PANELS = (
  ("accuracy", "Accuracy", "left in the {ball}"),
  ("label_information", "Information (nats)", r"$I(K;\hat{{Y}})$, at most"),
  ("cckl", "CCKL (nats)", "at most; bands: ± 2 standard errors"),
)
_LONGEST = 24


def strength(
  report: Mapping[str, Any], path: str | os.PathLike
) -> pathlib.Path:
  """Draws the quantities left by stronger and stronger attacks.

  One panel per quantity, one line per run. Attacks are ordered from weak at the
  top to strong at the bottom; a line moves to the left where a stronger attack
  removes more. Bands show two standard errors on each side. NaN leaves gaps;
  runs without a curve are left out.

  Args:
    report: with `runs`, each with `name` and `strength_curve`, a list of
      points with `attack`, `norm`, `epsilon`, and `accuracy`,
      `label_information` and `cckl`, each with `robust` and
      `standard_errors.robust`; the same attacks in all runs that have any.
    path: path of the file, see `style.figure`; missing directories are created.

  Returns:
    The path.
  """
  runs = report["runs"]
  curves = [run["strength_curve"] for run in runs]
  longest = max(curves, key=len)
  names = [style.shorten(point["attack"], _LONGEST) for point in longest]
  height = 2.0 + 0.3 * max(len(names), 3)
  with style.figure(path, width=style.WIDTH, height=height) as figure:
    panels = figure.subplots(1, len(_PANELS), sharey=True)
    for axes, (key, head, note) in zip(panels, _PANELS, strict=True):
      style.title(axes, head, note.format(ball=_ball(longest)))
      drawn = [
        _line(axes, curve, key, index) for index, curve in enumerate(curves)
      ]
      if not any(drawn):
        style.no_data(axes)
      _scale(axes, key == "accuracy", any(drawn))
    if longest:
      panels[0].set_yticks(range(len(names)), names, color=style.INK)
      panels[0].set_ylim(len(names) - 0.6, -0.4)
    style.run_legend(figure, [run["name"] for run in runs])
  return pathlib.Path(path)


def _ball(curve: Sequence[Mapping[str, Any]]) -> str:
  """The threat model as text."""
  if not curve:
    return "ball"
  radius = style.number(curve[0]["epsilon"])
  return f"{style.literal(curve[0]['norm'])} ball of radius {radius:.3g}"


def _line(
  axes: matplotlib.axes.Axes,
  curve: Sequence[Mapping[str, Any]],
  key: str,
  run: int,
) -> bool:
  """Draws one quantity of one run; returns whether it has any finite value."""
  values = np.array([style.number(point[key]["robust"]) for point in curve])
  if not np.isfinite(values).any():
    return False
  errors = np.array(
    [style.number(point[key]["standard_errors"]["robust"]) for point in curve]
  )
  places, hue = np.arange(len(curve)), style.colour(run)
  low, high = values - 2 * errors, values + 2 * errors
  if key == "accuracy":
    low, high = np.clip(low, 0, 1), np.clip(high, 0, 1)
  axes.fill_betweenx(
    places, np.maximum(low, 0), high, color=hue, alpha=0.2, linewidth=0
  )
  axes.plot(values, places, color=hue, marker=style.marker(run))
  return True


def _scale(axes: matplotlib.axes.Axes, percent: bool, drawn: bool) -> None:
  if not drawn:
    return
  if percent:
    axes.set_xlim(-0.02, 1.02)
    axes.xaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1.0))
    return
  axes.set_xlim(0, max(1.06 * axes.dataLim.x1, 1e-6))
  axes.xaxis.set_major_locator(
    matplotlib.ticker.MaxNLocator(5, steps=[1, 2, 5, 10])
  )
  style.plain_ticks(axes.xaxis)
