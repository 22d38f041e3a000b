"""Iterative attacks as pure functions: a start, a step and a number of steps.

A method keeps everything about a row in that row's carry, its iteration number
included, so rows of one batch may be at different iterations. Two drivers share
the methods: `iterate` below runs all rows from start to end inside one traced
program; `pool.py` runs a fixed-size batch from the host and refills finished
rows. Shape letters: N examples, C classes.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from robust_info import _validate
from robust_info._xla import compiled, loops
from robust_info.attacks import (
  ascent,
  inputs,
  losses,
  projections,
  radii,
  results,
)


class Try(NamedTuple):
  """One try per row.

  Attributes:
    x: [N, ...] clean inputs.
    y: [N] labels.
    target: [N] class to reach; ignored by untargeted methods.
    number: [N] number of earlier tries of the row.
    key: [N] PRNG keys, consumed.
  """

  x: jax.Array
  y: jax.Array
  target: jax.Array
  number: jax.Array
  key: jax.Array


class State(Protocol):
  """Fields that every method's carry has; a pytree of [N, ...] leaves.

  Attributes:
    iteration: [N] int, steps taken; a row ends at the method's `num_steps`.
    found: [N] bool, a misclassified point of the ball and the box was seen.
    x_found: [N, ...] that point where `found`, otherwise the strongest one.
    zero_gradient: [N] bool, the gradient at the start was zero.
    nonfinite_gradient: [N] bool, some gradient had a NaN or infinite entry.
  """

  iteration: jax.Array
  found: jax.Array
  x_found: jax.Array
  zero_gradient: jax.Array
  nonfinite_gradient: jax.Array


# The forward pass, (x [N, ...], key or None) -> logits [S, N, C]: see
# `ascent.evaluator`.
Evaluate = Callable[[jax.Array, Any], jax.Array]


class Method(NamedTuple):
  """An iterative attack.

  Attributes:
    start: `(try, epsilon) -> carry`; calls no network. The radius is one
      number for all rows or [N].
    step: `(evaluate, carry, epsilon, key or None) -> carry`; one iteration.
    num_steps: number of steps per row. The forward pass at the start counts as
      one.
    targeted: whether each try aims at its own class.
    backward: whether a step takes a gradient.
  """

  start: Callable[[Try, ArrayLike], Any]
  step: Callable[[Evaluate, Any, ArrayLike, Any], Any]
  num_steps: int
  targeted: bool
  backward: bool = True


def iterate(
  make: Callable[..., Method],
  options: dict[str, Any],
  logits_fn: _validate.LogitsFn,
  checked: inputs.Inputs,
  key: Any,
  *,
  epsilon: ArrayLike,
  loss: losses.Loss,
  tries: int,
  example_ids: ArrayLike | None,
  eot_samples: int | None = None,
  nearest: str | None = None,
) -> results.AttackResult:
  """Runs every try of every row to its end and keeps the worst try per row.

  Tries run as one batch of `tries * N` rows. A targeted method aims its tries
  at the most likely wrong classes of the clean prediction in turn.

  Args:
    make: function of `options` and the box (`low`, `high`) that makes the
      attack; a program is compiled for each `make` and `options`.
    options: see `make`.
    logits_fn: network, [N, ...] -> [N, C].
    checked: validated inputs.
    key: PRNG key, consumed.
    epsilon: radius of the ball, [] or [N].
    loss: loss reported at `x_adv`; it also ranks the tries without success.
    tries: number of restarts or targets, static.
    example_ids: see `pgd`.
    eot_samples: see `pgd`.
    nearest: norm in which the nearest successful try of a row is kept, or
      `None` for that of the highest loss.

  Returns:
    The result of the attack.
  """
  inputs.require_key(key)
  if eot_samples is not None:
    _validate.positive_int("eot_samples", eot_samples)
  num_examples = checked.x.shape[0]
  radii.check("epsilon", epsilon, num_examples)
  num_classes = inputs.num_classes(logits_fn, checked.x, key, eot_samples)
  _validate.labels_in_range("y", checked.y, num_classes, checked.where)
  found = _iterated(
    logits_fn,
    checked,
    key,
    radii.argument(epsilon, checked.x),
    inputs.ids(example_ids, num_examples),
    make=make,
    options=options,
    loss=loss,
    tries=tries,
    eot_samples=eot_samples,
    num_classes=num_classes,
    nearest=nearest,
  )
  return results.noticed(found, checked.where)


@compiled.once
def _iterated(
  logits_fn,
  checked,
  key,
  epsilon,
  example_ids,
  *,
  make,
  options,
  loss,
  tries,
  eot_samples,
  num_classes,
  nearest,
):
  method = make(low=checked.low, high=checked.high, **options)
  x, y = checked.x, checked.y
  epsilon = radii.of(epsilon, x)
  num_examples = x.shape[0]
  evaluate = ascent.evaluator(logits_fn, eot_samples, backward=method.backward)
  try_key, draw_key = jax.random.split(key)
  try_key = inputs.mappable(try_key)
  draw_keys = jax.random.split(draw_key, method.num_steps + 2)
  valid = inputs.valid(checked, num_classes, epsilon)
  targets = jnp.zeros((num_examples, tries), jnp.int32)
  if method.targeted:
    tries = min(tries, num_classes - 1)
    clean = jnp.mean(evaluate(x, draw_keys[0]), axis=0)
    targets = losses.ranked_classes(clean, y)[:, :tries]

  def rows(number):
    keys = inputs.example_keys(
      jax.random.fold_in(try_key, number), example_ids, num_examples
    )
    return Try(
      x, y, targets[:, number], jnp.full((num_examples,), number), keys
    )

  everything = jax.vmap(rows)(jnp.arange(tries, dtype=jnp.int32))
  flat = jax.tree.map(
    lambda leaf: leaf.reshape(tries * num_examples, *leaf.shape[2:]), everything
  )

  epsilons = radii.tile(epsilon, tries)

  def step(state, step_key):
    return method.step(evaluate, state, epsilons, step_key), None

  state, _ = loops.scan(
    step,
    method.start(flat, epsilons),
    draw_keys[1:-1],
    length=method.num_steps,
  )
  objective = ascent.label_objective(evaluate, flat.y, loss, targeted=False)
  live = jnp.tile(checked.where & valid, tries)
  x_adv = results.select(live, state.x_found, flat.x)
  last = objective(x_adv, draw_keys[-1])
  outcome = results.AttackResult(
    x_adv=x_adv,
    success=last.success,
    loss=last.loss,
    logits=last.logits,
    zero_gradients=state.zero_gradient,
    nonfinite_gradients=state.nonfinite_gradient,
  )
  preference = last.loss
  if nearest is not None:
    preference = -projections.norm(x_adv - flat.x, nearest)
  outcome = results.keep_worst(
    *jax.tree.map(
      lambda leaf: leaf.reshape(tries, num_examples, *leaf.shape[1:]),
      (outcome, preference),
    )
  )
  return results.settle(outcome, x, checked.where, valid)
