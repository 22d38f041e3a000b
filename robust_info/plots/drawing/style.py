"""The style of every figure.

Figures are made from `matplotlib.figure.Figure` with the Agg canvas and under
`rc_context`: no pyplot, no backend, and no setting of the caller is touched. A
figure keeps its style wherever it is drawn later.
"""

import contextlib
import dataclasses
import io
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

from robust_info.runtime import files

WIDTH = 9.0  # In inches; about the width of a README at 100 dpi.
DPI = 150
_SHOWN_DPI = 100  # In notebooks, where an image is as sharp as a file.


@dataclasses.dataclass(frozen=True)
class Theme:
  """The colours of a figure.

  Attributes:
    paper: the background.
    ink: names, titles and everything else to be read first.
    quiet: notes, numbers at ticks and axes.
    faint: grids and values that are missing.
    alarm: wrong predictions.
    pale: share of a colour in its tint.
    runs: colours of networks, in order; then they repeat.
  """

  paper: str
  ink: str
  quiet: str
  faint: str
  alarm: str
  pale: float
  runs: tuple[str, ...]

  def colour(self, run: int) -> str:
    """The colour of a run, the same in every figure of a report."""
    return self.runs[run % len(self.runs)]

  def tint(self, hue: str) -> tuple[float, ...]:
    """A colour mixed with that of the page."""
    page = np.array(matplotlib.colors.to_rgb(self.paper))
    return tuple(page - self.pale * (page - matplotlib.colors.to_rgb(hue)))


# The colour-blind-safe palette of Okabe and Ito, without its yellow.
LIGHT = Theme(
  paper="#ffffff",
  ink="#222222",
  quiet="#666666",
  faint="#d9d9d9",
  alarm="#b2182b",
  pale=0.15,
  runs=(
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#444444",
  ),
)
# Each colour keeps the hue that it has on a white page.
DARK = Theme(
  paper="#15181c",
  ink="#e8e6e3",
  quiet="#a5aab1",
  faint="#353a41",
  alarm="#ff8f83",
  pale=0.225,
  runs=(
    "#4aa3df",
    "#f08641",
    "#2fbf94",
    "#dd9cc0",
    "#eeb13a",
    "#9bd4f7",
    "#c9c9c9",
  ),
)
THEMES = {"light": LIGHT, "dark": DARK}
_MARKERS = "osD^vPX"


def _settings(theme: Theme) -> dict[str, Any]:
  return {
    "axes.axisbelow": True,
    "axes.edgecolor": theme.quiet,
    "axes.facecolor": theme.paper,
    "axes.grid": True,
    "axes.labelcolor": theme.ink,
    "axes.labelsize": 9,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": "auto",
    "axes.titlesize": 10,
    "figure.facecolor": theme.paper,
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "grid.color": theme.faint,
    "grid.linewidth": 0.6,
    "hatch.linewidth": 1.2,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.markersize": 4.5,
    "savefig.bbox": None,
    "savefig.facecolor": theme.paper,
    "svg.fonttype": "none",  # Text stays text.
    "svg.hashsalt": "robust_info",  # Identifiers that do not change.
    "text.color": theme.ink,
    "text.parse_math": True,
    "text.usetex": False,
    "xtick.color": theme.quiet,
    "xtick.labelsize": 8.5,
    "ytick.color": theme.quiet,
    "ytick.labelsize": 8.5,
  }


class Figure(matplotlib.figure.Figure):
  """A figure with a theme, in which it is drawn by whatever program.

  A notebook shows it as PNG, without pyplot.

  Attributes:
    theme: its colours.
  """

  def __init__(self, theme: Theme, *, width: float, height: float):
    """Makes an empty figure; `figure` sets the style of its contents, too."""
    super().__init__(figsize=(width, height), dpi=DPI, layout="constrained")
    self.theme = theme
    backend_agg.FigureCanvasAgg(self)
    self.get_layout_engine().set(w_pad=0.1, h_pad=0.08, wspace=0.03)

  def draw(self, renderer: Any) -> None:
    """Draws all of it; parts of it, such as ticks, are made only now."""
    with matplotlib.rc_context(_settings(self.theme)), quiet_about_glyphs():
      super().draw(renderer)

  def savefig(self, *args: Any, **kwargs: Any) -> None:
    """Writes a file, as `matplotlib.figure.Figure.savefig`."""
    with matplotlib.rc_context(_settings(self.theme)), quiet_about_glyphs():
      super().savefig(*args, **kwargs)

  def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
    """The figure in a notebook: the bytes, and the size on the screen."""
    image = io.BytesIO()
    self.savefig(image, format="png", pil_kwargs={"optimize": True})
    width, height = (
      round(_SHOWN_DPI * side) for side in self.get_size_inches()
    )
    return image.getvalue(), {"width": width, "height": height}


@contextlib.contextmanager
def quiet_about_glyphs() -> Iterator[None]:
  """Names may hold characters that the font lacks, such as emoji."""
  with warnings.catch_warnings():
    warnings.filterwarnings("ignore", "Glyph .* missing from font")
    yield


@contextlib.contextmanager
def figure(theme: Theme, *, width: float, height: float) -> Iterator[Figure]:
  """An empty figure, to be filled within the block.

  Args:
    theme: its colours.
    width: width in inches.
    height: height in inches.
  """
  with matplotlib.rc_context(_settings(theme)):
    yield Figure(theme, width=width, height=height)


def save(made: Figure, path: str | os.PathLike[str]) -> pathlib.Path:
  """Writes a figure; returns the path.

  Args:
    made: the figure.
    path: path of a file, PNG or SVG by its suffix; without a suffix, both are
      written, for about a third more time than one. Missing directories are
      created.
  """
  target = pathlib.Path(path)
  target.parent.mkdir(parents=True, exist_ok=True)
  suffixes = (target.suffix,) if target.suffix else (".png", ".svg")
  for suffix in suffixes:
    # Without a date: the same figure gives the same file.
    options = {"metadata": {"Date": None}} if suffix == ".svg" else {}
    # Whole or not at all, with errors that name the file.
    content = io.BytesIO()
    made.savefig(content, format=suffix[1:], **options)
    files.write_whole(target.with_suffix(suffix), content.getvalue())
    made.set_layout_engine("none")  # The next file keeps the layout.
  return target


def marker(run: int) -> str:
  """The marker of a run, a second cue if colours are missing or repeated."""
  return _MARKERS[(run + run // len(LIGHT.runs)) % len(_MARKERS)]


def on_dark() -> dict[str, str]:
  """Colours of figures in SVG files, and their likes in the dark theme.

  Tints of the palette are among them; colours of colour maps are not.
  """
  found = {}
  for field in ("paper", "ink", "quiet", "faint", "alarm"):
    found[getattr(LIGHT, field)] = getattr(DARK, field)
  pairs = list(zip(LIGHT.runs, DARK.runs, strict=True))
  found |= {light.lower(): dark for light, dark in pairs}
  for light, dark in (*pairs, (LIGHT.quiet, DARK.quiet)):
    pale = matplotlib.colors.to_hex(LIGHT.tint(light))
    found[pale] = matplotlib.colors.to_hex(DARK.tint(dark))
  return found


def theme_of(artist: matplotlib.axes.Axes) -> Theme:
  """The theme of the figure of axes."""
  return artist.figure.theme


def shorten(name: str, length: int) -> str:
  """A name as text, cut to a length."""
  return literal(cut(name, length))


def shorten_all(names: Sequence[str], length: int) -> list[str]:
  """Names as texts, cut to a length; different names stay different.

  Names that would become equal are cut around the place where they begin to
  differ. Where this is not enough, they end with their number, from 0.
  """
  names = [_printed(name) for name in names]
  shown = [cut(name, length) for name in names]
  for places in _alike(names, shown):
    first, last = (f([names[k] for k in places]) for f in (min, max))
    start = next(
      (k for k, (a, b) in enumerate(zip(first, last, strict=False)) if a != b),
      len(first),
    )
    for k in places:
      shown[k] = _window(names[k], max(0, start - length // 4), length)
  for places in _alike(names, shown):
    for k in places:
      tag = f" ({k})"
      shown[k] = f"{cut(names[k], max(length - len(tag), 1))}{tag}"
  return [literal(text) for text in shown]


def _alike(names: Sequence[str], shown: Sequence[str]) -> list[list[int]]:
  """Places of different names with equal texts, by text."""
  found: dict[str, list[int]] = {}
  for place, text in enumerate(shown):
    found.setdefault(text, []).append(place)
  return [
    places
    for places in found.values()
    if len({names[place] for place in places}) > 1
  ]


def _window(name: str, start: int, length: int) -> str:
  """A name from a place on, with dots where characters are left out."""
  before = "…" if start else ""
  rest = name[start:]
  room = length - len(before)
  return before + (rest if len(rest) <= room else f"{rest[: room - 1]}…")


def cut(name: str, length: int) -> str:
  """A name without its middle; names usually differ at the ends."""
  name = _printed(name)
  if len(name) <= length:
    return name
  head = math.ceil((length - 1) / 2)
  return f"{name[:head]}…{name[len(name) - (length - 1 - head) :]}"


def literal(text: str) -> str:
  """Text of the user on one line, with dollars that start no mathematics."""
  return _printed(text).replace("$", r"\$")


def _printed(text: str) -> str:
  """Text on one line; other characters without a glyph are no XML, either."""
  return "".join(
    character if character.isprintable() else "\N{REPLACEMENT CHARACTER}"
    for character in " ".join(str(text).split())
  )


def title(
  axes: matplotlib.axes.Axes, head: str, note: str = "", *, side: str = "left"
) -> None:
  """Adds a bold title at a side, with a light note at the left below it."""
  axes.set_title(head, loc=side, fontweight="bold", pad=20 if note else 6)
  if note:
    axes.annotate(
      note,
      (0, 1),
      (0, 6),
      xycoords="axes fraction",
      textcoords="offset points",
      color=theme_of(axes).quiet,
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
    color=theme_of(axes).quiet,
    ha="center",
    va="center",
  )
  axes.tick_params(left=False, bottom=False, labelleft=False, labelbottom=False)
  axes.grid(False)


# Height of a row of a legend, in inches.
_LEGEND_ROW = 0.19


def run_legend(made: Figure, names: Sequence[str]) -> None:
  """Adds one legend of the runs below all panels; names may be empty."""
  shown = shorten_all(names, 40)
  if not any(shown):
    return
  handles = [
    matplotlib.lines.Line2D(
      [],
      [],
      color=made.theme.colour(run),
      marker=marker(run),
      # A label that starts with an underscore would be left out.
      label=f"\N{ZERO WIDTH SPACE}{name}" if name.startswith("_") else name,
    )
    for run, name in enumerate(shown)
  ]
  columns = max(1, int(11 * made.get_figwidth() / (max(map(len, shown)) + 8)))
  # Room for two rows is there.
  more = max(0, math.ceil(len(shown) / columns) - 2)
  made.set_figheight(made.get_figheight() + _LEGEND_ROW * more)
  made.legend(handles=handles, loc="outside lower center", ncols=columns)


def number(value: Any) -> float:
  """A number of a report; null in JSON means NaN."""
  return math.nan if value is None else float(value)
