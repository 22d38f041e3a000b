"""Adversarial attacks: the worst case of each example inside a norm ball.

Every attack takes `logits_fn: [N, ...] -> [N, C]` and returns an
`AttackResult`; `auto_attack` runs an ensemble over a data set from the host.
Inputs may have any layout, except that `square` takes images channels-last, and
so do `auto_attack` and `sanity_report` where they run it. See
docs/guide/attacks.md.
"""

from robust_info.attacks._apgd import apgd, apgd_targeted
from robust_info.attacks._fab import fab, fab_targeted
from robust_info.attacks._fgsm import fgsm
from robust_info.attacks._fisher_pgd import fisher_pgd
from robust_info.attacks._kl_pgd import kl_pgd
from robust_info.attacks._pgd import pgd
from robust_info.attacks._square import square
from robust_info.attacks.autoattack.ensemble import (
  ATTACKS,
  VERSIONS,
  EnsembleResult,
  Progress,
  auto_attack,
)
from robust_info.attacks.autoattack.flags import AttackWarning
from robust_info.attacks.checks import Check, SanityReport
from robust_info.attacks.results import AttackResult
from robust_info.attacks.sanity.report import sanity_report

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
