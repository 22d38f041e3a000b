"""Attacks on one network, each run once and kept."""

import dataclasses
import itertools
import shutil
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax

from robust_info import attacks
from robust_info import config as config_lib
from robust_info.attacks.autoattack import cost
from robust_info.attacks.sanity import attack_checks
from robust_info.config import registry
from robust_info.evaluation import own_attack, worst_case
from robust_info.evaluation.metrics import attacked, subject
from robust_info.runtime import progress

SANITY = "sanity checks"


def ensemble_name(settings: config_lib.EvaluationConfig) -> str:
  """The name of the attack of evaluate.py, with its version."""
  if settings.attack == "autoattack":
    return f"AutoAttack {settings.autoattack_version}"
  if settings.attack == "apgd":
    return _apgd_name(worst_case.APGD)
  if registry.chosen(settings):
    return settings.attack
  return attacked.attack_name("pgd", settings)


def _apgd_name(names: Sequence[str]) -> str:
  """The name of several APGD attacks, for example "APGD-CE+T"."""
  return "APGD-" + "+".join(n.removeprefix("apgd-").upper() for n in names)


def pgd_label(
  kind: str, epsilon: float, settings: config_lib.EvaluationConfig
) -> str:
  """The label of PGD or KL-PGD in progress."""
  return f"{attacked.attack_name(kind, settings)} {settings.norm} {epsilon:g}"


def own_label(settings: config_lib.EvaluationConfig) -> str:
  """The label of an attack of one's own in progress."""
  return f"{settings.attack} {settings.norm} {settings.epsilon:g}"


def _ensemble_label(name, settings):
  ball = f"{settings.norm} {settings.epsilon:g}"
  return f"{ensemble_name(settings)} {ball}, {name}"


def _curve_label(kind, weaker):
  return f"strength curve, {attacked.attack_name(kind, weaker)}"


def _weaker(settings):
  """The settings of the gradient attacks of the strength curve."""
  numbers = dict.fromkeys((1, settings.num_steps))
  return [dataclasses.replace(settings, num_steps=n) for n in numbers]


def pgd_passes(settings: config_lib.EvaluationConfig) -> int:
  """Forward passes per example of PGD, a backward pass as one more."""
  return settings.restarts * (2 * settings.num_steps + 1)


def ensemble_work(
  settings: config_lib.EvaluationConfig, num_examples: int, num_classes: int
) -> Iterator[progress.Work]:
  """The work of `AttackRuns.ensemble`."""
  found = cost.passes(
    num_classes,
    version=settings.autoattack_version,
    attacks=worst_case.APGD if settings.attack == "apgd" else None,
  )
  for name, passes in found.items():
    yield progress.Work(
      _ensemble_label(name, settings), num_examples, passes, of_survivors=True
    )
  for weaker in _weaker(settings):
    for kind in attacked.ATTACKS:
      yield progress.Work(
        _curve_label(kind, weaker), num_examples, pgd_passes(weaker)
      )


def sanity_work(
  settings: config_lib.EvaluationConfig, num_examples: int
) -> progress.Work:
  """The work of `AttackRuns.sanity`."""
  number = min(settings.sanity_examples, num_examples)
  return progress.Work(SANITY, number, attack_checks.PASSES)


def _registered(logits_fn, examples, key, *, settings):
  x_adv, outside = own_attack.run(
    settings,
    logits_fn,
    examples.x,
    examples.label,
    jax.random.fold_in(key, examples.start),
    where=examples.where,
    example_ids=examples.ids,
  )
  return logits_fn(x_adv), outside


class AttackRuns:
  """Attacks on one network, each run once."""

  def __init__(self, network: subject.Subject):
    """Stores the network; attacks nothing yet."""
    self._network = network
    self._evaluator = network.evaluator
    self._variables = network.variables
    self._settings = network.settings
    self._cache = network.cache
    self._ticks = network.ticks

  def pgd(
    self, kind: str, epsilon: float, *, with_lens: bool = False
  ) -> dict[str, Any]:
    """Which examples are `correct` under PGD or KL-PGD, and perhaps the `lens`.

    The lens has errors by the jackknife, which for a thousand classes costs
    more than the attack.
    """
    settings = self._settings
    label = pgd_label(kind, epsilon, settings)

    def run():
      found = attacked.predictions(
        self._evaluator,
        self._variables,
        epsilon=epsilon,
        attack=kind,
        tick=self._ticks(label),
      )
      correct = {"correct": found.correct.astype(int).tolist()}
      if not with_lens:
        return correct
      return {**correct, "lens": attacked.describe(self._network.clean, found)}

    suffix = "-lens" if with_lens else ""
    return self._cache.get(f"{kind}-{epsilon!r}{suffix}", run)

  def sanity(self) -> dict[str, Any]:
    """The sanity checks in the ball of the settings."""
    epsilon = self._settings.epsilon
    return self._cache.get(
      f"sanity-{epsilon!r}", lambda: self._check(epsilon, None)
    )

  def ensemble(self) -> dict[str, Any]:
    """The ensemble of the settings, with all attacks before it."""
    settings = self._settings
    name = (
      f"{settings.attack}-{settings.autoattack_version}-{settings.epsilon!r}"
    )
    state = self._cache.folder(name)
    found = self._cache.get(name, lambda: self._run_ensemble(state))
    # The progress is no longer needed, and it holds every attacked image.
    shutil.rmtree(state, ignore_errors=True)
    return found

  def registered(self) -> dict[str, Any]:
    """The attack of one's own that the settings choose.

    It is kept by its program, which shows all code that it uses and all
    settings that it reads; not at all if it calls functions on the host.

    Returns:
      As `pgd`, and the number of points `outside` the ball or [0, 1], which do
      not count.
    """
    settings, evaluator = self._settings, self._evaluator
    part = registry.chosen(settings)

    def run():
      outside, logits = [], []
      batches = evaluator.by_batch(
        _registered,
        self._variables,
        evaluator.keys.attack,
        tick=self._ticks(own_label(settings)),
        settings=settings,
      )
      for found, missed in batches:
        logits.append(found)
        outside.append(int(missed.sum()))
      found = evaluator.tally(iter(logits))
      return {
        "correct": (found.correct & self._network.clean.correct)
        .astype(int)
        .tolist(),
        "lens": attacked.describe(self._network.clean, found),
        "outside": sum(outside),
      }

    program = evaluator.digest(
      _registered, self._variables, evaluator.keys.attack, settings=settings
    )
    if program is None:
      return run()
    return self._cache.get(f"{part.name}-{program[:32]}", run)

  def _check(self, epsilon, evaluated):
    tick = self._ticks(SANITY)
    number = min(self._settings.sanity_examples, len(self._evaluator.split))

    def follow(share):
      if tick is None:  # Another process shows it.
        return
      if share < 1:  # All examples finish together.
        tick(0, number, under_way=number * share)
      else:
        tick(number, number)

    report = worst_case.sanity(
      self._evaluator,
      self._variables,
      epsilon=epsilon,
      evaluated=evaluated,
      progress=follow,
    )
    return {
      "num_examples": number,
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

    def gradient_attacks(weaker):
      return attacked.attack_name("pgd", weaker), [
        attacked.logits(
          evaluator,
          self._variables,
          epsilon=epsilon,
          attack=kind,
          num_steps=weaker.num_steps,
          tick=self._ticks(_curve_label(kind, weaker)),
        )
        for kind in attacked.ATTACKS
      ]

    groups = [gradient_attacks(weaker) for weaker in _weaker(settings)]
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
      rule: attacked.describe(
        self._network.clean, self._evaluator.tally(logits)
      )
      for rule, logits in (("label", label), ("divergence", divergence))
    }

  def _follow(self) -> Callable[[attacks.Progress], None]:
    """Progress of the ensemble, one count per attack, with the accuracy."""
    settings, started = self._settings, {}

    def follow(event: attacks.Progress) -> None:
      if event.attack not in started:
        started[event.attack] = self._ticks(
          _ensemble_label(event.attack, settings)
        )
      if started[event.attack] is None:  # Another process shows it.
        return
      started[event.attack](
        event.finished,
        event.total,
        resumed=event.resumed,
        under_way=event.under_way,
        note=f"robust accuracy so far {100 * event.robust_accuracy:.1f} %",
      )

    return follow
