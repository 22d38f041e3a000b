"""What training minimises: one pure function an objective.

Every objective has the signature

    objective(network, batch, key, *, progress, ...) -> Outcome

and gives one loss an example. The training step averages the unmasked ones,
differentiates, and knows nothing about which objective it runs; a new recipe
is one more function here and one entry in `create`.

Which mode of the network is used where is part of each objective's contract:

- losses see the *training* mode, `network.train(x, where)`, whose updated
  batch statistics they hand back;
- attacks see the *evaluation* mode of a frozen network,
  `network.frozen().evaluate`: rows are independent, the statistics stay as
  they are, and no gradient flows from the loss through the attack into the
  parameters;
- penalties on input gradients see `network.evaluate`, and are differentiated
  through it.

    name          extra gradient evaluations a step   needs
    standard      none
    pgd           num_steps                           epsilon
    trades        num_steps                           epsilon
    mart          num_steps                           epsilon
    kl            num_steps, 1 by default             epsilon
    fgsm_rs       1; with alignment 3                 epsilon
    fisher        1 a probe; exact C - 1
    pair_lens     2 (a JVP, differentiated)
    epsilon_lens  num_steps + 1                       epsilon

Shape letters: N examples, C classes. Images are float [N, H, W, channels] in
[0, 1], and every epsilon is in those units. Losses are in nats.
"""

import functools

from robust_info import config as config_lib
from robust_info.objectives.adversarial import (
  fgsm_rs,
  gradient_alignment,
  mart,
  pgd,
  standard,
)
from robust_info.objectives.base import (
  Examples,
  Network,
  Objective,
  Outcome,
  correct,
  cross_entropy,
  from_logits_fn,
  ramped,
  smoothed_cross_entropy,
  train_pair,
)
from robust_info.objectives.consistency import kl, trades
from robust_info.objectives.fisher_penalty import fisher_regularised
from robust_info.objectives.lenses import epsilon_lens, pair_lens

__all__ = [
  "Examples",
  "Network",
  "Objective",
  "Outcome",
  "correct",
  "create",
  "cross_entropy",
  "epsilon_lens",
  "fgsm_rs",
  "fisher_regularised",
  "from_logits_fn",
  "gradient_alignment",
  "kl",
  "mart",
  "pair_lens",
  "pgd",
  "ramped",
  "smoothed_cross_entropy",
  "standard",
  "trades",
  "train_pair",
]


def create(config: config_lib.ObjectiveConfig) -> Objective:
  """The objective of a configuration: (network, batch, key, *, progress)."""
  smoothing = {"label_smoothing": config.label_smoothing}
  ball = {
    "epsilon": config.epsilon,
    "norm": config.norm,
    "epsilon_ramp": config.epsilon_ramp,
  }
  steps = {"step_size": config.step_size, "num_steps": config.num_steps}
  start = {"random_start": config.random_start}
  known = {
    "standard": functools.partial(standard, **smoothing),
    "pgd": functools.partial(pgd, **ball, **steps, **start, **smoothing),
    "trades": functools.partial(
      trades,
      **ball,
      **steps,
      **smoothing,
      coefficient=config.trades_coefficient,
    ),
    "mart": functools.partial(
      mart, **ball, **steps, **start, coefficient=config.mart_coefficient
    ),
    "kl": functools.partial(
      kl,
      **ball,
      **smoothing,
      step_size=config.kl_step_size,
      num_steps=config.kl_num_steps,
      coefficient=config.kl_coefficient,
      anchor=config.kl_anchor,
    ),
    "fgsm_rs": functools.partial(
      fgsm_rs,
      **ball,
      **smoothing,
      step_size=config.fgsm_step_size,
      alignment=config.fgsm_alignment,
    ),
    "fisher": functools.partial(
      fisher_regularised,
      **smoothing,
      coefficient=config.fisher_coefficient,
      quantity=config.fisher_quantity,
      estimator=config.fisher_estimator,
      num_probes=config.fisher_probes,
    ),
    "pair_lens": functools.partial(
      pair_lens,
      **smoothing,
      non_robust=config.pair_non_robust,
      part=config.pair_part,
      reward=config.pair_reward,
      reward_scale=config.pair_reward_scale,
    ),
    "epsilon_lens": functools.partial(
      epsilon_lens,
      **ball,
      **steps,
      **smoothing,
      attack=config.lens_attack,
      quantity=config.lens_quantity,
      coefficient=config.lens_coefficient,
    ),
  }
  return known[config.name]
