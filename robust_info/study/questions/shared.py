"""Parts that several questions share."""

import contextlib
import math
import pathlib
from collections.abc import Callable, Iterator, Sequence

import matplotlib.axes
import matplotlib.axis
import matplotlib.figure
import matplotlib.ticker
import numpy as np
from scipy import stats

from robust_info.plots.drawing import style
from robust_info.study import answers
from robust_info.study.records import Record, Records

# Non-robust components of a trajectory: title -> name, see `curve`.
COMPONENTS = {
  "Fisher norm, mean": "fisher_frobenius",
  "Fisher norm, median": "fisher_frobenius_median",
  "Fisher norm, 95 % quantile": "fisher_frobenius_q95",
  "local non-robust part": "local_non_robust",
  "path non-robust part": "path_non_robust",
  "information removed": "removed",
}


def cases_with(
  found: Records, cases: Sequence[str], recipes: Sequence[str]
) -> list[str]:
  """The cases that have all these recipes with a common seed."""
  return [
    case
    for case in found.cases()
    if (not cases or case in cases) and found.seeds(case, recipes)
  ]


def per_seed(
  found: Records,
  case: str,
  recipes: Sequence[str],
  value: Callable[..., float],
) -> list[float]:
  """`value(record, ...)` of the records of these recipes, per common seed."""
  return [
    float(value(*(found.get(case, recipe, seed) for recipe in recipes)))
    for seed in found.seeds(case, recipes)
  ]


def complete_seeds(found: Records, case: str) -> list[int]:
  """The seeds of a case that have every recipe of any seed.

  What compares networks waits for the others: a ranking of a few recipes is no
  second sample of a ranking of all.
  """
  recipes = {record.recipe for record in found if record.case == case}
  return found.seeds(case, sorted(recipes))


def trusted(found: Records, case: str, seed: int) -> list[Record]:
  """The records of a seed without failed sanity checks."""
  return [
    record
    for record in found
    if (record.case, record.seed) == (case, seed) and not record.doubts
  ]


def curve(record: Record, name: str) -> np.ndarray:
  """A number of validation, one per validation.

  `removed` is the label information that PGD removes: the non-robust part of
  the epsilon lens.
  """
  if name == "removed":
    return curve(record, "label_information") - curve(
      record, "robust_label_information"
    )
  return np.asarray(record.trajectory[name], float)


def change(name: str, above: float, below: float) -> float:
  """How much larger a component is than another value of it.

  Binary logarithm of the ratio, so that 1 means twice as large; of the
  information that PGD removes, which may be 0, the difference in nats. Where a
  component vanishes in float32, the smallest normal number stands for it.
  """
  if name == "removed":
    return above - below
  tiny = float(np.finfo(np.float32).tiny)
  return math.log2(max(above, tiny)) - math.log2(max(below, tiny))


def change_text(title: str, name: str) -> str:
  """A component and the unit of its `change`, in words."""
  return (
    f"{title}, nats" if name == "removed" else f"{title}, log2 of the ratio"
  )


def spearman(x: np.ndarray, y: np.ndarray) -> np.ndarray:
  """Rank correlation along the last axis.

  NaN for fewer than three values, or where x or y is constant.
  """
  x, y = np.asarray(x, float), np.asarray(y, float)
  if x.shape[-1] < 3:
    return np.full(x.shape[:-1], math.nan)
  ranks = [stats.rankdata(values, axis=-1) for values in (x, y)]
  a, b = (r - r.mean(axis=-1, keepdims=True) for r in ranks)
  with np.errstate(invalid="ignore"):
    return np.sum(a * b, axis=-1) / np.sqrt(
      np.sum(a * a, axis=-1) * np.sum(b * b, axis=-1)
    )


# Digits after the point, or before it, in a table; smaller and larger numbers
# have an exponent.
_MOST_DIGITS = 6


def spread(values: Sequence[float]) -> str:
  """Mean ± standard deviation (n - 1) over seeds, to two digits of it."""
  values = np.asarray(values, float)
  if not len(values) or not np.isfinite(values).all():
    return "n/a"
  mean = float(values.mean())
  deviation = float(values.std(ddof=1)) if len(values) > 1 else 0.0
  # Equal values may differ from their mean by its rounding.
  if deviation <= 1e-12 * abs(mean):
    whole = 1000 <= abs(mean) < 10**_MOST_DIGITS
    text = f"{mean:.0f}" if whole else f"{mean:.3g}"
    return text + " ± 0" * (len(values) > 1)
  digits = max(0, 1 - math.floor(math.log10(deviation)))
  if digits > _MOST_DIGITS or abs(mean) >= 10**_MOST_DIGITS:
    return f"{mean:.2g} ± {deviation:.2g}"
  return f"{mean:.{digits}f} ± {deviation:.{digits}f}"


@contextlib.contextmanager
def panels(
  path: pathlib.Path, count: int, *, height: float = 3.2, columns: int = 3
) -> Iterator[tuple[matplotlib.figure.Figure, list[matplotlib.axes.Axes]]]:
  """A figure with rows of panels, saved at the end: it and its axes."""
  columns = min(count, columns)
  rows = -(-count // columns)
  width = style.WIDTH * (0.62, 0.9, 1.0)[columns - 1]
  height = 0.5 + height * rows
  with style.figure(style.LIGHT, width=width, height=height) as figure:
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat[count:]:
      axes.set_axis_off()
    yield figure, list(grid.flat[:count])
  style.save(figure, path)


def scatter(
  axes: matplotlib.axes.Axes, found: Records, case: str, x: str, y: str
) -> None:
  """A number against an accuracy in per cent, one point per network.

  Networks whose robust accuracy is not trustworthy are crosses.
  """
  for record in found:
    if record.case == case:
      axes.plot(
        record.numbers[x],
        100 * record.numbers[y],
        "x" if record.doubts else "o",
        color=style.LIGHT.alarm if record.doubts else style.LIGHT.colour(0),
        alpha=0.7,
      )


def recipe_table(
  found: Records, case: str, columns: dict[str, str]
) -> answers.Table:
  """Mean ± deviation of numbers over the seeds, one row per recipe.

  Args:
    found: the records.
    case: name of the case.
    columns: title -> name of a number; shares and accuracies in per cent if the
      title has a per cent sign.
  """
  rows = []
  for recipe in found.recipes(case):
    records = found.of(case, recipe).values()
    cells = []
    for title, name in columns.items():
      factor = 100 if "%" in title else 1
      cells.append(
        spread([factor * r.numbers.get(name, math.nan) for r in records])
      )
    doubtful = sum(bool(r.doubts) for r in records)
    mark = f" ({doubtful} of {len(records)} not trustworthy)" * bool(doubtful)
    rows.append([f"`{recipe}`{mark}", len(records), *cells])
  return answers.Table(case, ["recipe", "seeds", *columns], rows)


def log_axis(axis: matplotlib.axis.Axis) -> None:
  """A log scale with few ticks, written as plain numbers."""
  axis.axes.set(**{f"{axis.axis_name}scale": "log"})
  low, high = getattr(axis.axes, f"get_{axis.axis_name}lim")()
  decades = math.log10(high / low)
  if decades < 1:
    subs = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)
  else:
    subs = (1.0, 2.0, 5.0) if decades < 3 else (1.0,)
  axis.set_major_locator(matplotlib.ticker.LogLocator(subs=subs, numticks=7))
  style.plain_ticks(axis)
  axis.set_minor_locator(matplotlib.ticker.NullLocator())
