"""Projected gradient ascent: the loop that PGD and its relatives share.

An attack combines a step rule, a projection, a start and a loss to maximise;
this module holds the loop. Shape letters: N examples, C classes.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from robust_info import _validate
from robust_info._xla import loops
from robust_info.attacks import projections, radii, results, steps


class Evaluation(NamedTuple):
  """Loss, success and logits at a batch of points.

  Attributes:
    loss: [N] values to maximise; NaN where the logits are not finite.
    success: [N] bool, whether the attack has reached its goal.
    logits: [N, C].
  """

  loss: jax.Array
  success: jax.Array
  logits: jax.Array


# Loss that an attack maximises: (x_adv [N, ...], key or None) -> Evaluation.
Objective = Callable[[jax.Array, Any], Evaluation]


def evaluator(
  logits_fn: _validate.LogitsFn,
  eot_samples: int | None,
  *,
  backward: bool = True,
) -> Callable[[jax.Array, Any], jax.Array]:
  """Returns `(x, key) -> logits [S, N, C]`, the logits of S forward passes.

  With `eot_samples=None` the network is deterministic, it is called as
  `logits_fn(x)`, and S is 1. Otherwise it is randomised and called as
  `logits_fn(x, key)` with S different keys. `backward=False` says that the
  caller takes no gradient of the network.
  """
  if eot_samples is None:
    network = loops.side_by_side(logits_fn) if backward else logits_fn
    # In float32 for half-precision networks too: losses and comparisons of
    # logits need it.
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
  """Loss away from the label, or towards it for a targeted attack.

  Over several draws the losses are averaged (so that the gradient is that of
  the expectation), and the predicted class is that of the average logits.
  Logits that are not finite are a success of an untargeted attack, and a
  failure of a targeted one.

  Raises:
    ValueError: when called, if `loss` does not return [N].
  """

  def objective(x_adv, key):
    draws = evaluate(x_adv, key)
    values = jax.vmap(lambda z: loss(z, y))(draws)
    if values.shape != draws.shape[:2]:
      raise ValueError(
        "Expected loss(logits, labels) to return one value per row, of shape "
        f"[{len(y)}], got shape {list(values.shape[1:])}."
      )
    values = jnp.mean(values, axis=0)
    logits = jnp.mean(draws, axis=0)
    hit = results.correct(logits, y)
    values = jnp.where(results.finite(logits), values, jnp.nan)
    # Methods keep losses beside inputs, whose precision may be another.
    values = values.astype(x_adv.dtype)
    return Evaluation(
      -values if targeted else values, hit if targeted else ~hit, logits
    )

  return objective


def finite_gradient(gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Replaces NaN and infinite entries of gradients [N, ...] by 0.

  One NaN entry would make the step NaN, and then the point; the other entries
  of the row are still usable. Every gradient of every attack passes through
  this function.

  Returns:
    The gradients, and [N] bool, the rows that had such entries.
  """
  usable = jnp.abs(gradient) < jnp.inf
  lost = ~jnp.all(usable, axis=tuple(range(1, gradient.ndim)))
  return jnp.where(usable, gradient, 0), lost


def value_and_gradient(
  objective: Objective, x_adv: jax.Array, key: Any
) -> tuple[Evaluation, jax.Array, jax.Array]:
  """Runs one forward and one backward pass.

  Losses are summed over examples, so a row's gradient does not depend on the
  rest of the batch.

  Returns:
    The evaluation, followed by the two results of `finite_gradient` on the
    input gradients.
  """

  def total(points):
    evaluation = objective(points, key)
    return jnp.sum(evaluation.loss), evaluation

  (_, evaluation), gradient = jax.value_and_grad(total, has_aux=True)(x_adv)
  return evaluation, *finite_gradient(gradient)


def no_gradient(gradient: jax.Array) -> jax.Array:
  """[N] bool, whether a row's gradient is zero in every coordinate."""
  return jnp.all(gradient == 0, axis=tuple(range(1, gradient.ndim)))


class Move(NamedTuple):
  """One step of PGD.

  Attributes:
    x_adv: [N, ...] next iterate.
    velocity: [N, ...] accumulated gradient, or `None` without momentum.
    evaluation: loss, success and logits at the iterate before the step.
    zero_gradient: [N] bool, whether the gradient there was zero.
    nonfinite_gradient: [N] bool, whether it had NaN or infinite entries.
  """

  x_adv: jax.Array
  velocity: jax.Array | None
  evaluation: Evaluation
  zero_gradient: jax.Array
  nonfinite_gradient: jax.Array


def move(
  objective: Objective,
  x_adv: jax.Array,
  velocity: jax.Array | None,
  x: jax.Array,
  key: Any,
  *,
  epsilon: ArrayLike,
  step_size: ArrayLike,
  step_rule: steps.StepRule,
  projection: projections.Projection,
  momentum: float,
  low: float,
  high: float,
) -> Move:
  """Takes the step of PGD from `x_adv`, for all its drivers.

  The drivers are `ascend` and `_pgd.method`. Arguments: see `ascend`.
  """
  evaluation, gradient, lost = value_and_gradient(objective, x_adv, key)
  direction = gradient
  if momentum:
    # Dong et al. (2018): each gradient is scaled to l1 norm one, so that none
    # outweighs the others by its scale.
    direction = velocity = momentum * velocity + steps.unit(gradient, "l1")
  direction = step_rule(direction, x_adv, low=low, high=high)
  moved = x_adv + radii.along(step_size, x_adv) * direction
  return Move(
    x_adv=projection(moved, x, epsilon, low=low, high=high),
    velocity=velocity,
    evaluation=evaluation,
    zero_gradient=no_gradient(gradient),
    nonfinite_gradient=lost,
  )


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
    objective: loss to maximise.
    x: [N, ...] centres of the balls.
    start: [N, ...] starting points inside the balls and the box.
    live: [N] bool; the other rows end at `x`, with the loss and logits there.
    key: PRNG key, consumed by a randomised network, otherwise `None`.
    epsilon: radius of the ball, [] or [N].
    step_size: length of a step in the norm of `step_rule`, [] or [N].
    num_steps: number of steps, static.
    step_rule: map from a gradient to a unit direction.
    projection: map back into the ball and the box.
    momentum: decay of the accumulated gradient, static; 0 is plain ascent.
    keep: "last" returns the last iterate, "worst" the worst one, the start
      included.
    low: lower bound of the box.
    high: upper bound of the box.

  Returns:
    The result, which `results.settle` completes. Cost: `num_steps` gradients
    and one forward pass.
  """
  keys = None if key is None else jax.random.split(key, num_steps + 1)

  def step(carry, now):
    x_adv, velocity, worst = carry
    number, step_key = now
    moved = move(
      objective,
      x_adv,
      velocity,
      x,
      step_key,
      epsilon=epsilon,
      step_size=step_size,
      step_rule=step_rule,
      projection=projection,
      momentum=momentum,
      low=low,
      high=high,
    )
    if keep == "worst":
      worst = _worse(worst, (x_adv, moved.evaluation), number == 0)
    noted = moved.zero_gradient, moved.nonfinite_gradient
    return (moved.x_adv, moved.velocity, worst), noted

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
  # Masked and invalid rows end at their input.
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
  """The worse point of each row; `b` where `anyway`, [] or [N] bool."""
  second = results.worst_try(
    jnp.stack([a[1].success, b[1].success]),
    jnp.stack([a[1].loss, b[1].loss]),
  )
  return results.select((second == 1) | anyway, b, a)
