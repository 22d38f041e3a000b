"""A report as a table for people."""

import math
from collections.abc import Mapping
from typing import Any

_WIDTH = 34  # of the column of labels


def render(report: Mapping[str, Any]) -> str:
  """The report as fixed-width text, a column a run.

  Args:
    report: from `report.build` or `report.load`.

  Returns:
    Lines that fit a terminal for two or three runs of short names. A `±` is
    one standard error over examples or pairs; information is in nats.
  """
  runs = report["runs"]
  width = max(22, *(len(run["name"]) + 2 for run in runs))
  about = report["data"]
  lines = [
    f"{about['name']} {about['split']} split, "
    f"{about['num_examples']:,} examples; information in nats; "
    "± is one standard error",
    "",
    " " * _WIDTH + "".join(f"{run['name']:>{width}}" for run in runs),
  ]
  for title, rows in _sections(report):
    lines += ["", title]
    for label, cells in rows:
      lines.append(
        f"  {label:<{_WIDTH - 2}}" + "".join(f"{c:>{width}}" for c in cells)
      )
  return "\n".join(lines)


def _sections(report):
  runs = report["runs"]

  def row(label, read):
    return label, [read(run) for run in runs]

  yield (
    "Performance",
    [
      row("objective, model", lambda r: f"{r['objective']}, {r['model']}"),
      row("checkpoint", lambda r: f"{r['checkpoint']}, step {r['step']:,}"),
      row("accuracy", lambda r: _percent(r["performance"]["accuracy"])),
      row(
        "cross-entropy", lambda r: _number(r["performance"]["cross_entropy"])
      ),
      row(
        "calibration error",
        lambda r: _percent(r["performance"]["calibration_error"]),
      ),
    ],
  )
  points = [runs[0]["robust_accuracy"][i] for i in range(_grid_length(runs))]
  yield (
    f"Accuracy under {points[0]['attack']}, {points[0]['norm']} ball",
    [
      row(
        f"epsilon {point['epsilon']:g}",
        lambda r, i=i: (
          _percent(r["robust_accuracy"][i]["accuracy"])
          + f" ± {100 * r['robust_accuracy'][i]['standard_error']:.1f}"
        ),
      )
      for i, point in enumerate(points)
    ],
  )
  yield (
    "Information",
    [
      row(label, lambda r, name=name: _number(r["information"][name]))
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
          f"{_number(r['fisher'][name]['mean'])} "
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
    pairs = runs[0][name]["num_pairs"]
    yield (
      f"{title} ({pairs:,} pairs)",
      [
        row("mean divergence", lambda r, n=name: _sampled(r[n]["total"])),
        row("non-robust part", lambda r, n=name: _sampled(r[n]["non_robust"])),
        row("robust part", lambda r, n=name: _sampled(r[n]["robust"])),
        row(
          "non-robust share",
          lambda r, n=name: (
            f"{_percent(r[n]['non_robust_share'])} ± "
            f"{100 * r[n]['non_robust_share_standard_error']:.1f}"
          ),
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
            lambda r, n=name, p=part, i=index: _number(
              r["epsilon_lens_by_attack"][i][n][p]
            ),
          )
        )
      rows.append(
        row(
          f"{label}, non-robust share",
          lambda r, n=name, i=index: _percent(
            r["epsilon_lens_by_attack"][i][n]["non_robust_share"]
          ),
        )
      )
    yield (
      f"Lens 3, epsilon ball: {lens['attack']}, {lens['norm']} "
      f"{lens['epsilon']:g}",
      rows,
    )


def _grid_length(runs) -> int:
  return min(len(run["robust_accuracy"]) for run in runs)


def _number(value: float) -> str:
  if not math.isfinite(value):
    return "n/a"
  return f"{value:.4g}" if abs(value) >= 1e-3 or value == 0 else f"{value:.1e}"


def _percent(value: float) -> str:
  return f"{100 * value:.1f} %" if math.isfinite(value) else "n/a"


def _sampled(part: Mapping[str, float]) -> str:
  return f"{_number(part['mean'])} ± {part['standard_error']:.2g}"
