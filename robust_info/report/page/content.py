"""The contents of the page, as plain values for its template."""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from robust_info.attacks import results
from robust_info.evaluation import metrics
from robust_info.evaluation.metrics import performance, rows
from robust_info.report import portrayed
from robust_info.report.page import comparison, glossary, pixels

# Classes of an example that are shown: the most probable ones before and after
# the attack.
_MOST_PROBABLE = 3


def percent(value: float, error: float = math.nan) -> str:
  """A share as in the table, its parts not separated by a line break."""
  return rows.percent(value, error).replace(" ", "\N{NO-BREAK SPACE}")


def headline(report: Mapping[str, Any], run: rows.Run) -> dict[str, Any]:
  """The numbers of a run to see first.

  Returns:
    `about`, text on its origin; `accuracy` and `robust`, pairs of a value and
    its standard error; `gap`, the same for the images that an attack other than
    PGD breaks in addition, None without one; `verdict`, which is "trustworthy",
    "not trustworthy" or "not checked"; and the `failed` checks.
  """
  robust = run["robustness"]
  gap, checks = None, robust["sanity"].get("checks", ())
  if len(robust["steps"]) > 1:
    # Images that PGD breaks are among those broken at their worst.
    value = robust["steps"][0]["accuracy"] - robust["accuracy"]
    size = report["data"]["num_examples"]
    gap = value, results.share_error(max(value, 0), size)
  failed = [check for check in checks if not check["passed"]]
  about = [performance.origin(run)]
  if run["checkpoint"]:
    about.append(f"checkpoint: {performance.checkpoint(run)}")
  return {
    "about": "; ".join(about),
    "accuracy": rows.pair(run, "accuracy", "performance"),
    "robust": (robust["accuracy"], robust["standard_error"]),
    "gap": gap,
    "verdict": "not trustworthy"
    if failed
    else ("trustworthy" if checks else "not checked"),
    "num_checks": len(checks),
    "failed": failed,
  }


def overview(report: Mapping[str, Any]) -> dict[str, Any]:
  """The table of all runs: `columns`, and cells per run, `lines`."""
  columns = list(_columns(report))
  return {
    "columns": [
      {"label": label, "better": better} for label, better, _ in columns
    ],
    "lines": [[read(run) for *_, read in columns] for run in report["runs"]],
  }


def _columns(
  report: Mapping[str, Any],
) -> Iterator[tuple[str, str, Callable[[rows.Run], str]]]:
  def number(name, part):
    return lambda run: rows.number(*rows.pair(run, name, part))

  def head(name):
    def read(run):
      pair = headline(report, run)[name]
      return percent(*pair) if pair else "n/a"

    return read

  yield "accuracy", glossary.UP, head("accuracy")
  yield "robust accuracy", glossary.UP, head("robust")
  if any(len(run["robustness"]["steps"]) > 1 for run in report["runs"]):
    yield "broken beyond PGD", glossary.DOWN, head("gap")
  yield "sanity", "", lambda run: headline(report, run)["verdict"]
  yield (
    "label information",
    glossary.UP,
    number("label_information", "information"),
  )
  yield "CCKL", glossary.NEITHER, number("cckl", "information")
  yield (
    "Fisher norm, mean",
    glossary.DOWN,
    lambda run: rows.sampled(run["fisher"]["frobenius"]),
  )
  for lens in comparison.LENSES:
    yield (
      f"{lens.key} share",
      glossary.DOWN,
      lambda run, lens=lens: percent(*lens.share(run)),
    )


def lenses(runs: Sequence[rows.Run]) -> dict[str, Any]:
  """The lenses with the shares of every run, and sentences on both extremes."""
  found: dict[str, Any] = {
    "lenses": comparison.LENSES,
    "lines": [
      [percent(*lens.share(run)) for lens in comparison.LENSES] for run in runs
    ],
    "above": comparison.above(runs),
    "below": comparison.below(runs),
    "sentences": [],
  }
  if places := comparison.extremes(runs):
    first, second = (runs[place] for place in places)
    found["extremes"] = places
    found["sentences"] = comparison.explain(
      comparison.compare(first, second), first["name"], second["name"]
    )
  return found


def tables(runs: Sequence[rows.Run]) -> Iterator[dict[str, Any]]:
  """Every table of the report, one line per run.

  Sanity checks have a table of their own, see `sanity`.
  """
  taken: set[str] = set()
  for title, table, notes in metrics.sections(runs):
    if title.startswith("Sanity checks"):
      continue
    labels = [label for label, _ in table]
    meanings = [glossary.meaning(label) for label in labels]
    yield {
      "anchor": anchor(title, taken),
      "title": title,
      "columns": [
        {"label": label, "better": found.better if found else ""}
        for label, found in zip(labels, meanings, strict=True)
      ],
      "lines": list(zip(*(cells for _, cells in table), strict=True)),
      "meanings": [
        (label, found)
        for label, found in _once(zip(labels, meanings, strict=True))
      ],
      "notes": notes,
    }


def _once(
  pairs: Iterator[tuple[str, glossary.Meaning | None]],
) -> Iterator[tuple[str, glossary.Meaning]]:
  """Each meaning once, with the first of its labels."""
  seen = set()
  for label, found in pairs:
    if found and found not in seen:
      seen.add(found)
      yield label, found


def anchor(title: str, taken: set[str]) -> str:
  """An identifier for a title, not among those `taken`, to which it is added.

  Numbers are dropped, so that links to a report fit its next version.
  """
  words = re.findall(r"[a-z]+", title.lower())
  base = "-".join(["table", *words])[:60].rstrip("-")
  found, number = base, 1
  while found in taken:
    number += 1
    found = f"{base}-{number}"
  taken.add(found)
  return found


def sanity(runs: Sequence[rows.Run]) -> dict[str, Any] | None:
  """The sanity checks, one line per check; None at radius 0."""
  reports = [run["robustness"]["sanity"] for run in runs]
  if not all(reports):
    return None
  return {
    "num_examples": reports[0]["num_examples"],
    "checks": [
      {
        "name": check["name"],
        "limit": rows.number(check["limit"]),
        "meaning": check["meaning"],
        "cells": [
          {
            "passed": found["checks"][i]["passed"],
            "value": rows.beside_limit(
              found["checks"][i]["value"], check["limit"]
            ),
          }
          for found in reports
        ],
      }
      for i, check in enumerate(reports[0]["checks"])
    ],
  }


def sampling(examples: portrayed.Examples) -> int:
  """Number k such that the page shows every k-th pixel of each image."""
  num_examples, height, width = examples.images.shape[:3]
  # The image, and three more per run.
  num_images = num_examples * (1 + 3 * len(examples.eigenvectors))
  return pixels.sampling(height, width, num_images=num_images)


def examples(
  report: Mapping[str, Any], shown: portrayed.Examples
) -> list[dict[str, Any]]:
  """Every example with its image, and its pictures and predictions per run."""
  names, every = report["data"]["label_names"], sampling(shown)
  images, eigenvectors, adversarial = (
    values[..., ::every, ::every, :]
    for values in (shown.images, shown.eigenvectors, shown.adversarial)
  )
  perturbation = adversarial - images
  largest = float(np.nanmax(np.abs(perturbation), initial=0.0))
  gain = 0.5 / largest if largest > 0 else 1.0
  return [
    {
      "label": names[label],
      "image": pixels.picture(image),
      "portraits": [
        {
          "eigenvector": pixels.diverging(eigenvectors[run, i]),
          "perturbation": pixels.picture(0.5 + gain * perturbation[run, i]),
          "attacked": pixels.picture(adversarial[run, i]),
          "clean": _prediction(shown.probabilities[run, i], label, names),
          "fooled": _prediction(
            shown.adversarial_probabilities[run, i], label, names
          ),
          "classes": _classes(
            shown.probabilities[run, i],
            shown.adversarial_probabilities[run, i],
            label,
            names,
          ),
        }
        for run in range(len(report["runs"]))
      ],
      "gain": f"{gain:.3g}",
    }
    for i, (image, label) in enumerate(zip(images, shown.labels, strict=True))
  ]


def _prediction(
  p: np.ndarray, label: int, names: Sequence[str]
) -> dict[str, Any]:
  """The most probable class, its probability, and whether it is the true one.

  Logits that are not finite predict nothing.
  """
  if not np.isfinite(p).all():
    return {"name": "not a number", "share": "", "right": False}
  top = int(np.argmax(p))
  return {
    "name": names[top],
    "share": f"{100 * p[top]:.0f}\N{NO-BREAK SPACE}%",
    "right": top == label,
  }


def _classes(
  clean: np.ndarray, fooled: np.ndarray, label: int, names: Sequence[str]
) -> list[dict[str, Any]]:
  """Probabilities of the true class and of the most probable ones."""
  if not (np.isfinite(clean).all() and np.isfinite(fooled).all()):
    return []
  chosen = {label}
  for p in (clean, fooled):
    chosen |= set(np.argsort(-p)[:_MOST_PROBABLE].tolist())
  return [
    {
      "name": names[k],
      "true": k == label,
      "clean": 100 * float(clean[k]),
      "fooled": 100 * float(fooled[k]),
    }
    for k in sorted(chosen, key=lambda k: -clean[k])
  ]
