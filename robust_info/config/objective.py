"""The objective of a run, and the fields that each objective reads."""

import dataclasses

from robust_info.config import schema

_BALL = {"epsilon": "epsilon", "norm": "norm", "epsilon_ramp": "epsilon_ramp"}
_STEPS = {"step_size": "step_size", "num_steps": "num_steps"}
_START = {"random_start": "random_start"}
_SMOOTHING = {"label_smoothing": "label_smoothing"}
# Objective -> its arguments -> the fields that hold them. `awp_gamma` and
# `awp_warmup` belong to the training step, under any objective.
ARGUMENTS: dict[str, dict[str, str]] = {
  "standard": _SMOOTHING,
  "pgd": {**_BALL, **_STEPS, **_START, **_SMOOTHING},
  "trades": {
    **_BALL,
    **_STEPS,
    **_SMOOTHING,
    "coefficient": "trades_coefficient",
  },
  "mart": {**_BALL, **_STEPS, **_START, "coefficient": "mart_coefficient"},
  "kl": {
    **_BALL,
    **_SMOOTHING,
    "step_size": "kl_step_size",
    "num_steps": "kl_num_steps",
    "coefficient": "kl_coefficient",
    "anchor": "kl_anchor",
  },
  "fgsm_rs": {
    **_BALL,
    **_SMOOTHING,
    "step_size": "fgsm_step_size",
    "alignment": "fgsm_alignment",
  },
  "n_fgsm": {
    **_BALL,
    **_SMOOTHING,
    "noise": "n_fgsm_noise",
    "step_size": "n_fgsm_step_size",
  },
  "fire": {
    **_BALL,
    **_STEPS,
    **_SMOOTHING,
    "coefficient": "fire_coefficient",
  },
  "fisher": {
    **_SMOOTHING,
    "coefficient": "fisher_coefficient",
    "quantity": "fisher_quantity",
    "estimator": "fisher_estimator",
    "num_probes": "fisher_probes",
  },
  "gradient_norm": {
    **_SMOOTHING,
    "norm": "norm",
    "coefficient": "gradient_coefficient",
    "estimator": "gradient_estimator",
    "difference": "gradient_difference",
  },
  "pair_lens": {
    **_SMOOTHING,
    "non_robust": "pair_non_robust",
    "part": "pair_part",
    "reward": "pair_reward",
    "reward_scale": "pair_reward_scale",
  },
  "epsilon_lens": {
    **_BALL,
    **_STEPS,
    **_SMOOTHING,
    "attack": "lens_attack",
    "quantity": "lens_quantity",
    "coefficient": "lens_coefficient",
  },
}
OBJECTIVES = tuple(ARGUMENTS)
BALL_FIELDS = tuple(f"objective.{field}" for field in _BALL.values())


@dataclasses.dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
  """The training loss; `ARGUMENTS` lists the fields that each objective reads.

  A field that the objective does not read is refused if its value is not the
  default. Only the ball (`epsilon`, `norm`, `epsilon_ramp`) may be given in a
  file for any objective.

  Attributes:
    name: `standard`, `pgd`, `trades`, `mart`, `kl`, `fgsm_rs`, `n_fgsm`,
      `fire`, `fisher`, `gradient_norm`, `pair_lens` or `epsilon_lens`.
    label_smoothing: probability mass that cross-entropy spreads evenly over all
      classes (not in `mart`).
    epsilon: radius of the ball, in units of the input range [0, 1].
    norm: norm of the ball, `linf` or `l2`; `gradient_norm` penalises the dual
      norm of the gradient, l1 or l2.
    step_size: step size of the inner attack, in units of epsilon.
    num_steps: number of steps of the inner attack.
    random_start: whether the inner attack starts at a random point.
    epsilon_ramp: share of training over which epsilon rises from 0.
    trades_coefficient: weight of the divergence term of `trades`.
    mart_coefficient: weight of the divergence term of `mart`.
    kl_coefficient: weight of the divergence term of `kl`.
    kl_step_size: step size of the attack of `kl`, in units of epsilon.
    kl_num_steps: number of steps of the attack of `kl`.
    kl_anchor: anchor of the divergence of `kl`: `clean`, or `start` as in the
      paper's public code.
    fgsm_step_size: size of the single step of `fgsm_rs`, in units of epsilon.
    fgsm_alignment: weight of the gradient alignment of `fgsm_rs`; 0 means none.
    n_fgsm_noise: radius of the noise of `n_fgsm`, in units of epsilon.
    n_fgsm_step_size: size of the single step of `n_fgsm`, in units of epsilon.
    fire_coefficient: weight of the squared Fisher-Rao distance of `fire`.
    fisher_coefficient: weight of the penalty of `fisher`.
    fisher_quantity: penalised quantity, `trace` or `frobenius`.
    fisher_estimator: estimator of it, `exact`, `hutchinson` or `label`.
    fisher_probes: number of probes of `hutchinson` and `label`.
    gradient_coefficient: weight of the penalty of `gradient_norm`, in units of
      the input range.
    gradient_estimator: form of it, `exact` or `finite_difference`.
    gradient_difference: length of the step of `finite_difference`, in units of
      the input range.
    pair_non_robust: weight of the non-robust part in `pair_lens`.
    pair_part: lens that gives this part, `local` or `path`.
    pair_reward: weight of the reward of `pair_lens` for divergence between
      classes.
    pair_reward_scale: divergence, in nats, beyond which this reward fades.
    lens_coefficient: weight of the information that the attack of
      `epsilon_lens` removes.
    lens_quantity: measure of this information: `variational_bound`,
      `label_information` or `cckl`.
    lens_attack: attack of `epsilon_lens`, `pgd` or `kl_pgd`.
    awp_gamma: size of the adversarial weight perturbation under any objective,
      relative to the weights (5e-3 in its paper); 0 means none.
    awp_warmup: share of training before it starts.
  """

  name: str = schema.one_of("standard", OBJECTIVES)
  label_smoothing: float = schema.below_one(0.0)
  epsilon: float = schema.non_negative(0.1, at_most=1e6)
  norm: str = schema.one_of("linf", schema.NORMS)
  step_size: float = schema.positive(0.25, at_most=1e6)
  num_steps: int = schema.positive(10, at_most=10**6)
  random_start: bool = True
  epsilon_ramp: float = schema.fraction(0.0)
  trades_coefficient: float = schema.non_negative(6.0)
  mart_coefficient: float = schema.non_negative(5.0)
  kl_coefficient: float = schema.non_negative(3.0)
  kl_step_size: float = schema.positive(1.0, at_most=1e6)
  kl_num_steps: int = schema.positive(1, at_most=10**6)
  kl_anchor: str = schema.one_of("clean", ("clean", "start"))
  fgsm_step_size: float = schema.positive(1.25, at_most=1e6)
  fgsm_alignment: float = schema.non_negative(0.0)
  n_fgsm_noise: float = schema.non_negative(2.0, at_most=1e6)
  n_fgsm_step_size: float = schema.positive(1.0, at_most=1e6)
  fire_coefficient: float = schema.non_negative(5.0)
  fisher_coefficient: float = schema.non_negative(0.03)
  fisher_quantity: str = schema.one_of("trace", ("trace", "frobenius"))
  fisher_estimator: str = schema.one_of(
    "hutchinson", ("exact", "hutchinson", "label")
  )
  fisher_probes: int = schema.positive(1, at_most=10**6)
  gradient_coefficient: float = schema.non_negative(0.1)
  gradient_estimator: str = schema.one_of(
    "exact", ("exact", "finite_difference")
  )
  gradient_difference: float = schema.positive(0.01, at_most=1e6)
  pair_non_robust: float = schema.non_negative(1.0)
  pair_part: str = schema.one_of("local", ("local", "path"))
  pair_reward: float = schema.non_negative(0.1)
  pair_reward_scale: float = schema.positive(10.0)
  lens_coefficient: float = schema.non_negative(3.0)
  lens_quantity: str = schema.one_of(
    "variational_bound", ("variational_bound", "label_information", "cckl")
  )
  lens_attack: str = schema.one_of("pgd", ("pgd", "kl_pgd"))
  awp_gamma: float = schema.non_negative(0.0)
  awp_warmup: float = schema.below_one(0.0)
