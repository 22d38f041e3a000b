"""The style of every figure.

Figures are made from `matplotlib.figure.Figure` with the Agg canvas and under
`rc_context`: no pyplot, no backend, and no setting of the caller is touched.
"""

import contextlib
import math
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import matplotlib
import matplotlib.axes
import matplotlib.axis
import matplotlib.colors
import matplotlib.figure
import matplotlib.lines
import matplotlib.ticker
import numpy as np
from matplotlib.backends import backend_agg

WIDTH = 9.0  # In inches; about the width of a README at 100 dpi.
DPI = 150
INK = "#222222"
QUIET = "#666666"
FAINT = "#d9d9d9"
ALARM = "#b2182b"

# The colour-blind-safe palette of Okabe and Ito, without its yellow.
_COLOURS = (
  "#0072B2",
  "#D55E00",
  "#009E73",
  "#CC79A7",
  "#E69F00",
  "#56B4E9",
  "#444444",
)
_MARKERS = "osD^vPX"
_SETTINGS = {
  "axes.axisbelow": True,
  "axes.edgecolor": QUIET,
  "axes.grid": True,
  "axes.labelcolor": INK,
  "axes.labelsize": 9,
  "axes.linewidth": 0.8,
  "axes.spines.right": False,
  "axes.spines.top": False,
  "axes.titlesize": 10,
  "figure.facecolor": "white",
  "font.family": "DejaVu Sans",
  "font.size": 9,
  "grid.color": FAINT,
  "grid.linewidth": 0.6,
  "hatch.linewidth": 1.2,
  "legend.fontsize": 9,
  "legend.frameon": False,
  "lines.linewidth": 1.8,
  "lines.markersize": 4.5,
  "savefig.bbox": None,
  "savefig.facecolor": "white",
  "text.color": INK,
  "text.parse_math": True,
  "text.usetex": False,
  "xtick.color": QUIET,
  "xtick.labelsize": 8.5,
  "ytick.color": QUIET,
  "ytick.labelsize": 8.5,
}


@contextlib.contextmanager
def figure(
  path: str | os.PathLike, *, width: float, height: float
) -> Iterator[matplotlib.figure.Figure]:
  """An empty figure; saved to `path` as PNG if the block ends without error."""
  with matplotlib.rc_context(_SETTINGS):
    made = matplotlib.figure.Figure(
      figsize=(width, height), dpi=DPI, layout="constrained"
    )
    canvas = backend_agg.FigureCanvasAgg(made)
    made.get_layout_engine().set(w_pad=0.1, h_pad=0.08, wspace=0.03)
    yield made
    target = pathlib.Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    canvas.print_figure(target, format="png", dpi="figure")


def colour(run: int) -> str:
  """The colour of a run, the same in every figure of a report."""
  return _COLOURS[run % len(_COLOURS)]


def marker(run: int) -> str:
  """The marker of a run, a second cue if colours are missing or repeated."""
  return _MARKERS[(run + run // len(_COLOURS)) % len(_MARKERS)]


def tint(hue: str, share: float) -> tuple[float, ...]:
  """A colour mixed with white: 0 is white, 1 the colour."""
  rgb = np.array(matplotlib.colors.to_rgb(hue))
  return tuple(1 - share * (1 - rgb))


def shorten(name: str, length: int) -> str:
  """A name without its middle; names usually differ at the ends."""
  name = " ".join(str(name).split())
  if len(name) > length:
    head = math.ceil((length - 1) / 2)
    name = f"{name[:head]}…{name[len(name) - (length - 1 - head) :]}"
  return literal(name)


def literal(text: str) -> str:
  """Text of the user on one line, with dollars that start no mathematics."""
  return " ".join(str(text).split()).replace("$", r"\$")


def title(axes: matplotlib.axes.Axes, head: str, note: str = "") -> None:
  """Adds a bold title at the left, with a light note below it."""
  axes.set_title(head, loc="left", fontweight="bold", pad=20 if note else 6)
  if note:
    axes.annotate(
      note,
      (0, 1),
      (0, 6),
      xycoords="axes fraction",
      textcoords="offset points",
      color=QUIET,
      fontsize=8.5,
    )


def plain_ticks(axis: matplotlib.axis.Axis) -> None:
  """Writes full numbers at the ticks, without a common factor at the axis."""
  axis.set_major_formatter(
    matplotlib.ticker.FuncFormatter(lambda value, _: signed(f"{value:.4g}"))
  )


def signed(text: str) -> str:
  """Text with minus signs instead of hyphens before numbers."""
  return text.replace("-", "\N{MINUS SIGN}")


def no_data(axes: matplotlib.axes.Axes) -> None:
  """Writes that there is no data, instead of an empty frame."""
  axes.annotate(
    "not recorded",
    (0.5, 0.5),
    xycoords="axes fraction",
    color=QUIET,
    ha="center",
    va="center",
  )
  axes.tick_params(left=False, bottom=False, labelleft=False, labelbottom=False)
  axes.grid(False)


def run_legend(made: matplotlib.figure.Figure, names: Sequence[str]) -> None:
  """Adds one legend of the runs below all panels."""
  longest = max(len(shorten(name, 40)) for name in names)
  handles = [
    matplotlib.lines.Line2D(
      [],
      [],
      color=colour(run),
      marker=marker(run),
      label=shorten(name, 40),
    )
    for run, name in enumerate(names)
  ]
  made.legend(
    handles=handles,
    loc="outside lower center",
    ncols=max(1, int(11 * made.get_figwidth() / (longest + 8))),
  )


def number(value: Any) -> float:
  """A number of a report; null in JSON means NaN."""
  return math.nan if value is None else float(value)
