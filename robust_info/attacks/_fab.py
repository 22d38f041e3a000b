"""Fast adaptive boundary attack, FAB (Croce & Hein 2020b): smallest steps.

The attack walks along the decision boundary towards the clean point: each step
projects the current point onto the boundary linearised there, inside the box,
and mixes in the projection of the clean point. It minimises the norm and needs
no step size; here a try succeeds when the norm is at most epsilon. Shape
letters: N examples, C classes, D inputs flattened.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Integer, PRNGKeyArray

from robust_info import _validate
from robust_info._xla import contractions, explicit_meshes, loops
from robust_info.attacks import (
  ascent,
  initial,
  inputs,
  losses,
  methods,
  projections,
  radii,
  results,
)

_DUAL = {"linf": "l1", "l2": "l2"}

# Constants of the paper.
_MAX_BIAS = 0.1
_OVERSHOOT = 1.05
_BACKWARD = 0.9
_SMALLEST_MOVE = 1e-8

# Newton's method on a piecewise linear concave function ends after finitely
# many steps, in practice about eight.
_MAX_NEWTON = 40


def project_to_hyperplane(
  points: jax.Array,
  normal: jax.Array,
  offset: jax.Array,
  *,
  norm: str,
  low: float,
  high: float,
) -> jax.Array:
  """Smallest moves onto `{z: normal . z = b}` that stay in the box.

  A coordinate moves by `min(s, room)` (linf) or `min(s |w_i|, room)` (l2) with
  one `s` per row, where w is the normal and room the distance to the face of
  the box. The progress towards the hyperplane is concave and piecewise linear
  in `s`, so Newton's method from 0 increases monotonically to the exact
  solution. It needs no sort.

  Args:
    points: [N, D] points in the box.
    normal: [N, D] normals of the hyperplanes.
    offset: [N] values of `normal . points - b`.
    norm: "linf" or "l2".
    low: lower bound of the box.
    high: upper bound of the box.

  Returns:
    [N, D] moves. Where the box does not reach the hyperplane, the move ends at
    the nearest corner.
  """
  # To normals of largest entry 1: squares can then neither under- nor overflow.
  largest = jnp.max(jnp.abs(normal), axis=-1)
  scale = jnp.where(largest > 0, largest, 1)
  normal = normal / scale[:, None]
  most = jnp.finfo(points.dtype).max
  offset = jnp.clip(offset / scale, -most, most)
  size = jnp.abs(normal)
  unit = jnp.where(size > 0, 1.0, 0.0) if norm == "linf" else size
  unit = unit.astype(points.dtype)
  direction = jnp.where(offset >= 0, -1, 1)[:, None] * jnp.sign(normal)
  room = jnp.maximum(jnp.where(direction > 0, high - points, points - low), 0)
  wanted = jnp.abs(offset)

  def apart(s):
    # Avoid 0 * inf: `s` may be infinite where the slope is almost 0.
    return jnp.where(unit > 0, s[:, None] * unit, 0)

  def missing(s):
    moved = apart(s)
    free = moved < room
    gap = wanted - jnp.sum(size * jnp.minimum(moved, room), axis=-1)
    slope = jnp.sum(jnp.where(free, size * unit, 0), axis=-1)
    return gap, slope

  def going(carry):
    _, active, count = carry
    return (count < _MAX_NEWTON) & jnp.any(active)

  def newton(carry):
    s, active, count = carry
    gap, slope = missing(s)
    active = active & (slope > 0) & (gap > 1e-6 * wanted)
    s = jnp.where(active, s + gap / jnp.where(slope > 0, slope, 1), s)
    return s, active, count + 1

  s, _, _ = jax.lax.while_loop(
    going, newton, (jnp.zeros_like(wanted), wanted > 0, 0)
  )
  # Out of reach: every coordinate moves to its face of the box.
  gap, slope = missing(s)
  unreachable = (slope == 0) & (gap > 0)
  moved = jnp.where(
    unreachable[:, None] & (unit > 0),
    room,
    jnp.minimum(apart(s), room),
  )
  return direction * moved


class State(NamedTuple):
  """Carry of a FAB run, one row per example.

  Attributes:
    tried: the try that each row runs.
    x_adv: [N, ...] current point.
    distance: [N] smallest norm of a misclassified point so far.
    iteration: see `methods.State`.
    found: see `methods.State`.
    x_found: [N, ...] nearest misclassified point where `found`, otherwise the
      input.
    zero_gradient: see `methods.State`.
    nonfinite_gradient: see `methods.State`.
  """

  tried: methods.Try
  x_adv: jax.Array
  distance: jax.Array
  iteration: jax.Array
  found: jax.Array
  x_found: jax.Array
  zero_gradient: jax.Array
  nonfinite_gradient: jax.Array


def _targeted_boundary(evaluate, tried, x_adv, key):
  """Logit difference [N] to the target's boundary, and its gradient.

  Returns:
    The difference, followed by the two results of `ascent.finite_gradient`.
  """

  def difference(points):
    logits = jnp.mean(evaluate(points, key), axis=0)
    values = losses.targeted_margin(logits, tried.y, tried.target)
    return jnp.sum(values), values

  gradient, values = jax.grad(difference, has_aux=True)(x_adv)
  return values.astype(x_adv.dtype), *ascent.finite_gradient(gradient)


def _nearest_boundary(evaluate, tried, x_adv, key, norm):
  """As `_targeted_boundary`, for the class of the nearest linearised boundary.

  Cost: C pullbacks, of which only the nearest class's gradient is kept.
  """
  logits, pullback = jax.vjp(
    lambda points: jnp.mean(evaluate(points, key), axis=0), x_adv
  )
  classes = jnp.arange(logits.shape[-1], dtype=tried.y.dtype)
  label = jax.nn.one_hot(tried.y, logits.shape[-1], dtype=logits.dtype)
  own = jnp.take_along_axis(logits, tried.y[:, None], axis=-1)

  def consider(nearest, index):
    distance, _, _ = nearest
    one = (classes == index).astype(logits.dtype)
    (slope,) = pullback(one[None, :] - label)
    slope, lost = ascent.finite_gradient(slope)
    difference = (logits - own)[:, index].astype(x_adv.dtype)
    length = projections.norm(slope, _DUAL[norm])
    is_flat = (tried.y == index) | (length == 0)
    away = jnp.abs(difference) / jnp.where(is_flat, 1, length)
    # Finite where the gradient is tiny, so that some class is the nearest.
    away = jnp.minimum(away, jnp.finfo(x_adv.dtype).max)
    away = jnp.where(is_flat, jnp.inf, away)
    return results.select(
      away < distance, (away, difference, slope), nearest
    ), lost

  start = (
    jnp.full(own.shape[:1], jnp.inf, x_adv.dtype),
    jnp.zeros(own.shape[:1], x_adv.dtype),
    jnp.zeros_like(x_adv),
  )
  (_, value, gradient), lost = loops.scan(
    consider, start, classes, length=logits.shape[-1]
  )
  return value, gradient, jnp.any(lost, axis=0)


def method(
  *, norm: str, num_steps: int, low: float, high: float, targeted: bool
) -> methods.Method:
  """FAB towards the target of each try, or towards the nearest boundary."""

  def start(tried: methods.Try, epsilon: ArrayLike) -> State:
    x = tried.x
    n = x.shape[0]
    x_adv = x
    if not targeted:
      # The first try starts at the clean point, restarts at half the radius.
      offset = initial.surface(tried.key, x, epsilon, norm) / 2
      x_adv = results.select(
        tried.number > 0, jnp.clip(x + offset, low, high), x
      )
    no = jnp.zeros((n,), bool)
    return State(
      tried=tried,
      x_adv=x_adv,
      distance=jnp.full((n,), jnp.inf, x.dtype),
      iteration=jnp.zeros((n,), jnp.int32),
      found=no,
      x_found=x,
      zero_gradient=no,
      nonfinite_gradient=no,
    )

  def step(
    evaluate: methods.Evaluate, state: State, epsilon: ArrayLike, key: Any
  ) -> State:
    tried, x, x_adv = state.tried, state.tried.x, state.x_adv
    if targeted:
      found = _targeted_boundary(evaluate, tried, x_adv, key)
    else:
      found = _nearest_boundary(evaluate, tried, x_adv, key, norm)
    value, gradient, lost = found
    # Without a distance to the boundary the point stays where it is.
    value = jnp.where(jnp.abs(value) < jnp.inf, value, 0)
    n = x.shape[0]
    normal, points, clean = map(contractions.flat, (gradient, x_adv, x))
    offset = value + jnp.sum(normal * (clean - points), axis=-1)
    moves = project_to_hyperplane(
      jnp.concatenate([points, clean]),
      jnp.concatenate([normal, normal]),
      jnp.concatenate([value, offset]),
      norm=norm,
      low=low,
      high=high,
    )
    lengths = jnp.maximum(projections.norm(moves, norm), _SMALLEST_MOVE)
    bias = jnp.minimum(lengths[:n] / (lengths[:n] + lengths[n:]), _MAX_BIAS)
    bias = bias[:, None]
    mixed = (1 - bias) * (points + _OVERSHOOT * moves[:n]) + bias * (
      clean + _OVERSHOOT * moves[n:]
    )
    moved = jnp.clip(mixed, low, high).reshape(x.shape)

    logits = jnp.mean(evaluate(moved, key), axis=0)
    crossed = ~results.correct(logits, tried.y)
    length = projections.norm(moved - x, norm)
    nearer = crossed & (length < state.distance) & (state.iteration < num_steps)
    inside = nearer & (length <= epsilon)
    return State(
      tried=tried,
      x_adv=results.select(crossed, x + _BACKWARD * (moved - x), moved),
      distance=jnp.where(nearer, length, state.distance),
      iteration=state.iteration + 1,
      found=state.found | inside,
      x_found=results.select(inside, moved, state.x_found),
      zero_gradient=jnp.where(
        state.iteration == 0,
        ascent.no_gradient(gradient),
        state.zero_gradient,
      ),
      nonfinite_gradient=state.nonfinite_gradient | lost,
    )

  return methods.Method(start, step, num_steps, targeted)


@explicit_meshes.accepted(rows=True)
def fab(
  logits_fn: _validate.LogitsFn,
  x: Float[ArrayLike, "N ..."],
  y: Integer[ArrayLike, " N"],
  key: PRNGKeyArray,
  *,
  epsilon: radii.Radius,
  num_steps: int = 100,
  norm: str = "linf",
  restarts: int = 1,
  bounds: inputs.Bounds = (0.0, 1.0),
  where: Bool[ArrayLike, " N"] | None = None,
  example_ids: Integer[ArrayLike, " N"] | None = None,
) -> results.AttackResult:
  """Fast adaptive boundary attack, untargeted.

  `x_adv` is the nearest misclassified point found within epsilon, or `x` if
  there is none. The first try starts at `x`, restarts start at random points at
  half the radius.

  Cost: a step takes two forward passes and C backward passes; restarts run as
  one batch. Other arguments, guarantees and errors: see `apgd`.

  Returns:
    An `AttackResult`; `loss` is the margin.
  """
  return _fab(
    logits_fn,
    x,
    y,
    key,
    epsilon=epsilon,
    num_steps=num_steps,
    norm=norm,
    tries=("restarts", restarts),
    bounds=bounds,
    where=where,
    example_ids=example_ids,
  )


@explicit_meshes.accepted(rows=True)
def fab_targeted(
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
  """FAB towards each of the most likely wrong classes in turn (FAB-T).

  There are at most C-1 targets. Cost: a step takes two forward passes and one
  backward pass for any C; targets run as one batch. The attack is
  deterministic: the key is consumed but changes nothing. Otherwise as `fab`.

  Returns:
    An `AttackResult`; `loss` is the margin.
  """
  return _fab(
    logits_fn,
    x,
    y,
    key,
    epsilon=epsilon,
    num_steps=num_steps,
    norm=norm,
    tries=("num_targets", num_targets),
    bounds=bounds,
    where=where,
    example_ids=example_ids,
  )


def _fab(
  logits_fn, x, y, key, *, num_steps, norm, tries, bounds, where, **options
) -> results.AttackResult:
  """Runs both public forms; `tries` is the keyword's name and value."""
  _validate.positive_int("num_steps", num_steps)
  _validate.positive_int(*tries)
  _validate.one_of("norm", norm, projections.COMMON_NORMS)
  checked = inputs.check(logits_fn, x, y, bounds=bounds, where=where)
  return methods.iterate(
    method,
    {
      "norm": norm,
      "num_steps": num_steps,
      "targeted": tries[0] == "num_targets",
    },
    logits_fn,
    checked,
    key,
    loss=losses.margin,
    nearest=norm,
    tries=tries[1],
    **options,
  )
