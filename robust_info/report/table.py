"""A report as a table for people."""

import math
import textwrap
from collections.abc import Mapping
from typing import Any

_LABEL_WIDTH = 34
_MIN_WIDTH = 20  # of a column; two of them fit 80 characters
_GAP = 2
_NOTE_WIDTH = 80


def render(report: Mapping[str, Any]) -> str:
  """The report as fixed-width text, a column a run.

  Args:
    report: from `report.build` or `report.load`.

  Returns:
    Lines of which none ends in a space; columns are as wide as their widest
    cell. A `±` is one standard error over examples; information is in nats;
    what is not a number is n/a. Below the sanity checks stands for each run
    whether its robust accuracies can be believed.
  """
  names = [run["name"] for run in report["runs"]]
  sections = list(_sections(report))
  cells = [names, *(row[1] for _, rows, _ in sections for row in rows)]
  width = max(_MIN_WIDTH, *(len(cell) for row in cells for cell in row)) + _GAP
  about = report["data"]
  lines = [
    f"{about['name']} {about['split']} split, "
    f"{about['num_examples']:,} examples; information in nats;",
    "± is one standard error over examples",
    "",
    _line("", names, width),
  ]
  for title, rows, notes in sections:
    lines += ["", title]
    lines += [_line(f"  {label}", row, width) for label, row in rows]
    for note in notes:
      lines += textwrap.wrap(note, _NOTE_WIDTH)
  return "\n".join(lines)


def _line(label: str, cells: list[str], width: int) -> str:
  return f"{label:<{_LABEL_WIDTH}}" + "".join(f"{c:>{width}}" for c in cells)


def _sections(report):
  """(title, rows, notes), where a row is a label and a cell a run."""
  for title, rows in _numbers(report):
    yield title, rows, []
    # Next to the accuracies they are about.
    if title.startswith("Accuracy under"):
      yield from _robustness(report["runs"])


def _robustness(runs):
  """The strongest attack, and whether to believe it."""
  found = [run["robustness"] for run in runs]
  first = found[0]
  place = f"{first['norm']} {first['epsilon']:g}"
  if len(first["steps"]) > 1:
    rows = [
      (
        f"after {step['attack']}" if i else f"{step['attack']} alone",
        [
          _percent(f["steps"][i]["accuracy"], f["steps"][i]["standard_error"])
          for f in found
        ],
      )
      for i, step in enumerate(first["steps"])
    ]
    worst = [_percent(f["accuracy"], f["standard_error"]) for f in found]
    rows.append(("each example at its worst", worst))
    yield f"Accuracy under {first['attack']}, {place}", rows, []
  if not first["sanity"]:  # There is no ball.
    return
  reports = [f["sanity"] for f in found]
  rows = [
    (
      f"{check['name']} <= {_number(check['limit'])}",
      [_verdict(r["checks"][i]) for r in reports],
    )
    for i, check in enumerate(reports[0]["checks"])
  ]
  notes = [
    f"{run['name']}: {report['verdict']}"
    for run, report in zip(runs, reports, strict=True)
  ]
  title = f"Sanity checks at {place}, {reports[0]['num_examples']:,} examples"
  yield title, rows, notes


def _verdict(check) -> str:
  return f"{'pass' if check['passed'] else 'FAIL'} {_number(check['value'])}"


def _numbers(report):
  runs = report["runs"]

  def row(label, read):
    return label, [read(run) for run in runs]

  yield (
    "Performance",
    [
      row("objective, model", lambda r: f"{r['objective']}, {r['model']}"),
      row("checkpoint", lambda r: f"{r['checkpoint']}, step {r['step']:,}"),
      row("accuracy", lambda r: _percent(*_pair(r, "accuracy"))),
      row("cross-entropy", lambda r: _number(*_pair(r, "cross_entropy"))),
      row(
        "calibration error",
        lambda r: _percent(*_pair(r, "calibration_error")),
      ),
    ],
  )
  points = runs[0]["robust_accuracy"]
  yield (
    f"Accuracy under {points[0]['attack']}, {points[0]['norm']} ball",
    [
      row(
        f"epsilon {point['epsilon']:g}",
        lambda r, i=i: _percent(
          r["robust_accuracy"][i]["accuracy"],
          r["robust_accuracy"][i]["standard_error"],
        ),
      )
      for i, point in enumerate(points)
    ],
  )
  yield (
    "Information",
    [
      row(
        label,
        lambda r, name=name: _number(*_pair(r, name, "information")),
      )
      for label, name in (
        ("CCKL, all cross-category pairs", "cckl"),
        ("I(X;Y^)  mutual information", "mutual_information"),
        ("L(X;Y^)  lautum information", "lautum_information"),
        ("I(K;Y^)  label information", "label_information"),
        ("H(K) - cross-entropy <= I(K;X)", "variational_bound"),
        ("H(K)  label entropy", "label_entropy"),
      )
    ],
  )
  yield (
    "Fisher information at the samples, mean (median)",
    [
      row(
        label,
        lambda r, name=name: (
          f"{_sampled(r['fisher'][name])} "
          f"({_number(r['fisher'][name]['median'])})"
        ),
      )
      for label, name in (
        ("trace", "trace"),
        ("Frobenius norm", "frobenius"),
        ("largest eigenvalue", "spectral"),
      )
    ],
  )
  for title, name in (
    ("Lens 1, local: Fisher at the sample", "local_lens"),
    ("Lens 2, path: Fisher along the segment", "path_lens"),
  ):
    pairs = f"{runs[0][name]['num_pairs']:,}"
    if coarse := runs[0][name].get("num_coarse_pairs"):
      pairs = f"{pairs} + {coarse:,} coarse"
    yield (
      f"{title}; from {pairs} pairs",
      [
        row(
          "mean divergence (CCKL)", lambda r, n=name: _sampled(r[n]["total"])
        ),
        row("non-robust part", lambda r, n=name: _sampled(r[n]["non_robust"])),
        row("robust part", lambda r, n=name: _sampled(r[n]["robust"])),
        row(
          "non-robust share",
          lambda r, n=name: _percent(
            r[n]["non_robust_share"],
            r[n]["non_robust_share_standard_error"],
          ),
        ),
        *(
          [
            row(
              "quadrature error, mean",
              lambda r, n=name: _number(r[n]["quadrature_error"]["mean"]),
            )
          ]
          if "quadrature_error" in runs[0][name]
          else []
        ),
      ],
    )
  for index, lens in enumerate(runs[0]["epsilon_lens_by_attack"]):
    rows = []
    for label, name in (("CCKL", "cckl"), ("I(K;Y^)", "label_information")):
      for part in ("robust", "non_robust"):
        rows.append(
          row(
            f"{label}, {part.replace('_', '-')}",
            lambda r, n=name, p=part, i=index: _number(*_attacked(r, i, n, p)),
          )
        )
      rows.append(
        row(
          f"{label}, non-robust share",
          lambda r, n=name, i=index: _percent(
            *_attacked(r, i, n, "non_robust_share")
          ),
        )
      )
    yield (
      f"Lens 3, epsilon ball: {lens['attack']}, {lens['norm']} "
      f"{lens['epsilon']:g}",
      rows,
    )


def _pair(run, name: str, section: str = "performance") -> tuple[float, float]:
  """A number of a section and its standard error."""
  return run[section][name], run["standard_errors"][section][name]


def _attacked(run, index: int, name: str, part: str) -> tuple[float, float]:
  """A number of an epsilon lens and its standard error."""
  entry = run["epsilon_lens_by_attack"][index][name]
  return entry[part], entry["standard_errors"][part]


def _number(value: float, error: float = math.nan) -> str:
  if not math.isfinite(value):
    return "n/a"
  text = f"{value:.4g}" if abs(value) >= 1e-3 or value == 0 else f"{value:.1e}"
  return f"{text} ± {error:.2g}" if math.isfinite(error) else text


def _percent(value: float, error: float = math.nan) -> str:
  if not math.isfinite(value):
    return "n/a"
  text = f"{100 * value:.1f} %"
  return f"{text} ± {100 * error:.1f}" if math.isfinite(error) else text


def _sampled(part: Mapping[str, float]) -> str:
  return _number(part["mean"], part["standard_error"])
