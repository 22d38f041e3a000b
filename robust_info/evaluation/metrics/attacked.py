"""What a report says of one network under attack.

Shapes: `N` examples. Information in nats.
"""

import dataclasses
import itertools
import math
import shutil
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from robust_info import attacks
from robust_info import config as config_lib
from robust_info.evaluation import cache as measurement_cache
from robust_info.evaluation import evaluator as evaluator_lib
from robust_info.evaluation import predictions, worst_case
from robust_info.information import _jackknife

# (label of the measurement) -> called with (done, total).
Ticks = Callable[[str], evaluator_lib.Tick | None]
# The parts of the epsilon lens that a curve over strengths shows.
_BOUNDED = ("label_information", "cckl")


def attack_name(attack: str, settings: config_lib.EvaluationConfig) -> str:
  """What a number of this attack is called, "PGD-20x2" with two restarts."""
  name = {"pgd": "PGD", "kl_pgd": "KL-PGD"}[attack]
  restarts = f"x{settings.restarts}" if settings.restarts > 1 else ""
  return f"{name}-{settings.num_steps}{restarts}"


def ensemble_name(settings: config_lib.EvaluationConfig) -> str:
  """What a number of the attack of evaluate.py is called, with its version."""
  if settings.attack == "autoattack":
    return f"AutoAttack {settings.autoattack_version}"
  if settings.attack == "apgd":
    return _apgd_name(worst_case.APGD)
  return attack_name("pgd", settings)


def _apgd_name(names: Sequence[str]) -> str:
  """What several APGD attacks are called, "APGD-CE+T"."""
  return "APGD-" + "+".join(n.removeprefix("apgd-").upper() for n in names)


def measure(
  evaluator: evaluator_lib.Evaluator,
  variables: Any,
  clean: predictions.Predictions,
  cache: measurement_cache.MeasurementCache,
  settings: config_lib.EvaluationConfig,
  *,
  ticks: Ticks,
) -> dict[str, Any]:
  """Attacks one network; finished measurements come from the cache.

  Args:
    evaluator: of its architecture, on the split to report.
    variables: of the network.
    clean: its clean predictions.
    cache: for exactly this network, split and settings.
    settings: those of the evaluator, but for radii and the attack.
    ticks: gives the progress callback of each long measurement.

  Returns:
    `robust_accuracy`: of PGD by radius. Each example counts at its worst up to
    that radius, the clean point included, and so this may lie below the
    accuracy of `epsilon_lens`, which is that of one attack.

    `robustness`: the accuracy in the ball under `settings.attack`, at worst
    over all that `robust_accuracy` saw up to this radius as well; what each
    attack left (of an ensemble by itself, as it is published); the `sanity`
    checks, which tell whether it can be believed (empty at epsilon 0); and the
    `warnings` of an ensemble, with counts of examples whose logits or gradients
    are not finite.

    `epsilon_lens_by_attack`: the lens at the largest label loss and at the
    largest divergence. For PGD these are two attacks; for an ensemble the two
    choices of `worst_case`, among its points and those of PGD. `epsilon_lens`
    is the first.

    `strength_curve`: of an ensemble, the lens from no attack to that ensemble.
    At each strength the accuracy at worst, and the least label information and
    the least CCKL of both choices so far, which bound what survives from
    above; none of them ever rises. Empty for PGD.
  """
  runner = _Runner(evaluator, variables, clean, cache, settings, ticks)
  grid = sorted({0.0, *settings.epsilon_grid, settings.epsilon})
  attacked = [
    (epsilon, np.array(runner.pgd("pgd", epsilon)["correct"], bool))
    for epsilon in grid
    if epsilon > 0
  ]
  curve = accuracy_curve(clean.correct, attacked)
  survivors = np.logical_and.reduce(
    [clean.correct]
    + [correct for epsilon, correct in attacked if epsilon <= settings.epsilon]
  )
  threat = {"norm": settings.norm, "epsilon": settings.epsilon}
  pgd_name = attack_name("pgd", settings)
  [at_radius] = [p for p in curve if p["epsilon"] == settings.epsilon]
  steps = [{**at_radius, "attack": pgd_name}]
  lenses = [
    {
      "attack": attack_name(kind, settings),
      **threat,
      **runner.pgd(kind, settings.epsilon)["lens"],
    }
    for kind in evaluator_lib.ATTACKS
  ]
  strengths, warnings = [], []
  if settings.attack == "pgd":
    sanity = runner.sanity() if settings.epsilon > 0 else {}
  else:
    found = runner.ensemble()
    sanity, warnings = found["sanity"], found["warnings"]
    steps += [
      {
        "attack": name,
        "epsilon": settings.epsilon,
        **_share(accuracy, len(survivors)),
      }
      for name, accuracy in found["accuracies"].items()
    ]
    survivors &= np.array(found["correct"], bool)
    name = ensemble_name(settings)
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
      "attack": ensemble_name(settings),
      **threat,
      **_share(float(survivors.mean()), len(survivors)),
      "steps": steps,
      "sanity": sanity,
      "warnings": warnings,
    },
    "strength_curve": [{**threat, **point} for point in strengths],
  }


class _Runner:
  """Attacks on one network, each made once."""

  def __init__(self, evaluator, variables, clean, cache, settings, ticks):
    self._evaluator = evaluator
    self._variables = variables
    self._clean = clean
    self._cache = cache
    self._settings = settings
    self._ticks = ticks

  def pgd(self, kind: str, epsilon: float) -> dict[str, Any]:
    """Who is correct under PGD or KL-PGD, and the lens."""
    settings = self._settings
    label = f"{attack_name(kind, settings)} {settings.norm} {epsilon:g}"

    def run():
      found = self._evaluator.attack(
        self._variables, epsilon=epsilon, attack=kind, tick=self._ticks(label)
      )
      return {
        "correct": found.correct.astype(int).tolist(),
        "lens": _describe_epsilon_lens(self._clean, found),
      }

    return self._cache.get(f"{kind}-{epsilon!r}", run)

  def sanity(self) -> dict[str, Any]:
    """The checks in the ball of the settings."""
    epsilon = self._settings.epsilon
    return self._cache.get(
      f"sanity-{epsilon!r}", lambda: self._check(epsilon, None)
    )

  def ensemble(self) -> dict[str, Any]:
    """The ensemble of the settings, with all that comes before it."""
    settings = self._settings
    name = (
      f"{settings.attack}-{settings.autoattack_version}-{settings.epsilon!r}"
    )
    state = self._cache.folder(name)
    found = self._cache.get(name, lambda: self._run_ensemble(state))
    # The state has served its purpose, and holds every attacked image.
    shutil.rmtree(state, ignore_errors=True)
    return found

  def _check(self, epsilon, evaluated):
    report = worst_case.sanity(
      self._evaluator, self._variables, epsilon=epsilon, evaluated=evaluated
    )
    return {
      "num_examples": min(
        self._settings.sanity_examples, len(self._evaluator.split)
      ),
      "trustworthy": report.trustworthy,
      "verdict": report.verdict,
      "accuracies": report.accuracies,
      "checks": [dataclasses.asdict(check) for check in report.checks],
    }

  def _run_ensemble(self, state):
    settings, evaluator = self._settings, self._evaluator
    epsilon = settings.epsilon
    plain = settings.attack == "apgd"
    result = worst_case.auto_attack(
      evaluator,
      self._variables,
      epsilon=epsilon,
      version=settings.autoattack_version,
      names=worst_case.APGD if plain else None,
      state_dir=state,
      progress=self._follow(),
    )
    clean = evaluator.logits(self._variables)

    def gradient_attacks(num_steps):
      weaker = dataclasses.replace(settings, num_steps=num_steps)
      return attack_name("pgd", weaker), [
        evaluator.attacked_logits(
          self._variables, epsilon=epsilon, attack=kind, num_steps=num_steps
        )
        for kind in evaluator_lib.ATTACKS
      ]

    groups = [
      gradient_attacks(n) for n in dict.fromkeys((1, settings.num_steps))
    ]
    first = [
      *itertools.takewhile(lambda n: n.startswith("apgd"), result.attacks)
    ]
    cuts = {_apgd_name(first): len(first)}
    if not plain:
      cuts[ensemble_name(settings)] = len(result.attacks)
    groups += [
      (name, [worst_case.after_prefix(result, clean, number)])
      for name, number in cuts.items()
    ]
    strengths = [{"attack": "none", **self._lenses(clean, clean)}]
    for strength in worst_case.accumulate(clean, evaluator.labels, groups):
      strengths.append(
        {"attack": strength.attack, **self._lenses(*strength.choice)}
      )
    worst = evaluator.tally(strength.choice.label)
    return {
      "accuracies": {name: result.accuracies[name] for name in result.attacks},
      "correct": worst.correct.astype(int).tolist(),
      "strengths": strengths,
      "sanity": self._check(epsilon, result) if epsilon > 0 else {},
      "warnings": list(result.warnings),
    }

  def _lenses(self, label, divergence):
    return {
      rule: _describe_epsilon_lens(self._clean, self._evaluator.tally(logits))
      for rule, logits in (("label", label), ("divergence", divergence))
    }

  def _follow(self) -> Callable[[attacks.Progress], None]:
    """Progress of the ensemble: each attack anew, with the accuracy so far."""
    settings, started = self._settings, {}

    def follow(event: attacks.Progress) -> None:
      if event.attack not in started:
        started[event.attack] = self._ticks(
          f"{ensemble_name(settings)} {settings.norm} {settings.epsilon:g}, "
          f"{event.attack}"
        )
      if started[event.attack] is None:  # Not this process's to show.
        return
      started[event.attack](
        event.finished,
        event.total,
        resumed=event.resumed,
        under_way=event.under_way,
        note=f"robust accuracy so far {100 * event.robust_accuracy:.1f} %",
      )

    return follow


def strength_curve(strengths: list[dict[str, Any]]) -> list[dict[str, Any]]:
  """What survives at most, attack after attack.

  Args:
    strengths: `attack` and the lenses `label` and `divergence` at the worst
      points by each rule, from no attack to the strongest.

  Returns:
    For each strength the `attack`, the `accuracy` at the largest label loss,
    and of `label_information` and `cckl` the parts of the lens with the least
    robust part so far, with the attack and the rule that `found` it. Robust
    parts never rise.
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


def accuracy_curve(
  clean: np.ndarray, attacked: list[tuple[float, np.ndarray]]
) -> list[dict[str, float]]:
  """Robust accuracy by radius, each example at its worst so far.

  A point that fools the network at a radius lies in every larger ball, so an
  example broken once stays broken: the curve never rises.

  Args:
    clean: bool [N], correct at the clean inputs.
    attacked: radii, in increasing order, with who is correct there, bool [N].

  Returns:
    `epsilon`, `accuracy` and its binomial `standard_error`, from radius 0 on.
  """
  correct = clean.copy()
  curve = []
  for epsilon, survivors in [(0.0, clean), *attacked]:
    correct &= survivors
    share = _share(float(correct.mean()), len(correct))
    curve.append({"epsilon": epsilon, **share})
  return curve


def _share(accuracy: float, num_examples: int) -> dict[str, float]:
  """An accuracy with its binomial standard error."""
  error = math.sqrt(accuracy * (1 - accuracy) / num_examples)
  return {"accuracy": accuracy, "standard_error": error}


def _describe_epsilon_lens(
  clean: predictions.Predictions, attacked: predictions.Predictions
) -> dict[str, Any]:
  """The epsilon lens, with standard errors over examples."""
  before, after = clean.jackknife, attacked.jackknife
  entry: dict[str, Any] = {}
  for name in ("accuracy", "label_information", "cckl"):
    estimate, deleted = (
      _split(*(getattr(getattr(side, field), name) for side in (before, after)))
      for field in ("estimate", "deleted")
    )
    entry[name] = {
      **{part: float(value) for part, value in estimate.items()},
      "standard_errors": {
        part: float(_jackknife.standard_error(values))
        for part, values in deleted.items()
      },
    }
  for key, side in (
    ("robust_cckl_matrix", after.estimate),
    ("robust_cckl_matrix_standard_error", after.standard_error),
  ):
    entry[key] = np.asarray(side.cckl_matrix, np.float64).tolist()
  return entry


def _split(total: np.ndarray, robust: np.ndarray) -> dict[str, np.ndarray]:
  """`EpsilonComponents` of `epsilon_lens`, and the share of what was taken."""
  taken = total - robust
  with np.errstate(divide="ignore", invalid="ignore"):
    share = taken / total
  return {
    "total": total,
    "robust": robust,
    "non_robust": taken,
    "non_robust_share": share,
  }
