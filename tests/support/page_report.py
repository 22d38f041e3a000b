"""Reports to show on a page, with names that no page is prepared for."""

import copy
import pathlib

import numpy as np

from robust_info.report import figures, page, portrayed, store

_STORED = pathlib.Path(__file__).with_name("old_report.json")
HOSTILE = '<script>alert("x")</script> \'" &amp; \N{GRINNING FACE} {{ 7 * 6 }}'
LONG = "r" * 200


def make_examples(num_runs, shape, num_classes=10, seed=0):
  """The same noise in place of all images of all runs."""
  rng = np.random.default_rng(seed)
  image, noise = rng.uniform(size=shape), rng.normal(size=shape)
  everywhere = (num_runs, 6, *shape)
  return portrayed.Examples(
    images=np.broadcast_to(image, (6, *shape)),
    eigenvectors=np.broadcast_to(noise, everywhere),
    adversarial=np.broadcast_to(
      np.clip(image + 0.1 * np.sign(noise), 0, 1), everywhere
    ),
    probabilities=rng.dirichlet(np.ones(num_classes), (num_runs, 6)),
    adversarial_probabilities=rng.dirichlet(
      np.ones(num_classes), (num_runs, 6)
    ),
    labels=list(range(6)),
    threat="PGD-20, linf 0.1",
  )


def make_report(num_runs=2):
  """The stored report, its run repeated under other names."""
  found = store.load(_STORED)
  found["runs"] = [copy.deepcopy(found["runs"][0]) for _ in range(num_runs)]
  for i, run in enumerate(found["runs"]):
    run["name"] = (HOSTILE, LONG)[i] if i < 2 else f"run {i}"
    run["performance"]["accuracy"] -= 0.01 * (i % 2)
  found["data"]["name"] = HOSTILE
  found["data"]["label_names"] = [HOSTILE, LONG, *"23456789"]
  return found


def with_ensemble(report):
  """The report, as if an ensemble had found more than PGD."""
  report["settings"]["attack"] = "autoattack"
  for run in report["runs"]:
    robust = run["robustness"]
    first = robust["steps"][0]
    robust["attack"] = "AutoAttack standard"
    robust["accuracy"] = first["accuracy"] - 0.03
    robust["warnings"] = [HOSTILE]
    robust["steps"].append({**first, "attack": "square"})
    robust["sanity"]["checks"][0] |= {"passed": False, "name": HOSTILE}
    run["strength_curve"] = [
      {**run["epsilon_lens"], "attack": attack} for attack in ("none", HOSTILE)
    ]
  return report


def draw(report, folder, shown):
  """Writes the page with its figures; returns its text."""
  for name in figures.of_report(report):
    getattr(figures, name)(report, folder / f"{name}.svg")
  return page.write(report, folder, shown).read_text(encoding="utf-8")


def without_a_run(report):
  """The report, as if its first network came from elsewhere."""
  nothing = dict.fromkeys(("objective", "checkpoint", "step", "config"))
  report["runs"][0] |= {**nothing, "curves": [], "starts": []}
  return report
