"""Stacked bars of the robust and non-robust parts, by three lenses."""

import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.axes
import matplotlib.lines
import matplotlib.patches
import matplotlib.ticker

from robust_info.report.figures import style

_HATCH = "////"
_BAR = 0.34
_CAPTION = 0.24  # Above the middle of a bar, in runs.


def components(
  report: Mapping[str, Any], path: str | os.PathLike
) -> pathlib.Path:
  """Draws the robust and non-robust part of CCKL, by lens and run.

  One panel per lens, one bar per run: the solid part is robust, the hatched
  part is non-robust, and the tick marks their sum. Parts are stacked away from
  zero, so that a negative part appears on the left of the zero line and not as
  a gap. The total and the shares, which may exceed 100 %, are written above
  each bar.

  Args:
    report: with `runs`, each with `name`, `local_lens`, `path_lens` and
      `epsilon_lens`.
    path: path of the file, see `style.figure`; missing directories are created.

  Returns:
    The path.
  """
  runs = report["runs"]
  lenses = [
    (
      "Local lens",
      "Taylor at the sample",
      [_sampled(run["local_lens"]) for run in runs],
    ),
    (
      "Path lens",
      "along the segment between samples",
      [_sampled(run["path_lens"]) for run in runs],
    ),
    (
      "Epsilon lens",
      _threat(runs[0]["epsilon_lens"]),
      [_exact(run["epsilon_lens"]["cckl"]) for run in runs],
    ),
  ]
  height = 1.5 + 0.62 * max(len(runs), 2)
  with style.figure(path, width=style.WIDTH, height=height) as figure:
    panels = figure.subplots(1, len(lenses), sharey=True)
    for axes, (head, note, parts) in zip(panels, lenses, strict=True):
      style.title(axes, head, note)
      for run, (robust, non_robust) in enumerate(parts):
        _bar(axes, run, robust, non_robust)
      axes.axvline(0, color=style.INK, linewidth=1)
      axes.grid(axis="y", visible=False)
      axes.tick_params(axis="y", length=0)
      axes.spines["left"].set_visible(False)
      axes.set_xlabel("CCKL (nats)")
      axes.margins(x=0.03)
      if not any(value and math.isfinite(value) for p in parts for value in p):
        axes.set_xlim(0, 1)
      axes.xaxis.set_major_locator(
        matplotlib.ticker.MaxNLocator(5, steps=[1, 2, 5, 10])
      )
      style.plain_ticks(axes.xaxis)
    _share_limits(panels)
    panels[0].set_yticks(
      range(len(runs)),
      [style.shorten(run["name"], 24) for run in runs],
      color=style.INK,
    )
    panels[0].set_ylim(len(runs) - 0.6, -0.6)
    figure.legend(handles=_legend(), loc="outside lower center", ncols=3)
  return pathlib.Path(path)


def _sampled(lens: Mapping[str, Any]) -> tuple[float, float]:
  return (
    style.number(lens["robust"]["mean"]),
    style.number(lens["non_robust"]["mean"]),
  )


def _exact(cckl: Mapping[str, Any]) -> tuple[float, float]:
  return style.number(cckl["robust"]), style.number(cckl["non_robust"])


def _threat(lens: Mapping[str, Any]) -> str:
  attack, norm = style.shorten(lens["attack"], 16), style.literal(lens["norm"])
  return f"what survives {attack}, {norm} {style.number(lens['epsilon']):.3g}"


def _bar(
  axes: matplotlib.axes.Axes, run: int, robust: float, non_robust: float
) -> None:
  total = robust + non_robust
  if not math.isfinite(total):
    _caption(axes, run, "not a number")
    return
  hue = style.colour(run)
  # Parts of the same sign are stacked; parts of opposite signs both start at
  # zero.
  start = robust if robust * non_robust > 0 else 0.0
  axes.barh(run, robust, _BAR, color=hue, edgecolor=hue, linewidth=0.8)
  axes.barh(
    run,
    non_robust,
    _BAR,
    left=start,
    color=style.tint(hue, style.PALE),
    edgecolor=hue,
    hatch=_HATCH,
    linewidth=0.8,
  )
  axes.plot([total, total], [run - 0.24, run + 0.24], color=style.INK, lw=2)
  if total > 0:
    first, second = _percent(robust / total), _percent(non_robust / total)
  else:
    first, second = f"{robust:.3g}", f"{non_robust:.3g}"
  sign = "- " if second.startswith("-") else "+ "
  _caption(axes, run, f"{total:.3g} = {first} {sign}{second.lstrip('-')}")


def _caption(axes: matplotlib.axes.Axes, run: int, text: str) -> None:
  axes.text(
    0.0,
    run - _CAPTION,
    style.signed(text),
    transform=axes.get_yaxis_transform(),
    bbox={"facecolor": style.PAPER, "edgecolor": "none", "pad": 0.8},
    fontsize=8.5,
    va="bottom",
  )


def _percent(share: float) -> str:
  digits = 0 if abs(share) >= 0.0995 else 1
  return f"{100 * share:.{digits}f} %"


def _share_limits(panels: Sequence[matplotlib.axes.Axes]) -> None:
  """The same limits for all lenses, unless this would flatten one of them."""
  limits = [axes.get_xlim() for axes in panels]
  low, high = min(a for a, _ in limits), max(b for _, b in limits)
  if all(high - low < 4 * (b - a) for a, b in limits):
    for axes in panels:
      axes.set_xlim(low, high)


def _legend() -> list:
  grey = style.QUIET
  return [
    matplotlib.patches.Patch(facecolor=grey, edgecolor=grey, label="robust"),
    matplotlib.patches.Patch(
      facecolor=style.tint(grey, style.PALE),
      edgecolor=grey,
      hatch=_HATCH,
      label="non-robust",
    ),
    matplotlib.lines.Line2D(
      [],
      [],
      color=style.INK,
      marker="|",
      markersize=11,
      markeredgewidth=2,
      linestyle="none",
      label="total = robust + non-robust",
    ),
  ]
