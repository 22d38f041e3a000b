"""The settings of an evaluation."""

import dataclasses

from robust_info.config import schema

ATTACKS = ("pgd", "apgd", "autoattack")


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
  """Settings of validation while training and of evaluate.py.

  Attributes:
    batch_size: number of examples per batch.
    norm: norm of the ball, `linf` or `l2`.
    epsilon: radius of the ball, in units of the input range [0, 1].
    epsilon_grid: radii of the accuracy curve of evaluate.py, which always uses
      PGD.
    attack: attacks of evaluate.py at radius `epsilon`: `pgd`; `apgd`, that is
      PGD, APGD-CE and APGD-T; or `autoattack`, that is PGD and AutoAttack.
      Validation while training always uses PGD.
    autoattack_version: `standard`, or `plus` with more attacks and restarts.
      (AutoAttack's `rand` version is for networks that draw random numbers; the
      networks here never do.)
    sanity_examples: number of examples of the test split, chosen at random
      once, for the checks of whether a robust accuracy can be trusted.
    num_steps: number of steps of the PGD attack.
    restarts: number of restarts of the PGD attack; the worst case per example
      counts.
    num_pairs: number of cross-category pairs of the path lens and, while
      training, of the local lens.
    num_coarse_pairs: number of further pairs of evaluate.py, for the local lens
      and for a coarse path lens, the control variate of the path lens; such a
      pair costs a fifth of one of `num_pairs`.
    num_nodes: number of segments of the straight line of a pair in the path
      lens, rounded up to a multiple of 4.
    validation_examples: number of examples of the validation split, chosen at
      random once, for the attack and the Fisher metrics while training; 0 means
      all. evaluate.py always uses the whole test split.
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
