"""The style of every figure.

Figures are made from `matplotlib.figure.Figure` with the Agg canvas and under
`rc_context`: no pyplot, no backend, and no setting of the caller is touched.
"""

import contextlib
import math
import os
import pathlib
import warnings
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
PAPER = "#ffffff"
INK = "#222222"
QUIET = "#666666"
FAINT = "#d9d9d9"
PALE = 0.15  # Share of a colour in its tint.
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
# The colours on a dark page, by those on a white one, of which each keeps its
# hue.
DARK = {
  PAPER: "#15181c",
  INK: "#e8e6e3",
  QUIET: "#a5aab1",
  FAINT: "#353a41",
  ALARM: "#ff8f83",
  "#0072B2": "#4aa3df",
  "#D55E00": "#f08641",
  "#009E73": "#2fbf94",
  "#CC79A7": "#dd9cc0",
  "#E69F00": "#eeb13a",
  "#56B4E9": "#9bd4f7",
  "#444444": "#c9c9c9",
}
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
  "figure.facecolor": PAPER,
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
  "savefig.facecolor": PAPER,
  "svg.fonttype": "none",  # Text stays text.
  "svg.hashsalt": "robust_info",  # Identifiers that do not change.
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
  """An empty figure; saved if the block ends without error.

  Args:
    path: path of a file, PNG or SVG by its suffix; without a suffix, both are
      written, for about a third more time than one.
    width: width in inches.
    height: height in inches.
  """
  with matplotlib.rc_context(_SETTINGS):
    made = matplotlib.figure.Figure(
      figsize=(width, height), dpi=DPI, layout="constrained"
    )
    canvas = backend_agg.FigureCanvasAgg(made)
    made.get_layout_engine().set(w_pad=0.1, h_pad=0.08, wspace=0.03)
    yield made
    target = pathlib.Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
      # Names may hold characters that the font lacks, such as emoji.
      warnings.filterwarnings("ignore", "Glyph .* missing from font")
      for name in (target,) if target.suffix else _both(target):
        _save(canvas, name)
        made.set_layout_engine("none")  # The next file keeps the layout.


def _both(path: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
  return path.with_suffix(".png"), path.with_suffix(".svg")


def _save(canvas: backend_agg.FigureCanvasAgg, target: pathlib.Path) -> None:
  if target.suffix == ".svg":
    # Without a date: the same figure gives the same file.
    canvas.print_figure(target, format="svg", metadata={"Date": None})
  else:
    canvas.print_figure(target, format="png", dpi="figure")


def colour(run: int) -> str:
  """The colour of a run, the same in every figure of a report."""
  return _COLOURS[run % len(_COLOURS)]


def marker(run: int) -> str:
  """The marker of a run, a second cue if colours are missing or repeated."""
  return _MARKERS[(run + run // len(_COLOURS)) % len(_MARKERS)]


def tint(hue: str, share: float, paper: str = PAPER) -> tuple[float, ...]:
  """A colour mixed with that of the page: 0 is the page, 1 the colour."""
  page = np.array(matplotlib.colors.to_rgb(paper))
  return tuple(page - share * (page - matplotlib.colors.to_rgb(hue)))


def on_dark() -> dict[str, str]:
  """Colours of the figures, as in SVG files, and their likes on a dark page.

  Tints of the palette are among them; colours of colour maps are not.
  """
  found = {light.lower(): dark for light, dark in DARK.items()}
  for light in (*_COLOURS, QUIET):
    pale = matplotlib.colors.to_hex(tint(light, PALE))
    dark = tint(DARK[light], 1.5 * PALE, DARK[PAPER])
    found[pale] = matplotlib.colors.to_hex(dark)
  return found


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
