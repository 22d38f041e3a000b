"""Projected gradient ascent: the composition behind PGD and its relatives.

An attack is a step rule, a projection, a start and an objective; this module
holds the loop they share. Shape letters: N examples, C classes.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from robust_info import _validate
from robust_info._xla import loops
from robust_info.attacks import inputs, projections, results, steps


class Evaluation(NamedTuple):
  """What an objective knows about a batch of points.

  Attributes:
    loss: [N], ascended; NaN where the logits are not finite.
    success: [N] bool.
    logits: [N, C].
  """

  loss: jax.Array
  success: jax.Array
  logits: jax.Array


# (x_adv [N, ...], key or None) -> Evaluation.
Objective = Callable[[jax.Array, Any], Evaluation]


def evaluator(
  logits_fn: inputs.LogitsFn,
  eot_samples: int | None,
  *,
  backward: bool = True,
) -> Callable[[jax.Array, Any], jax.Array]:
  """`(x, key) -> logits [S, N, C]`, S draws of a randomised network or one.

  With `eot_samples=None` the network is deterministic, `logits_fn(x)`, and S is
  1; otherwise it is called as `logits_fn(x, key)` with S different keys.
  `backward=False` says that nobody takes its gradient.
  """
  if eot_samples is None:
    network = loops.side_by_side(logits_fn) if backward else logits_fn
    # Half-precision networks: losses and comparisons are in float32.
    return lambda x, key: _validate.float_array(
      "logits", _validate.logits("logits_fn", network(x))
    )[None]

  def draws(x, key):
    keys = jax.random.split(key, eot_samples)
    logits = jax.vmap(lambda k: logits_fn(x, k))(keys)
    return _validate.float_array(
      "logits", _validate.logits("logits_fn", logits)
    )

  return draws


def label_objective(
  evaluate: Callable[[jax.Array, Any], jax.Array],
  y: jax.Array,
  loss: Callable[[jax.Array, jax.Array], jax.Array],
  *,
  targeted: bool,
) -> Objective:
  """Away from the label, or towards it for a targeted attack.

  Over several draws the losses are averaged (so that the gradient is that of
  the expectation), and the class is the one of the average logits. Logits that
  are not finite are a success away from a label, and none towards one.
  """

  def objective(x_adv, key):
    draws = evaluate(x_adv, key)
    values = jnp.mean(jax.vmap(lambda z: loss(z, y))(draws), axis=0)
    logits = jnp.mean(draws, axis=0)
    hit = results.correct(logits, y)
    values = jnp.where(results.finite(logits), values, jnp.nan)
    return Evaluation(
      -values if targeted else values, hit if targeted else ~hit, logits
    )

  return objective


def finite_gradient(gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Gradients [N, ...] with 0 for NaN and infinity, and which rows had any.

  One NaN would make a step, and with it the point, NaN; the other entries of
  the row are as good as ever. Every gradient of every attack passes here.
  """
  usable = jnp.abs(gradient) < jnp.inf
  lost = ~jnp.all(usable, axis=tuple(range(1, gradient.ndim)))
  return jnp.where(usable, gradient, 0), lost


def value_and_gradient(
  objective: Objective, x_adv: jax.Array, key: Any
) -> tuple[Evaluation, jax.Array, jax.Array]:
  """One forward and one backward pass.

  Losses are summed over examples, so a row's gradient does not depend on the
  batch around it.

  Returns:
    The evaluation, and what `finite_gradient` makes of the input gradients.
  """

  def total(points):
    evaluation = objective(points, key)
    return jnp.sum(evaluation.loss), evaluation

  (_, evaluation), gradient = jax.value_and_grad(total, has_aux=True)(x_adv)
  return evaluation, *finite_gradient(gradient)


def no_gradient(gradient: jax.Array) -> jax.Array:
  """[N] bool: zero in every coordinate."""
  return jnp.all(gradient == 0, axis=tuple(range(1, gradient.ndim)))


def ascend(
  objective: Objective,
  x: jax.Array,
  start: jax.Array,
  live: jax.Array,
  key: Any,
  *,
  epsilon: ArrayLike,
  step_size: ArrayLike,
  num_steps: int,
  step_rule: steps.StepRule,
  projection: projections.Projection,
  momentum: float,
  keep: str,
  low: float,
  high: float,
) -> results.AttackResult:
  """Takes `num_steps` projected steps from `start`, around `x`.

  Args:
    objective: what is ascended.
    x: [N, ...] centres of the balls.
    start: [N, ...] inside the balls and the box.
    live: [N] bool; the other rows end at `x` and are evaluated there.
    key: consumed by randomised objectives, else `None`.
    epsilon: radius of the ball, [] or [N].
    step_size: length of a step in the norm of `step_rule`, [] or [N].
    num_steps: static.
    step_rule: gradient to unit direction.
    projection: back into ball and box.
    momentum: static; 0 is plain ascent.
    keep: "last" returns the last iterate, "worst" the worst one, the start
      included.
    low: the box.
    high: the box.

  Returns:
    The result, for `results.settle` to complete; `num_steps` gradients and one
    forward pass.
  """
  keys = None if key is None else jax.random.split(key, num_steps + 1)
  stride = results.rows(step_size, x)

  def step(carry, now):
    x_adv, velocity, worst = carry
    number, step_key = now
    evaluation, gradient, lost = value_and_gradient(objective, x_adv, step_key)
    if momentum:
      # Dong et al. (2018): gradients of any scale add up as l1-unit vectors.
      velocity = momentum * velocity + steps.unit(gradient, "l1")
    else:
      velocity = gradient
    if keep == "worst":
      worst = _worse(worst, (x_adv, evaluation), number == 0)
    direction = step_rule(velocity, x_adv, low=low, high=high)
    moved = projection(
      x_adv + stride * direction, x, epsilon, low=low, high=high
    )
    noted = no_gradient(gradient), lost
    return (moved, velocity if momentum else None, worst), noted

  shapes = jax.eval_shape(objective, start, None if keys is None else keys[0])
  worst = None
  if keep == "worst":
    # A placeholder, which the first step replaces.
    nothing = Evaluation(
      jnp.zeros(shapes.loss.shape, shapes.loss.dtype),
      jnp.zeros(shapes.success.shape, bool),
      jnp.zeros(shapes.logits.shape, shapes.logits.dtype),
    )
    worst = (start, nothing)
  velocity = jnp.zeros_like(start) if momentum else None
  (x_adv, _, worst), (zero, lost) = loops.scan(
    step,
    (start, velocity, worst),
    (jnp.arange(num_steps), None if keys is None else keys[:-1]),
    length=num_steps,
  )
  x_adv = results.select(live, x_adv, x)
  last = objective(x_adv, None if keys is None else keys[-1])
  if keep == "worst":
    ended = (x_adv, last)
    x_adv, last = _worse(worst, ended, ~live)
  return results.AttackResult(
    x_adv=x_adv,
    success=last.success,
    loss=last.loss,
    logits=last.logits,
    zero_gradients=zero[0],
    nonfinite_gradients=jnp.any(lost, axis=0),
  )


def _worse(
  a: tuple[jax.Array, Evaluation],
  b: tuple[jax.Array, Evaluation],
  anyway: jax.Array,
) -> tuple[jax.Array, Evaluation]:
  """Row by row the worse of two points; the second `anyway`, [] or [N] bool."""
  second = results.worst_try(
    jnp.stack([a[1].success, b[1].success]),
    jnp.stack([a[1].loss, b[1].loss]),
  )
  return results.select((second == 1) | anyway, b, a)
