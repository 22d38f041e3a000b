"""The robust and the non-robust part of CCKL, by lens and network."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from robust_info import lenses
from robust_info.plots import arguments

if TYPE_CHECKING:
  import matplotlib.figure

# Title of a lens, what it measures, and what a network gives it.
_LOCAL = ("Local lens", "Taylor at the sample")
_PATH = ("Path lens", "along the segment between samples")
_EPSILON = "Epsilon lens"
_Sampled = lenses.Components | lenses.LensMeans


def components(
  report: Mapping[str, Any] | None = None,
  *,
  local: _Sampled | Mapping[str, _Sampled] | None = None,
  path: _Sampled | Mapping[str, _Sampled] | None = None,
  epsilon: lenses.EpsilonLens | Mapping[str, lenses.EpsilonLens] | None = None,
  threat: str = "",
  theme: str = "light",
) -> "matplotlib.figure.Figure":
  """Draws the robust and the non-robust part of CCKL, by lens and network.

  One panel per lens, one bar per network: the solid part is robust, the hatched
  part is non-robust, and the tick marks their sum. Parts are stacked away from
  zero, so that a negative part appears on the left of the zero line and not as
  a gap. The total and the shares, which may exceed 100 %, are written above
  each bar. Lenses share one scale, unless this would flatten one of them.

  Args:
    report: a report, instead of the lenses.
    local: result of `lens_means`, best, or of `disentangle_local`: then the
      means over its P pairs.
    path: result of `lens_means` or of `disentangle_path`.
    epsilon: result of `epsilon_lens`.
    threat: see the module docstring; of `epsilon`.
    theme: see the module docstring.

  Returns:
    The figure. A part that is NaN leaves no bar, and the figure says so.

  Raises:
    ValueError: no lens is given, a lens has no pairs, or lenses are of
      different networks.
    TypeError: a result of another kind.
    ImportError: matplotlib is not installed.
  """
  colours = arguments.theme(theme)
  bars = arguments.drawing("bars")
  if report is not None:
    if not arguments.is_report(report):
      raise arguments.refuse(
        "report", report, "a report", "pass lenses as local=, path=, epsilon="
      )
    return bars.components(
      [bars.Lens(*lens) for lens in _of_report(report)],
      arguments.run_names(report),
      colours,
    )
  given = {
    "local": (local, (*_LOCAL, _sampled)),
    "path": (path, (*_PATH, _sampled)),
    "epsilon": (epsilon, (_EPSILON, _survivors(threat), _exact)),
  }
  panels, names, first = [], [], ""
  for argument, (value, (head, note, read)) in given.items():
    if value is None:
      continue
    found = arguments.by_network(argument, value)
    if panels:
      arguments.same_networks(argument, found, first, names)
    first, names = first or argument, [*found]
    parts = [
      read(arguments.of_network(argument, name), lens)
      for name, lens in found.items()
    ]
    panels.append(bars.Lens(head, note, parts))
  if not panels:
    raise ValueError("Expected local, path or epsilon, got no lens.")
  return bars.components(panels, names, colours)


def _of_report(report):
  """Title, note and parts of each lens."""
  style = arguments.drawing("style")
  runs = report["runs"]

  def both(parts):
    return style.number(parts["robust"]), style.number(parts["non_robust"])

  def means(lens):
    return {part: lens[part]["mean"] for part in ("robust", "non_robust")}

  yield (*_LOCAL, [both(means(run["local_lens"])) for run in runs])
  yield (*_PATH, [both(means(run["path_lens"])) for run in runs])
  ball = runs[0]["epsilon_lens"]
  radius = f"{ball['norm']} {style.number(ball['epsilon']):.3g}"
  yield (
    _EPSILON,
    _survivors(f"{style.cut(ball['attack'], 16)}, {radius}"),
    [both(run["epsilon_lens"]["cckl"]) for run in runs],
  )


def _survivors(threat: str) -> str:
  style = arguments.drawing("style")
  return f"what survives {style.shorten(threat.strip() or 'the attack', 30)}"


def _sampled(argument: str, lens: Any) -> tuple[float, float]:
  """Means of the robust and the non-robust part."""
  if isinstance(lens, lenses.LensMeans):
    return float(lens.robust.mean), float(lens.non_robust.mean)
  if not isinstance(lens, lenses.Components):
    raise arguments.refuse(
      argument,
      lens,
      "LensMeans or Components",
      "pass the result of lens_means or of the lens itself",
    )
  parts = [
    arguments.array(argument, part) for part in (lens.robust, lens.non_robust)
  ]
  if not all(part.size for part in parts):
    raise ValueError(f"Expected {argument} of at least one pair, got none.")
  return float(parts[0].mean()), float(parts[1].mean())


def _exact(argument: str, lens: Any) -> tuple[float, float]:
  if not isinstance(lens, lenses.EpsilonLens):
    raise arguments.refuse(
      argument, lens, "EpsilonLens", "pass the result of epsilon_lens"
    )
  return float(lens.cckl.robust), float(lens.cckl.non_robust)
