"""Auto-PGD (Croce & Hein 2020): PGD that chooses its own step size.

The attack starts on the surface of the ball, with momentum and a step of twice
the radius. At fixed checkpoints it halves the step of each example whose loss
has stopped rising, and returns to the best point found. Shape letters: N
examples, C classes.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Integer, PRNGKeyArray

from robust_info import _validate
from robust_info._xla import explicit_meshes
from robust_info.attacks import (
  ascent,
  initial,
  inputs,
  losses,
  methods,
  projections,
  radii,
  results,
  steps,
)

# Constants of the paper.
_MOMENTUM = 0.75
_RISING_SHARE = 0.75
_FIRST_INTERVAL, _SHORTER_BY, _LAST_INTERVAL = 0.22, 0.03, 0.06


def checkpoints(num_steps: int) -> np.ndarray:
  """Iterations after which the step sizes are reviewed.

  The first interval is 22 % of the iterations; each later one is 3 % shorter,
  down to 6 %: for example, 22, 41, 57, 70, 80, 87, 93, 99 for 100 iterations.

  Args:
    num_steps: number of gradient steps, >= 1.

  Returns:
    Increasing int array with values in [1, num_steps].
  """

  def share(fraction):
    return max(int(fraction * num_steps), 1)

  interval, at, found = share(_FIRST_INTERVAL), 0, []
  while at + interval <= num_steps:
    at += interval
    found.append(at)
    interval = max(interval - share(_SHORTER_BY), share(_LAST_INTERVAL))
  return np.array(found)


class State(NamedTuple):
  """Carry of an APGD run, one row per example.

  Attributes:
    tried: the try that each row runs.
    x_adv: [N, ...] current iterate; before the first step the start.
    x_before: [N, ...] previous iterate.
    gradient: [N, ...] gradient at `x_adv`.
    x_best: [N, ...] iterate of the highest loss.
    gradient_best: [N, ...] gradient at `x_best`.
    loss: [N] loss at `x_adv`, or at the last iterate before a restart from
      `x_best`.
    loss_best: [N] highest loss so far.
    loss_reviewed: [N] highest loss at the last checkpoint.
    halved: [N] bool, whether the last checkpoint halved the step.
    rises: [N] int, steps since the last checkpoint that raised the loss.
    step_size: [N] length of the next step.
    iteration: see `methods.State`; -1 before the forward pass at the start.
    found: see `methods.State`.
    x_found: see `methods.State`.
    zero_gradient: see `methods.State`.
    nonfinite_gradient: see `methods.State`.
  """

  tried: methods.Try
  x_adv: jax.Array
  x_before: jax.Array
  gradient: jax.Array
  x_best: jax.Array
  gradient_best: jax.Array
  loss: jax.Array
  loss_best: jax.Array
  loss_reviewed: jax.Array
  halved: jax.Array
  rises: jax.Array
  step_size: jax.Array
  iteration: jax.Array
  found: jax.Array
  x_found: jax.Array
  zero_gradient: jax.Array
  nonfinite_gradient: jax.Array


# (logits [N, C], try) -> loss [N].
TryLoss = Callable[[jax.Array, methods.Try], jax.Array]


def method(
  loss: TryLoss,
  *,
  norm: str,
  num_steps: int,
  low: float,
  high: float,
  targeted: bool,
) -> methods.Method:
  """Auto-PGD on a loss of the logits and the try (its label and target)."""
  project = functools.partial(projections.BY_NORM[norm], low=low, high=high)
  direct = functools.partial(steps.BY_NORM[norm], low=low, high=high)
  reviews = np.zeros(num_steps + 1, bool)
  intervals = np.ones(num_steps + 1, np.int32)
  at = checkpoints(num_steps)
  reviews[at] = True
  intervals[at] = np.diff(at, prepend=0)

  def start(tried: methods.Try, epsilon: ArrayLike) -> State:
    x = tried.x
    x_start = jnp.clip(
      x + initial.surface(tried.key, x, epsilon, norm), low, high
    )
    n = x.shape[0]
    zeros, lowest = jnp.zeros_like(x), jnp.full((n,), -jnp.inf, x.dtype)
    no = jnp.zeros((n,), bool)
    return State(
      tried=tried,
      x_adv=x_start,
      x_before=x_start,
      gradient=zeros,
      x_best=x_start,
      gradient_best=zeros,
      loss=lowest,
      loss_best=lowest,
      loss_reviewed=lowest,
      halved=~no,
      rises=jnp.zeros((n,), jnp.int32),
      step_size=jnp.broadcast_to(2 * radii.of(epsilon, x), (n,)),
      iteration=jnp.full((n,), -1, jnp.int32),
      found=no,
      x_found=x_start,
      zero_gradient=no,
      nonfinite_gradient=no,
    )

  def move(state: State, epsilon: ArrayLike) -> jax.Array:
    x, x_adv = state.tried.x, state.x_adv
    size = results.rows(state.step_size, x)
    ahead = project(x_adv + size * direct(state.gradient, x_adv), x, epsilon)
    weight = results.rows(jnp.where(state.iteration > 0, _MOMENTUM, 1.0), x)
    mixed = (
      x_adv
      + weight.astype(x.dtype) * (ahead - x_adv)
      + (1 - weight.astype(x.dtype)) * (x_adv - state.x_before)
    )
    return project(mixed, x, epsilon)

  def step(
    evaluate: methods.Evaluate, state: State, epsilon: ArrayLike, key: Any
  ) -> State:
    tried = state.tried
    first = state.iteration < 0
    moved = move(state, epsilon)
    x_adv = results.select(first, state.x_adv, moved)
    objective = ascent.label_objective(
      evaluate,
      tried.y,
      lambda logits, _: loss(logits, tried),
      targeted=False,
    )
    evaluation, gradient, lost = ascent.value_and_gradient(
      objective, x_adv, key
    )
    # A NaN at the start would stay the best loss, as no loss exceeds NaN.
    value = jnp.where(jnp.isnan(evaluation.loss), -jnp.inf, evaluation.loss)
    iteration = state.iteration + 1
    hit = evaluation.success & (iteration <= num_steps)
    better = (value > state.loss_best) | first
    x_best, gradient_best, loss_best = results.select(
      better,
      (x_adv, gradient, value),
      (state.x_best, state.gradient_best, state.loss_best),
    )
    has_risen = (value > state.loss) & ~first
    rises = state.rises + has_risen.astype(state.rises.dtype)

    index = jnp.minimum(iteration, num_steps)
    review = jnp.asarray(reviews)[index]
    interval = jnp.asarray(intervals)[index].astype(loss_best.dtype)
    stalled = rises.astype(loss_best.dtype) <= _RISING_SHARE * interval
    stuck = ~state.halved & (state.loss_reviewed >= loss_best)
    halve = review & (stalled | stuck)
    restarted, gradient = results.select(
      halve, (x_best, gradient_best), (x_adv, gradient)
    )
    found = state.found | hit
    # Until a misclassified iterate is found, `x_found` is the strongest one.
    x_found = results.select(
      hit, x_adv, results.select(found, state.x_found, x_best)
    )
    return State(
      tried=tried,
      x_adv=restarted,
      x_before=state.x_adv,
      gradient=gradient,
      x_best=x_best,
      gradient_best=gradient_best,
      loss=value,
      loss_best=loss_best,
      loss_reviewed=jnp.where(review | first, loss_best, state.loss_reviewed),
      halved=jnp.where(review, halve, state.halved),
      rises=jnp.where(review, 0, rises).astype(jnp.int32),
      step_size=jnp.where(halve, state.step_size / 2, state.step_size),
      iteration=iteration,
      found=found,
      x_found=x_found,
      zero_gradient=jnp.where(
        first, ascent.no_gradient(gradient), state.zero_gradient
      ),
      nonfinite_gradient=state.nonfinite_gradient | lost,
    )

  # One more forward pass: that at the start, before all steps.
  return methods.Method(start, step, num_steps + 1, targeted)


def label_method(loss: str | losses.Loss, **options: Any) -> methods.Method:
  """Auto-PGD, untargeted, on a named loss or the user's own."""
  function = losses.resolve(loss)
  return method(
    lambda logits, tried: function(logits, tried.y), targeted=False, **options
  )


def target_method(**options: Any) -> methods.Method:
  """Auto-PGD on the targeted difference-of-logits ratio."""
  return method(
    lambda logits, tried: losses.targeted_dlr(logits, tried.y, tried.target),
    targeted=True,
    **options,
  )


@explicit_meshes.accepted(rows=True)
def apgd(
  logits_fn: _validate.LogitsFn,
  x: Float[ArrayLike, "N ..."],
  y: Integer[ArrayLike, " N"],
  key: PRNGKeyArray,
  *,
  epsilon: radii.Radius,
  num_steps: int = 100,
  norm: str = "linf",
  loss: str | losses.Loss = "cross_entropy",
  restarts: int = 1,
  bounds: inputs.Bounds = (0.0, 1.0),
  where: Bool[ArrayLike, " N"] | None = None,
  example_ids: Integer[ArrayLike, " N"] | None = None,
  eot_samples: int | None = None,
) -> results.AttackResult:
  """Auto-PGD (Croce & Hein 2020), worst case per example; no step size.

  `loss="cross_entropy"` is APGD-CE, `loss="dlr"` is APGD-DLR. `x_adv` is the
  last misclassified iterate, the random start included, or the iterate of the
  highest loss where there is none.

  Cost: per restart `num_steps + 1` gradients and one forward pass; memory of
  about eight inputs per row in addition to the network's. Restarts run as one
  batch. For data sets, `auto_attack(..., attacks=("apgd-ce",))` drops broken
  examples.

  Args:
    logits_fn: network, [N, ...] -> [N, C]; see `pgd`.
    x: [N, ...] float inputs within `bounds`, in any layout.
    y: [N] int labels.
    key: PRNG key, consumed.
    epsilon: radius of the ball, >= 0, [] or [N]; may be traced.
    num_steps: number of gradient steps, static.
    norm: "linf" or "l2".
    loss: "cross_entropy", "margin", "dlr", or `loss(logits, labels) -> [N]`.
    restarts: number of random starts, static.
    bounds: (low, high) of valid inputs, or `None`.
    where: [N] bool, `False` in padding rows.
    example_ids: [N] ints; see `pgd`.
    eot_samples: see `pgd`.

  Returns:
    An `AttackResult`.

  Raises:
    ValueError: as `pgd`.
    TypeError: as `pgd`.
  """
  _validate.positive_int("num_steps", num_steps)
  _validate.positive_int("restarts", restarts)
  _validate.one_of("norm", norm, projections.COMMON_NORMS)
  checked = inputs.check(logits_fn, x, y, bounds=bounds, where=where)
  return methods.iterate(
    label_method,
    {"loss": loss, "norm": norm, "num_steps": num_steps},
    logits_fn,
    checked,
    key,
    epsilon=epsilon,
    loss=losses.resolve(loss),
    tries=restarts,
    example_ids=example_ids,
    eot_samples=eot_samples,
  )


@explicit_meshes.accepted(rows=True)
def apgd_targeted(
  logits_fn: _validate.LogitsFn,
  x: Float[ArrayLike, "N ..."],
  y: Integer[ArrayLike, " N"],
  key: PRNGKeyArray,
  *,
  epsilon: radii.Radius,
  num_steps: int = 100,
  norm: str = "linf",
  num_targets: int = 9,
  bounds: inputs.Bounds = (0.0, 1.0),
  where: Bool[ArrayLike, " N"] | None = None,
  example_ids: Integer[ArrayLike, " N"] | None = None,
) -> results.AttackResult:
  """Auto-PGD on the targeted DLR loss, one run per target (APGD-T).

  Targets are the `num_targets` most likely wrong classes at the clean input, at
  most C-1. Success is untargeted: any wrong class counts. Cost and memory are
  those of `apgd` with `num_targets` restarts. Other arguments, guarantees and
  errors: see `apgd`.

  Returns:
    An `AttackResult`; `loss` is the margin.
  """
  _validate.positive_int("num_steps", num_steps)
  _validate.positive_int("num_targets", num_targets)
  _validate.one_of("norm", norm, projections.COMMON_NORMS)
  checked = inputs.check(logits_fn, x, y, bounds=bounds, where=where)
  return methods.iterate(
    target_method,
    {"norm": norm, "num_steps": num_steps},
    logits_fn,
    checked,
    key,
    epsilon=epsilon,
    loss=losses.margin,
    tries=num_targets,
    example_ids=example_ids,
  )
