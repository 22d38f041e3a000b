"""PGD with a step of fixed length, as a method whose rows may end early.

`pgd` takes every example through all its steps, because a loss or a lens needs
them. This is the same ascent for robust accuracy alone, where an example ends
at its first misclassified iterate. Shape letters: N examples.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from robust_info.attacks import (
  ascent,
  initial,
  losses,
  methods,
  projections,
  radii,
  results,
  steps,
)

# Rule of thumb of Madry et al.: the steps together cover 2.5 times the radius.
REACH = 2.5


class State(NamedTuple):
  """Carry of a PGD run, one row per example.

  Attributes:
    tried: the try that each row runs.
    x_adv: [N, ...] iterate of the next forward pass.
    iteration: see `methods.State`.
    found: see `methods.State`.
    x_found: see `methods.State`.
    zero_gradient: see `methods.State`.
    nonfinite_gradient: see `methods.State`.
  """

  tried: methods.Try
  x_adv: jax.Array
  iteration: jax.Array
  found: jax.Array
  x_found: jax.Array
  zero_gradient: jax.Array
  nonfinite_gradient: jax.Array


def method(
  *, norm: str, num_steps: int, low: float, high: float
) -> methods.Method:
  """PGD on the cross-entropy, untargeted, from a random start."""
  project = functools.partial(projections.BY_NORM[norm], low=low, high=high)
  direct = functools.partial(steps.BY_NORM[norm], low=low, high=high)

  def start(tried: methods.Try, epsilon: ArrayLike) -> State:
    x = tried.x
    moved = x + initial.BY_NORM[norm](tried.key, x, epsilon)
    x_start = project(moved, x, epsilon)
    no = jnp.zeros((x.shape[0],), bool)
    return State(
      tried=tried,
      x_adv=x_start,
      iteration=jnp.zeros((x.shape[0],), jnp.int32),
      found=no,
      x_found=x_start,
      zero_gradient=no,
      nonfinite_gradient=no,
    )

  def step(
    evaluate: methods.Evaluate, state: State, epsilon: ArrayLike, key: Any
  ) -> State:
    tried, x_adv = state.tried, state.x_adv
    objective = ascent.label_objective(
      evaluate, tried.y, losses.cross_entropy, targeted=False
    )
    evaluation, gradient, lost = ascent.value_and_gradient(
      objective, x_adv, key
    )
    # The pool may call the step again after a row's last iterate.
    current = state.iteration <= num_steps
    hit = evaluation.success & current
    size = REACH * radii.along(epsilon, x_adv) / num_steps
    moved = project(x_adv + size * direct(gradient, x_adv), tried.x, epsilon)
    return State(
      tried=tried,
      x_adv=moved,
      iteration=state.iteration + 1,
      found=state.found | hit,
      x_found=results.select(
        hit | (current & ~state.found), x_adv, state.x_found
      ),
      zero_gradient=jnp.where(
        state.iteration == 0,
        ascent.no_gradient(gradient),
        state.zero_gradient,
      ),
      nonfinite_gradient=state.nonfinite_gradient | lost,
    )

  # One more forward pass: that at the last iterate, after all steps.
  return methods.Method(start, step, num_steps + 1, targeted=False)
