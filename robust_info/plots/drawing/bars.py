"""Stacked bars of the robust and non-robust parts, by lens."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import matplotlib.axes
import matplotlib.lines
import matplotlib.patches
import matplotlib.ticker

from robust_info.plots.drawing import style

_HATCH = "////"
_BAR = 0.34
_CAPTION = 0.24  # Above the middle of a bar, in runs.


class Lens(NamedTuple):
  """A panel: the parts of the divergence of every run, in nats.

  Attributes:
    head: its title.
    note: what it measures.
    parts: pairs of a robust and a non-robust part.
  """

  head: str
  note: str
  parts: Sequence[tuple[float, float]]


def components(
  lenses: Sequence[Lens], names: Sequence[str], theme: style.Theme
) -> style.Figure:
  """One panel per lens, one bar per run; see `plots.components`."""
  height = 1.5 + 0.62 * max(len(names), 2)
  width = style.WIDTH * (0.3 + 0.7 * (len(lenses) / 3))
  with style.figure(theme, width=width, height=height) as figure:
    panels = figure.subplots(1, len(lenses), sharey=True, squeeze=False)[0]
    for axes, (head, note, parts) in zip(panels, lenses, strict=True):
      style.title(axes, head, note)
      for run, (robust, non_robust) in enumerate(parts):
        _bar(axes, run, robust, non_robust)
      axes.axvline(0, color=theme.ink, linewidth=1)
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
      range(len(names)),
      style.shorten_all(names, 24),
      color=theme.ink,
    )
    panels[0].set_ylim(len(names) - 0.6, -0.6)
    figure.legend(handles=_legend(theme), loc="outside lower center", ncols=3)
  return figure


def _bar(
  axes: matplotlib.axes.Axes, run: int, robust: float, non_robust: float
) -> None:
  total = robust + non_robust
  if not math.isfinite(total):
    _caption(axes, run, "not a number")
    return
  theme = style.theme_of(axes)
  hue = theme.colour(run)
  # Parts of the same sign are stacked; parts of opposite signs both start at
  # zero.
  start = robust if robust * non_robust > 0 else 0.0
  axes.barh(run, robust, _BAR, color=hue, edgecolor=hue, linewidth=0.8)
  axes.barh(
    run,
    non_robust,
    _BAR,
    left=start,
    color=theme.tint(hue),
    edgecolor=hue,
    hatch=_HATCH,
    linewidth=0.8,
  )
  axes.plot([total, total], [run - 0.24, run + 0.24], color=theme.ink, lw=2)
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
    bbox={
      "facecolor": style.theme_of(axes).paper,
      "edgecolor": "none",
      "pad": 0.8,
    },
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


def _legend(theme: style.Theme) -> list:
  grey = theme.quiet
  return [
    matplotlib.patches.Patch(facecolor=grey, edgecolor=grey, label="robust"),
    matplotlib.patches.Patch(
      facecolor=theme.tint(grey),
      edgecolor=grey,
      hatch=_HATCH,
      label="non-robust",
    ),
    matplotlib.lines.Line2D(
      [],
      [],
      color=theme.ink,
      marker="|",
      markersize=11,
      markeredgewidth=2,
      linestyle="none",
      label="total = robust + non-robust",
    ),
  ]
