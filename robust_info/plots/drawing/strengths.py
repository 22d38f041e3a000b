"""What survives an attack, by the strength of the attack."""

from collections.abc import Mapping, Sequence

import matplotlib.axes
import matplotlib.ticker
import numpy as np

from robust_info.plots.drawing import style

_PANELS = (
  ("accuracy", "Accuracy", "left {where}"),
  ("label_information", "Information (nats)", r"$I(K;\hat{{Y}})$, at most"),
  ("cckl", "CCKL (nats)", "at most"),
)
_LONGEST = 24

# What an attack leaves of a quantity, and its standard error.
Left = tuple[float, float]


def strength(
  curves: Sequence[Sequence[Mapping[str, Left]]],
  names: Sequence[str],
  attacks: Sequence[str],
  where: str,
  theme: style.Theme,
) -> style.Figure:
  """One panel per quantity, one line per run; see `plots.attack_strength`.

  Args:
    curves: per run, the quantities after each attack, from weak to strong; a
      run may have none.
    names: names of the runs.
    attacks: names of the attacks.
    where: the threat model in words, after "left".
    theme: the colours.
  """
  measured = {name for curve in curves for point in curve for name in point}
  panels = [p for p in _PANELS if p[0] in measured] or [*_PANELS]
  has_bands = np.isfinite(
    [error for c in curves for p in c for _, error in p.values()]
  ).any()
  shown = [style.shorten(attack, _LONGEST) for attack in attacks]
  height = 2.0 + 0.3 * max(len(shown), 3)
  width = style.WIDTH * (0.4 + 0.2 * len(panels))
  with style.figure(theme, width=width, height=height) as figure:
    grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (key, head, note) in zip(grid, panels, strict=True):
      note = note.format(where=where)
      if has_bands and key == panels[-1][0]:
        note += "; bands: ± 2 standard errors"
      style.title(axes, head, note)
      drawn = [
        _line(axes, curve, key, index) for index, curve in enumerate(curves)
      ]
      if not any(drawn):
        style.no_data(axes)
      _scale(axes, key == "accuracy", any(drawn))
    if shown:
      grid[0].set_yticks(range(len(shown)), shown, color=theme.ink)
      grid[0].set_ylim(len(shown) - 0.6, -0.4)
    style.run_legend(figure, names)
  return figure


def _line(
  axes: matplotlib.axes.Axes,
  curve: Sequence[Mapping[str, Left]],
  key: str,
  run: int,
) -> bool:
  """Draws one quantity of one run; returns whether it has any finite value."""
  nothing = (np.nan, np.nan)
  values, errors = (
    np.array([point.get(key, nothing) for point in curve], np.float64)
    .reshape(-1, 2)
    .T
  )
  if not np.isfinite(values).any():
    return False
  places, hue = np.arange(len(curve)), style.theme_of(axes).colour(run)
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
