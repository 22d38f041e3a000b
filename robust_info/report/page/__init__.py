"""report.html: the report as one page for a browser.

The page is one file without any request to the network. It shows figures as
SVG, in a light and a dark theme, examples, every number with its meaning, and
how to reproduce it. All text from the report is escaped.
"""

import json
import pathlib
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

import jinja2
import markupsafe

from robust_info.plots.drawing import style
from robust_info.report import figures, portrayed
from robust_info.report.page import comparison, content, vectors
from robust_info.runtime import files

# Name of a figure -> its description for readers who do not see it.
_FIGURES = {
  "robust_accuracy": (
    "Lines of the accuracy of every run against the radius of the attack; the "
    "same numbers are in the table of accuracies under attack."
  ),
  "strength": (
    "Lines of the accuracy, the label information and the CCKL of every run "
    "that stronger and stronger attacks leave."
  ),
  "components": (
    "Bars of the robust and the non-robust part of CCKL of every run, one "
    "panel per lens; the same numbers are in the tables of the lenses."
  ),
  "cckl_matrices": (
    "Heat maps of the mean divergence between the predictions for each pair of "
    "classes, one per run."
  ),
  "training_curves": (
    "Lines of accuracy, CCKL, information, Fisher norm and the parts of the "
    "local and the path lens of every run over the epochs of training."
  ),
}


def write(
  report: Mapping[str, Any],
  folder: pathlib.Path,
  examples: portrayed.Examples | None = None,
) -> pathlib.Path:
  """Writes `report.html`.

  Args:
    report: a report from `report.build` or `report.load`.
    folder: directory of the report, with the SVG files of its figures.
    examples: single examples, in the order of the runs; None leaves their
      section out.

  Returns:
    The path of the page.

  Raises:
    OSError: a figure is missing, or the page cannot be written.
  """
  runs = report["runs"]
  environment = jinja2.Environment(
    loader=jinja2.PackageLoader("robust_info.report.page", "template"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  environment.filters["percent"] = content.percent
  text = environment.get_template("report.html").render(
    report=report,
    runs=runs,
    colours=_colours(),
    run_colour=lambda place: vectors.variable(
      style.LIGHT.colour(place).lower()
    ),
    figures=dict(_drawn(report, folder)),
    threat=comparison.threat_in_words(report["threat"]),
    headlines=[content.headline(report, run) for run in runs],
    overview=content.overview(report),
    lenses=content.lenses(runs),
    tables=list(content.tables(runs)),
    sanity=content.sanity(runs),
    examples=[] if examples is None else content.examples(report, examples),
    every=1 if examples is None else content.sampling(examples),
    attack=None if examples is None else examples.threat,
    command=shlex.join(["python", *report["software"]["command"]]),
    pretty=lambda value: json.dumps(value, indent=1, ensure_ascii=False),
  )
  files.write_whole(folder / "report.html", text)
  return folder / "report.html"


def _colours() -> list[tuple[str, str, str]]:
  """CSS variables of the colours of figures, light and dark."""
  return [
    (vectors.variable(light), light, dark)
    for light, dark in style.on_dark().items()
  ]


def _drawn(
  report: Mapping[str, Any], folder: pathlib.Path
) -> Iterator[tuple[str, markupsafe.Markup]]:
  for name in figures.of_report(report):
    svg = (folder / f"{name}.svg").read_text(encoding="utf-8")
    yield (
      name,
      vectors.inline(svg, prefix=f"{name}-", description=_FIGURES[name]),
    )
