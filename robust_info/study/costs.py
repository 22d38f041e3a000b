"""The cost of training in gradients, for comparisons at equal cost."""

from robust_info import config as config_lib
from robust_info.config import registry


def gradients(config: config_lib.Config) -> float:
  """Number of gradients per example and step of a training run.

  A gradient is one backward pass, of inputs or parameters, with the forward
  pass that it needs. A Jacobian-vector product and the second backward pass of
  double backpropagation count as one each; further forward passes as a third.

  Args:
    config: configuration of the run.

  Raises:
    ValueError: an objective of one's own, whose cost is unknown.
  """
  settings = config.objective
  if registry.chosen(settings):
    raise ValueError(
      "Expected a built-in objective, whose cost is known, got "
      f"{settings.name!r}."
    )
  forward = 1 / 3
  attack = settings.num_steps
  cost = {
    "standard": 1,
    "pgd": attack + 1,
    "trades": attack + 2 + forward,
    "mart": attack + 2,
    "kl": settings.kl_num_steps + 2 + forward,
    "fire": attack + 2 + forward,
    "fgsm_rs": 2 + (2 if settings.fgsm_alignment else 0),
    "n_fgsm": 2,
    "fisher": 1 + 2 * _probes(config),
    "gradient_norm": 3 if settings.gradient_estimator == "exact" else 4,
    "pair_lens": 3,
    "epsilon_lens": attack + 2,
  }[settings.name]
  if settings.awp_gamma:
    cost += 1 + forward
  return float(cost)


def _probes(config: config_lib.Config) -> int:
  settings = config.objective
  if settings.fisher_estimator == "exact":
    return max(config.model.num_classes - 1, 1)
  return settings.fisher_probes
