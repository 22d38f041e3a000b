"""How a network is measured."""

import dataclasses

from robust_info.config import schema

ATTACKS = ("pgd", "apgd", "autoattack")


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
  """How a model is measured, on validation while training and by evaluate.py.

  Attributes:
    batch_size: examples a batch.
    norm: norm of the ball, `linf` or `l2`.
    epsilon: its radius, in units of the input range [0, 1].
    epsilon_grid: radii of the accuracy curve of evaluate.py, always of PGD.
    attack: of evaluate.py at that radius: `pgd`; `apgd`, beside PGD also
      APGD-CE and APGD-T; or `autoattack`, beside PGD also AutoAttack. Training
      is followed with PGD whatever this says.
    autoattack_version: `standard`, or `plus` with more attacks and restarts.
      (AutoAttack's `rand` is for networks that draw random numbers; these
      never do.)
    sanity_examples: how many examples of the test split, chosen at random
      once, the checks use that tell whether a robust accuracy can be believed.
    num_steps: steps of the PGD attack.
    restarts: its restarts, the worst case per example counts.
    num_pairs: cross-category pairs of the path lens, and while training of the
      local lens.
    num_coarse_pairs: more pairs of evaluate.py, for the local lens and for a
      coarse path lens, the control variate of the path lens; a pair costs a
      fifth of one of `num_pairs`.
    num_nodes: segments of a pair's straight line in the path lens, rounded up
      to a multiple of 4.
    validation_examples: how many examples of the validation split, chosen at
      random once, the attack and the Fisher metrics use while training; 0
      means all. evaluate.py always measures the whole test split.
  """

  batch_size: int = schema.positive(500, at_most=2**20)
  norm: str = schema.one_of("linf", schema.NORMS)
  epsilon: float = schema.non_negative(0.1, at_most=1e6)
  epsilon_grid: tuple[float, ...] = schema.each(
    (0.0, 0.02, 0.05, 0.1, 0.15, 0.2),
    ">= 0",
    lambda v: v >= 0,
    at_most=1e6,
  )
  attack: str = schema.one_of("pgd", ATTACKS)
  autoattack_version: str = schema.one_of("standard", ("standard", "plus"))
  sanity_examples: int = schema.positive(128)
  num_steps: int = schema.positive(20, at_most=10**6)
  restarts: int = schema.positive(1, at_most=10**6)
  num_pairs: int = schema.positive(512, at_most=2**24)
  num_coarse_pairs: int = schema.positive(8192, at_most=2**24)
  num_nodes: int = schema.positive(64, at_most=2**16)
  validation_examples: int = schema.non_negative(2000)
