"""Adversarial attacks: per-example worst cases inside a norm ball.

Every attack takes `logits_fn: [N, ...] -> [N, C]` and returns an
`AttackResult`; `auto_attack` runs an ensemble over a data set from the host.
Inputs of any layout, but for `square` and what runs it, which take images
channels-last. Guide: docs/attacks.md.
"""

from robust_info.attacks.auto_pgd import apgd, apgd_targeted
from robust_info.attacks.boundary import fab, fab_targeted
from robust_info.attacks.checks import Check, SanityReport
from robust_info.attacks.curvature import fisher_pgd
from robust_info.attacks.ensemble import (
  ATTACKS,
  VERSIONS,
  EnsembleResult,
  Progress,
  auto_attack,
)
from robust_info.attacks.flags import AttackWarning
from robust_info.attacks.gradient import fgsm, kl_pgd, pgd
from robust_info.attacks.random_search import square
from robust_info.attacks.results import AttackResult
from robust_info.attacks.sanity import sanity_report

__all__ = [
  "ATTACKS",
  "VERSIONS",
  "AttackResult",
  "AttackWarning",
  "Check",
  "EnsembleResult",
  "Progress",
  "SanityReport",
  "apgd",
  "apgd_targeted",
  "auto_attack",
  "fab",
  "fab_targeted",
  "fgsm",
  "fisher_pgd",
  "kl_pgd",
  "pgd",
  "sanity_report",
  "square",
]
