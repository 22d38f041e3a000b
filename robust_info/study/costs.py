"""The cost of training in gradients, for comparisons at equal cost."""

from robust_info import config as config_lib
from robust_info.config import registry


def gradients(config: config_lib.Config) -> float | None:
  """Number of gradients per example and step of a training run.

  The unit is the work of one gradient of the parameters, that is of standard
  training: a forward pass, and a backward pass of twice its work. The gradient
  of an attack, of the inputs only, is two thirds of it; a penalty on a
  Jacobian-vector product costs five thirds, one on an input gradient four
  thirds. The operations of compiled steps agree to 15 %.

  Args:
    config: configuration of the run; for an exact Fisher penalty with
      `config.model.num_classes`.

  Returns:
    The number; None for an objective of one's own, whose cost is unknown.
  """
  settings = config.objective
  if registry.chosen(settings):
    return None
  forward = 1 / 3
  attack = 2 * forward * settings.num_steps
  cost = {
    "standard": 1,
    "pgd": attack + 1,
    "trades": attack + forward + 2,
    "mart": attack + 2,
    "kl": 2 * forward * settings.kl_num_steps + forward + 2,
    "fire": attack + forward + 2,
    "fgsm_rs": 2 * forward + 1 + (4 if settings.fgsm_alignment else 0),
    "n_fgsm": 2 * forward + 1,
    "fisher": 5 / 3 + _products(config),
    "gradient_norm": (7 if settings.gradient_estimator == "exact" else 8) / 3,
    "pair_lens": 8 / 3,
    "epsilon_lens": attack + 2,
  }[settings.name]
  # One more gradient, at the weights before their perturbation.
  return float(cost + bool(settings.awp_gamma))


def _products(config: config_lib.Config) -> int:
  """Products with the Jacobian of the network, of a Fisher penalty."""
  settings = config.objective
  if settings.fisher_estimator == "exact":
    return max(config.model.num_classes - 1, 1)
  return settings.fisher_probes
