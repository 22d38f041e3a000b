"""Line plots: metrics over training, and accuracy against epsilon."""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.axes
import matplotlib.ticker
import numpy as np

from robust_info.report.figures import style

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


def training_curves(
  report: Mapping[str, Any], path: str | os.PathLike
) -> pathlib.Path:
  """Draws the metrics of each run over training, by epoch.

  Six panels, one line per run: clean and attacked accuracy, CCKL, I(X;Y^) and
  I(K;Y^), the mean Frobenius norm of the input Fisher information on a log
  scale, and the robust and non-robust parts of the local and path lens. Missing
  values and NaN leave gaps.

  Args:
    report: with `runs`, each with `name` and `curves`.
    path: path of the file, see `style.figure`; missing directories are created.

  Returns:
    The path.
  """
  runs = report["runs"]
  with style.figure(path, width=style.WIDTH, height=5.6) as figure:
    grid = figure.subplots(2, 3, sharex=True)
    for axes, panel in zip(grid.flat, _PANELS, strict=True):
      head, note, scale, keys = panel
      style.title(axes, head, note)
      drawn = [
        _curve(axes, run["curves"], key, index, dash, scale)
        for index, run in enumerate(runs)
        for key, dash in zip(keys, _SOLID_DASHED, strict=False)
      ]
      _scale(axes, scale, any(drawn))
    for axes in grid[-1]:
      axes.set_xlabel("epoch")
      axes.xaxis.set_major_locator(
        matplotlib.ticker.MaxNLocator(
          5, integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]
        )
      )
    style.run_legend(figure, [run["name"] for run in runs])
  return pathlib.Path(path)


def robust_accuracy(
  report: Mapping[str, Any], path: str | os.PathLike
) -> pathlib.Path:
  """Draws accuracy against epsilon: panels by attack and norm, lines by run.

  Bands show two standard errors on each side; a thin line marks chance, 1/C.
  NaN leaves gaps.

  Args:
    report: with `data.num_classes` and `runs`, each with `name` and
      `robust_accuracy`, a list of points with `attack`, `norm`, `epsilon`,
      `accuracy` and `standard_error`.
    path: path of the file, see `style.figure`; missing directories are created.

  Returns:
    The path.
  """
  runs = report["runs"]
  groups = list(
    dict.fromkeys(
      (point["attack"], point["norm"])
      for run in runs
      for point in run["robust_accuracy"]
    )
  ) or [None]
  columns = min(len(groups), 3)
  rows = -(-len(groups) // columns)
  width = style.WIDTH if columns > 1 else 0.7 * style.WIDTH
  with style.figure(path, width=width, height=0.7 + 3.2 * rows) as figure:
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
    for axes in grid.flat[len(groups) :]:
      axes.set_axis_off()
    for axes, group in zip(grid.flat, groups, strict=False):
      axes.set_xlabel("ε (input units)")
      if group is None:
        style.title(axes, "Accuracy under attack")
        style.no_data(axes)
        continue
      attack, norm = group
      style.title(
        axes,
        f"Accuracy under {style.shorten(attack, 24)}",
        f"{style.literal(norm)} ball, bands: ± 2 standard errors",
      )
      drawn = [
        _against_epsilon(axes, run["robust_accuracy"], attack, norm, index)
        for index, run in enumerate(runs)
      ]
      _scale(axes, {"percent": True}, any(drawn))
      if any(drawn):
        _chance(axes, 1 / report["data"]["num_classes"])
    style.run_legend(figure, [run["name"] for run in runs])
  return pathlib.Path(path)


def _curve(
  axes: matplotlib.axes.Axes,
  rows: Sequence[Mapping[str, Any]],
  key: str,
  run: int,
  dash: Any,
  scale: Mapping[str, bool],
) -> bool:
  """Draws one metric of one run; returns whether there was anything to draw."""
  epochs = np.array([style.number(row["epoch"]) for row in rows])
  values = np.array([style.number(row.get(key)) for row in rows])
  shown = np.isfinite(values)
  if "log" in scale:
    shown &= values > 0
  if not shown.any():
    return False
  values[~shown] = np.nan
  axes.plot(
    epochs,
    values,
    color=style.colour(run),
    linestyle=dash,
    marker=style.marker(run),
    markevery=[int(np.flatnonzero(shown)[-1])],
    markerfacecolor=style.colour(run) if dash == "-" else style.PAPER,
  )
  return True


def _against_epsilon(
  axes: matplotlib.axes.Axes,
  points: Sequence[Mapping[str, Any]],
  attack: str,
  norm: str,
  run: int,
) -> bool:
  table = np.array(
    sorted(
      (
        style.number(point["epsilon"]),
        style.number(point["accuracy"]),
        style.number(point["standard_error"]),
      )
      for point in points
      if (point["attack"], point["norm"]) == (attack, norm)
    )
  ).reshape(-1, 3)
  epsilon, accuracy, error = table.T
  if not np.isfinite(accuracy).any():
    return False
  hue, spread = style.colour(run), 2 * error
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
  axes.axhline(level, color=style.QUIET, linewidth=0.8, linestyle=":")
  axes.annotate(
    "chance",
    (1, level),
    (3, 0),
    xycoords=("axes fraction", "data"),
    textcoords="offset points",
    color=style.QUIET,
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
    axes.axhline(0, color=style.QUIET, linewidth=0.8)
  if "log" not in scale and "percent" not in scale:
    style.plain_ticks(axes.yaxis)
    # Keep zero in view, because heights are read from the baseline.
    low, high = min(axes.dataLim.y0, 0.0), max(axes.dataLim.y1, 0.0)
    pad = 0.06 * (high - low) or 1.0
    axes.set_ylim(low - pad * (low < 0), high + pad * (high > 0 or low == 0))
