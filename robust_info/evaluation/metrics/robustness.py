"""Robust accuracy by radius and attack, and the checks of whether to trust it.

Shapes: `N` examples. Information is in nats.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from robust_info import config as config_lib
from robust_info.attacks import results
from robust_info.config import registry
from robust_info.evaluation.metrics import attack_runs, attacked, rows, subject
from robust_info.runtime import progress

# The quantities of the epsilon lens that a strength curve shows.
_BOUNDED = ("label_information", "cckl")


def measure(network: subject.Subject) -> dict[str, Any]:
  """Attacks one network; finished attacks are read from the cache.

  Returns:
    `robust_accuracy`: accuracy under PGD by radius. Each example counts at its
    worst point up to that radius, the clean point included. This accuracy may
    therefore lie below the accuracy of `epsilon_lens`, which uses one attack.

    `robustness`: the accuracy in the ball under `settings.attack`, in the worst
    case also over all attacks of `robust_accuracy` up to this radius; the
    accuracy after each attack (for an ensemble, of the ensemble alone, as
    usually published); the `sanity` checks of whether the accuracy can be
    trusted (empty at epsilon 0); and the `warnings` of an ensemble, with counts
    of examples whose logits or gradients are not finite, or of an attack of
    one's own, with the number of its images outside the ball.

    `epsilon_lens_by_attack`: the lens at the largest label loss and at the
    largest divergence. For PGD these are two attacks; for an ensemble the two
    choices of `worst_case`, among its points and those of PGD. `epsilon_lens`
    is the lens at the largest label loss.

    `strength_curve`: for an ensemble, the lens from no attack to the whole
    ensemble. Each strength has the worst-case accuracy, and the smallest label
    information and the smallest CCKL of both choices so far, which are upper
    bounds on the values that survive; none of these numbers ever rises. Empty
    for PGD.
  """
  runs, settings = attack_runs.AttackRuns(network), network.settings
  grid = _grid(settings)
  # The attack at the radius of the settings is kept with its lens.
  by_radius = [
    (
      epsilon,
      np.array(
        runs.pgd("pgd", epsilon, with_lens=epsilon == settings.epsilon)[
          "correct"
        ],
        bool,
      ),
    )
    for epsilon in grid
    if epsilon > 0
  ]
  correct = network.clean.correct
  curve = results.accuracy_by_radius([(0.0, correct), *by_radius])
  survivors = np.logical_and.reduce(
    [correct] + [c for epsilon, c in by_radius if epsilon <= settings.epsilon]
  )
  threat = {"norm": settings.norm, "epsilon": settings.epsilon}
  pgd_name = attacked.attack_name("pgd", settings)
  [at_radius] = [p for p in curve if p["epsilon"] == settings.epsilon]
  steps = [{**at_radius, "attack": pgd_name}]
  lenses = [
    {
      "attack": attacked.attack_name(kind, settings),
      **threat,
      **runs.pgd(kind, settings.epsilon, with_lens=True)["lens"],
    }
    for kind in attacked.ATTACKS
  ]
  strengths, warnings = [], []
  if settings.attack == "pgd" or registry.chosen(settings):
    sanity = runs.sanity() if settings.epsilon > 0 else {}
  if registry.chosen(settings):
    found = runs.registered()
    own = np.array(found["correct"], bool)
    steps.append(
      {
        "attack": settings.attack,
        "epsilon": settings.epsilon,
        **results.share(float(own.mean()), len(own)),
      }
    )
    survivors &= own
    lenses.append({"attack": settings.attack, **threat, **found["lens"]})
    if found["outside"]:
      warnings.append(
        f"{settings.attack}: {found['outside']} of {len(own)} images lay "
        "outside the ball or [0, 1] and do not count."
      )
  elif settings.attack != "pgd":
    found = runs.ensemble()
    sanity, warnings = found["sanity"], found["warnings"]
    steps += [
      {
        "attack": name,
        "epsilon": settings.epsilon,
        **results.share(accuracy, len(survivors)),
      }
      for name, accuracy in found["accuracies"].items()
    ]
    survivors &= np.array(found["correct"], bool)
    name = attack_runs.ensemble_name(settings)
    lenses = [
      {"attack": title, **threat, **found["strengths"][-1][rule]}
      for rule, title in (
        ("label", name),
        ("divergence", f"{name}, largest KL"),
      )
    ]
    strengths = strength_curve(found["strengths"])
  return {
    "epsilon_lens": lenses[0],
    "epsilon_lens_by_attack": lenses,
    "robust_accuracy": [
      {"attack": pgd_name, "norm": settings.norm, **point} for point in curve
    ],
    "robustness": {
      "attack": attack_runs.ensemble_name(settings),
      **threat,
      **results.share(float(survivors.mean()), len(survivors)),
      "steps": steps,
      "sanity": sanity,
      "warnings": warnings,
    },
    "strength_curve": [{**threat, **point} for point in strengths],
  }


def work(
  settings: config_lib.EvaluationConfig, num_examples: int, num_classes: int
) -> Iterator[progress.Work]:
  """The work of `measure`."""
  passes = attack_runs.pgd_passes(settings)
  attacks = [("pgd", epsilon) for epsilon in _grid(settings) if epsilon > 0]
  if settings.epsilon == 0:
    attacks.append(("pgd", 0.0))
  for kind, epsilon in [*attacks, ("kl_pgd", settings.epsilon)]:
    label = attack_runs.pgd_label(kind, epsilon, settings)
    yield progress.Work(label, num_examples, passes)
  own = registry.chosen(settings)
  if not own and settings.attack != "pgd":
    yield from attack_runs.ensemble_work(settings, num_examples, num_classes)
  if settings.epsilon > 0:
    yield attack_runs.sanity_work(settings, num_examples)
  if own:
    # Its cost is unknown; that of PGD is a guess.
    yield progress.Work(attack_runs.own_label(settings), num_examples, passes)


def _grid(settings):
  return sorted({0.0, *settings.epsilon_grid, settings.epsilon})


def sections(runs: Sequence[rows.Run]) -> Iterator[rows.Section]:
  """The parts of the table: by radius, by attack, and the sanity checks."""
  points = runs[0]["robust_accuracy"]

  def at_radius(i):
    return lambda run: _accuracy(run["robust_accuracy"][i])

  yield rows.section(
    f"Accuracy under {points[0]['attack']}, {points[0]['norm']} ball",
    runs,
    [
      (f"epsilon {point['epsilon']:g}", at_radius(i))
      for i, point in enumerate(points)
    ],
  )
  first = runs[0]["robustness"]
  place = f"{first['norm']} {first['epsilon']:g}"
  if len(first["steps"]) > 1:
    yield rows.section(
      f"Accuracy under {first['attack']}, {place}",
      runs,
      _readers(first["steps"]),
    )
  if first["sanity"]:  # Empty at epsilon 0, where there is no ball.
    yield _checks(runs, place)


def _readers(steps):
  def after(i):
    return lambda run: _accuracy(run["robustness"]["steps"][i])

  for i, step in enumerate(steps):
    yield (
      f"after {step['attack']}" if i else f"{step['attack']} alone",
      after(i),
    )
  yield "each example at its worst", lambda run: _accuracy(run["robustness"])


def _checks(runs, place):
  def value(i):
    def read(run):
      check = run["robustness"]["sanity"]["checks"][i]
      verdict = "pass" if check["passed"] else "FAIL"
      return f"{verdict} {rows.beside_limit(check['value'], check['limit'])}"

    return read

  sanity = runs[0]["robustness"]["sanity"]
  found = rows.section(
    f"Sanity checks at {place}, {sanity['num_examples']:,} examples",
    runs,
    [
      (f"{check['name']} <= {rows.number(check['limit'])}", value(i))
      for i, check in enumerate(sanity["checks"])
    ],
  )
  return found._replace(
    notes=[
      *(f"{r['name']}: {r['robustness']['sanity']['verdict']}" for r in runs),
      *(
        f"{r['name']}: {w}"
        for r in runs
        for w in r["robustness"].get("warnings", ())
      ),
    ]
  )


def _accuracy(entry) -> str:
  return rows.percent(entry["accuracy"], entry["standard_error"])


def strength_curve(strengths: list[dict[str, Any]]) -> list[dict[str, Any]]:
  """Upper bounds on the surviving information, attack by attack.

  Args:
    strengths: dictionaries of `attack` and the lenses `label` and `divergence`
      at the worst points by each rule, from no attack to the strongest.

  Returns:
    For each strength: the `attack`; the `accuracy` at the largest label loss;
    and, for `label_information` and `cckl`, the parts of the lens with the
    smallest robust part so far, with the attack and the rule that `found` it.
    Robust parts never rise.
  """
  curve, least = [], {}
  for strength in strengths:
    for rule, name in itertools.product(("label", "divergence"), _BOUNDED):
      part = strength[rule][name]
      if name not in least or part["robust"] < least[name]["robust"]:
        found = {"attack": strength["attack"], "chosen_by": rule}
        least[name] = {**part, "found": found}
    curve.append(
      {
        "attack": strength["attack"],
        "accuracy": strength["label"]["accuracy"],
        **least,
      }
    )
  return curve
