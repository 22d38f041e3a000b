"""Objectives that training minimises: one pure function per objective.

Every objective has the signature

    objective(network, batch, key, *, progress, ...) -> Outcome

and returns one loss per example. The training step averages the unmasked losses
and differentiates; it does not depend on the objective. A new objective needs
one more function, one entry in `_BY_NAME` and one in `config.ARGUMENTS`; one
from outside the package is registered, see `register`.

The mode of the network in each place is part of an objective's contract:

- Losses use the *training* mode, `network.train(x, where)`, and return its
  updated batch statistics.
- Attacks use the *evaluation* mode of a frozen network,
  `network.frozen().evaluate`: rows are independent, the statistics do not
  change, and no gradient flows from the loss through the attack into the
  parameters.
- Penalties on input gradients use `network.evaluate`, and are differentiated
  through it.

    name          extra gradients per step            needs
    standard      none
    pgd           num_steps                           epsilon
    trades        num_steps                           epsilon
    mart          num_steps                           epsilon
    kl            num_steps, 1 by default             epsilon
    fgsm_rs       1; with alignment 3                 epsilon
    fisher        1 per probe; exact C - 1
    pair_lens     2 (a JVP, differentiated)
    epsilon_lens  num_steps + 1                       epsilon

Shape letters: N examples, C classes. Images are float [N, H, W, channels] in
[0, 1], and every epsilon is in those units. Losses are in nats.
"""

import functools
from collections.abc import Callable

from robust_info import config as config_lib
from robust_info.config import registry
from robust_info.objectives._epsilon_lens import epsilon_lens
from robust_info.objectives._fgsm_rs import fgsm_rs, gradient_alignment
from robust_info.objectives._fisher import fisher_regularised
from robust_info.objectives._mart import mart
from robust_info.objectives._pair_lens import pair_lens
from robust_info.objectives._pgd import pgd
from robust_info.objectives._standard import standard
from robust_info.objectives._trades import kl, trades
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
  "register",
  "smoothed_cross_entropy",
  "standard",
  "trades",
  "train_pair",
]


_BY_NAME = {
  "standard": standard,
  "pgd": pgd,
  "trades": trades,
  "mart": mart,
  "kl": kl,
  "fgsm_rs": fgsm_rs,
  "fisher": fisher_regularised,
  "pair_lens": pair_lens,
  "epsilon_lens": epsilon_lens,
}


def register(name: str) -> Callable[[Objective], Objective]:
  """A decorator that makes an objective a value of `objective.name`.

      @objectives.register("brier")
      def brier(network, batch, key, *, progress, power: float = 2.0):
        ...
        return objectives.Outcome(losses, {"brier": losses}, batch_stats)

  The function has the signature of every objective (see the package), and
  further arguments: those without a default are fields of the section
  `objective`, such as `epsilon`; the others become fields of their own.

  Args:
    name: name in the configuration; see `config.registry`.

  Raises:
    ValueError: as `config.registry.register`.
    TypeError: as `config.registry.register`.
  """
  return registry.register("objective", name)


def create(config: config_lib.ObjectiveConfig) -> Objective:
  """Creates the objective of a configuration.

  Args:
    config: configuration of the objective; `config.ARGUMENTS` lists the fields
      that each objective reads.

  Returns:
    A function of (network, batch, key, *, progress).
  """
  if registry.chosen(config):
    return registry.bound(config)
  arguments = config_lib.ARGUMENTS[config.name]
  return functools.partial(
    _BY_NAME[config.name],
    **{name: getattr(config, field) for name, field in arguments.items()},
  )
