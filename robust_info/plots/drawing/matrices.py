"""Heat maps: the divergence between each pair of classes."""

from collections.abc import Sequence

import matplotlib
import matplotlib.axes
import matplotlib.collections
import matplotlib.patches
import numpy as np

from robust_info.plots.drawing import style

_MAP = "viridis"
_MAX_NAMED = 30
# In letters, beside the colour bar.
_SHORT_TITLE = 16
# Light on every colour of the map, also where the page is dark.
_OUTLINE = "#fafafa"
# Not "'", which Matplotlib draws in a font that other programs lack.
_PRIME = "\N{PRIME}"


def cckl(
  matrices: Sequence[np.ndarray],
  names: Sequence[str],
  label_names: Sequence[str],
  theme: style.Theme,
) -> style.Figure:
  """One heat map per run, on one scale; see `plots.cckl_matrix`.

  Args:
    matrices: float [C, C] per run, NaN where there is no number.
    names: names of the runs.
    label_names: C names.
    theme: the colours.
  """
  finite = np.concatenate([m[np.isfinite(m)] for m in matrices])
  top = max(finite.max(initial=0.0), 1e-12)
  columns = min(len(names), 2)
  rows = -(-len(names) // columns)
  width = style.WIDTH if columns == 2 else 0.62 * style.WIDTH
  height = 0.9 + 4.0 * rows
  with style.figure(theme, width=width, height=height) as figure:
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat[len(names) :]:
      axes.set_axis_off()
    titles = style.shorten_all(names, 30)
    for axes, title, matrix in zip(grid.flat, titles, matrices, strict=False):
      image = _heat_map(axes, matrix, label_names, top)
      # A long one has more room to its left, above the names of the classes.
      side = "right" if len(title) > _SHORT_TITLE else "left"
      style.title(axes, title, side=side)
      axes.set_ylabel(r"class of $x$")
      axes.set_xlabel(f"class of $x{_PRIME}$")
    bar = figure.colorbar(
      image, ax=grid, shrink=0.8, aspect=30 * rows, pad=0.02
    )
    bar.set_label(rf"mean $KL(p(x)\,\|\,p(x{_PRIME}))$ (nats)")
    style.plain_ticks(bar.ax.yaxis)
    bar.outline.set_visible(False)
    note = "outlined: within a class, no part of CCKL"
    if not all(np.isfinite(matrix).all() for matrix in matrices):
      note += "; grey: not a number"
    figure.supxlabel(note, fontsize=8.5, color=theme.quiet)
  return figure


def _heat_map(
  axes: matplotlib.axes.Axes,
  matrix: np.ndarray,
  label_names: Sequence[str],
  top: float,
):
  colours = matplotlib.colormaps[_MAP].with_extremes(
    bad=style.theme_of(axes).faint
  )
  image = axes.imshow(
    np.ma.masked_invalid(matrix),
    cmap=colours,
    vmin=0,
    vmax=top,
    interpolation="nearest",
  )
  num_classes = len(matrix)
  axes.add_collection(
    matplotlib.collections.PatchCollection(
      [
        matplotlib.patches.Rectangle((i - 0.5, i - 0.5), 1, 1)
        for i in range(num_classes)
      ],
      facecolor="none",
      edgecolor=_OUTLINE,
      linewidth=min(1.5, 24 / num_classes),
    )
  )
  if num_classes <= _MAX_NAMED:
    ticks = np.arange(num_classes)
    names = style.shorten_all(label_names, 14)
  else:
    ticks = np.arange(0, num_classes, 10 ** int(np.log10(num_classes / 5)))
    names = [str(tick) for tick in ticks]
  size = 8.5 if num_classes <= 15 else 6.5
  turn = 90 if max(map(len, names)) > 2 else 0
  axes.set_xticks(ticks, names, rotation=turn, fontsize=size)
  axes.set_yticks(ticks, names, fontsize=size)
  axes.tick_params(length=0)
  axes.grid(False)
  axes.spines[:].set_visible(False)
  return image
