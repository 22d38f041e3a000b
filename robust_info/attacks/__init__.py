"""Adversarial attacks: per-example worst cases inside a norm ball.

Every attack takes `logits_fn: [N, ...] -> [N, C]` and returns an
`AttackResult`; `auto_attack` runs an ensemble over a data set from the host.
Guide: docs/attacks.md.
"""

from robust_info.attacks.auto_pgd import apgd, apgd_targeted
from robust_info.attacks.boundary import fab, fab_targeted
from robust_info.attacks.ensemble import EnsembleResult, Progress, auto_attack
from robust_info.attacks.gradient import fgsm, kl_pgd, pgd
from robust_info.attacks.random_search import square
from robust_info.attacks.results import AttackResult

__all__ = [
  "AttackResult",
  "EnsembleResult",
  "Progress",
  "apgd",
  "apgd_targeted",
  "auto_attack",
  "fab",
  "fab_targeted",
  "fgsm",
  "kl_pgd",
  "pgd",
  "square",
]
