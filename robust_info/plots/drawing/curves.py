"""Line plots: metrics over training, and accuracy against epsilon."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib.axes
import matplotlib.ticker
import numpy as np

from robust_info.plots.drawing import style

_SOLID_DASHED = ("-", (0, (3, 2)))

# Title, note, log scale, per cent, and the keys of the solid and dashed lines.
_PANELS = (
  (
    "Accuracy",
    "solid: clean, dashed: attacked",
    {"percent": True},
    ("accuracy", "robust_accuracy"),
  ),
  ("CCKL (nats)", "divergence between classes", {}, ("cckl",)),
  (
    "Information (nats)",
    r"solid: $I(X;\hat{Y})$, dashed: $I(K;\hat{Y})$",
    {},
    ("mutual_information", "label_information"),
  ),
  (
    "Fisher norm (nats / input²)",
    "mean Frobenius norm, log scale",
    {"log": True},
    ("fisher_frobenius",),
  ),
  (
    "Local lens (nats)",
    "solid: robust, dashed: non-robust",
    {"zero": True},
    ("local_robust", "local_non_robust"),
  ),
  (
    "Path lens (nats)",
    "solid: robust, dashed: non-robust",
    {"zero": True},
    ("path_robust", "path_non_robust"),
  ),
)


class Attacked(NamedTuple):
  """A panel: accuracy by radius, of every run.

  Attributes:
    head: its title.
    note: the ball, and the meaning of bands.
    points: per run, tuples of a radius, an accuracy and its standard error.
  """

  head: str
  note: str
  points: Sequence[Sequence[tuple[float, float, float]]]


def training(
  curves: Sequence[Sequence[Mapping[str, Any]]],
  names: Sequence[str],
  theme: style.Theme,
) -> style.Figure:
  """One panel per metric that some run recorded; see `plots.training_curves`.

  Args:
    curves: per run, rows of numbers with an `epoch` or, all of them, a `step`.
    names: names of the runs.
    theme: the colours.
  """
  rows = [row for run in curves for row in run]
  time = "epoch" if all("epoch" in row for row in rows) else "step"
  recorded = {name for row in rows for name in row}
  shown = [p for p in _PANELS if recorded.intersection(p[3])] or [*_PANELS]
  columns = min(len(shown), 3)
  lines = -(-len(shown) // columns)
  width = style.WIDTH * (0.16 + 0.28 * columns)
  with style.figure(theme, width=width, height=0.5 + 2.55 * lines) as figure:
    grid = figure.subplots(lines, columns, sharex=True, squeeze=False)
    for axes in grid.flat[len(shown) :]:
      axes.set_axis_off()
    lowest = grid.flat[max(len(shown) - columns, 0) : len(shown)]
    for axes in lowest:  # Also above a panel that is not shown.
      axes.tick_params(labelbottom=True)
    for axes, panel in zip(grid.flat, shown, strict=False):
      head, note, scale, keys = panel
      style.title(axes, head, note)
      drawn = [
        _curve(axes, run, key, index, (time, dash), scale)
        for index, run in enumerate(curves)
        for key, dash in zip(keys, _SOLID_DASHED, strict=False)
      ]
      _scale(axes, scale, any(drawn))
    for axes in lowest:
      axes.set_xlabel(time)
      axes.xaxis.set_major_locator(
        matplotlib.ticker.MaxNLocator(
          5, integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]
        )
      )
    style.run_legend(figure, names)
  return figure


def robustness(
  panels: Sequence[Attacked],
  names: Sequence[str],
  chance: float | None,
  theme: style.Theme,
) -> style.Figure:
  """One panel per attack, one line per run; see `plots.robustness_curve`.

  Args:
    panels: the panels; none gives a figure that says so.
    names: names of the runs.
    chance: accuracy of guessing, or `None`.
    theme: the colours.
  """
  columns = max(min(len(panels), 3), 1)
  rows = max(-(-len(panels) // columns), 1)
  width = style.WIDTH if columns > 1 else 0.7 * style.WIDTH
  with style.figure(theme, width=width, height=0.7 + 3.2 * rows) as figure:
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
    for axes in grid.flat[max(len(panels), 1) :]:
      axes.set_axis_off()
    for axes, panel in zip(
      grid.flat,
      panels or [Attacked("Accuracy under attack", "", ())],
      strict=False,
    ):
      axes.set_xlabel("ε (input units)")
      style.title(axes, panel.head, panel.note)
      drawn = [
        _against_epsilon(axes, points, index)
        for index, points in enumerate(panel.points)
      ]
      _scale(axes, {"percent": True}, any(drawn))
      if any(drawn) and chance is not None:
        _chance(axes, chance)
    style.run_legend(figure, names)
  return figure


def _curve(
  axes: matplotlib.axes.Axes,
  rows: Sequence[Mapping[str, Any]],
  key: str,
  run: int,
  look: tuple[str, Any],
  scale: Mapping[str, bool],
) -> bool:
  """Draws one metric of one run; returns whether there was anything to draw."""
  time, dash = look
  times = np.array([style.number(row[time]) for row in rows])
  values = np.array([style.number(row.get(key)) for row in rows])
  shown = np.isfinite(values)
  if "log" in scale:
    shown &= values > 0
  if not shown.any():
    return False
  values[~shown] = np.nan
  theme = style.theme_of(axes)
  axes.plot(
    times,
    values,
    color=theme.colour(run),
    linestyle=dash,
    marker=style.marker(run),
    markevery=[int(np.flatnonzero(shown)[-1])],
    markerfacecolor=theme.colour(run) if dash == "-" else theme.paper,
  )
  return True


def _against_epsilon(
  axes: matplotlib.axes.Axes,
  points: Sequence[tuple[float, float, float]],
  run: int,
) -> bool:
  table = np.array(sorted(points), np.float64).reshape(-1, 3)
  epsilon, accuracy, error = table.T
  if not np.isfinite(accuracy).any():
    return False
  hue, spread = style.theme_of(axes).colour(run), 2 * error
  axes.fill_between(
    epsilon,
    np.clip(accuracy - spread, 0, 1),
    np.clip(accuracy + spread, 0, 1),
    color=hue,
    alpha=0.2,
    linewidth=0,
  )
  axes.plot(epsilon, accuracy, color=hue, marker=style.marker(run))
  return True


def _chance(axes: matplotlib.axes.Axes, level: float) -> None:
  quiet = style.theme_of(axes).quiet
  axes.axhline(level, color=quiet, linewidth=0.8, linestyle=":")
  axes.annotate(
    "chance",
    (1, level),
    (3, 0),
    xycoords=("axes fraction", "data"),
    textcoords="offset points",
    color=quiet,
    fontsize=8,
    va="center",
  )


def _scale(
  axes: matplotlib.axes.Axes, scale: Mapping[str, bool], drawn: bool
) -> None:
  if not drawn:
    style.no_data(axes)
    return
  if "percent" in scale:
    axes.set_ylim(-0.02, 1.02)
    axes.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1.0))
  if "log" in scale:
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(
      matplotlib.ticker.LogLocator(subs=(1.0, 2.0, 5.0), numticks=8)
    )
    style.plain_ticks(axes.yaxis)
    axes.yaxis.set_minor_locator(matplotlib.ticker.NullLocator())
  if "zero" in scale:
    axes.axhline(0, color=style.theme_of(axes).quiet, linewidth=0.8)
  if "log" not in scale and "percent" not in scale:
    style.plain_ticks(axes.yaxis)
    # Keep zero in view, because heights are read from the baseline.
    low, high = min(axes.dataLim.y0, 0.0), max(axes.dataLim.y1, 0.0)
    pad = 0.06 * (high - low) or 1.0
    axes.set_ylim(low - pad * (low < 0), high + pad * (high > 0 or low == 0))
