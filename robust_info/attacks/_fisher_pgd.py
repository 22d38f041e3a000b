"""Fisher attack [ours]: a step along the most informative direction, then PGD.

Near `x` the prediction changes most, `KL = r^2 lambda / 2`, along the top
eigenvector of the input-space Fisher information F(x). The eigenvector needs no
label and has no sign, so the attack tries both signs. It vanishes with F where
the prediction is saturated. Shape letters: N examples, C classes.
"""

import dataclasses

from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Integer

from robust_info import _validate, fisher
from robust_info._xla import compiled, explicit_meshes
from robust_info.attacks import (
  ascent,
  inputs,
  losses,
  projections,
  radii,
  results,
  steps,
)


@explicit_meshes.accepted(rows=True)
def fisher_pgd(
  logits_fn: _validate.LogitsFn,
  x: Float[ArrayLike, "N ..."],
  y: Integer[ArrayLike, " N"],
  *,
  epsilon: radii.Radius,
  step_size: radii.Radius | None = None,
  num_steps: int = 20,
  norm: str = "linf",
  loss: str | losses.Loss = "cross_entropy",
  bounds: inputs.Bounds = (0.0, 1.0),
  where: Bool[ArrayLike, " N"] | None = None,
) -> results.AttackResult:
  """Steps by epsilon along the top eigenvector of F(x), then runs PGD.

  The attack keeps the one of `x + epsilon v` and `x - epsilon v` (`sign(v)` in
  linf) with the higher loss and refines it. It returns the worst point on the
  way, which is at least as strong as the Fisher step alone. The attack is
  deterministic.

  Cost: C-1 pullbacks for the eigenvector (Lanczos for many classes, see
  `fisher.fisher_eigenvectors`), `num_steps` gradients, four forward passes.

  Args:
    logits_fn: network, [N, ...] -> [N, C]; see `pgd`.
    x: [N, ...] float inputs within `bounds`, in any layout.
    y: [N] int labels.
    epsilon: radius of the ball, >= 0, [] or [N]; may be traced.
    step_size: length of a step of the refinement, [] or [N]; `epsilon / 4`
      unless given.
    num_steps: number of steps of the refinement, static.
    norm: "linf" or "l2".
    loss: see `pgd`.
    bounds: (low, high) of valid inputs, or `None`.
    where: [N] bool, `False` in padding rows.

  Returns:
    An `AttackResult`; `zero_gradients` refers to the start of the refinement.

  Raises:
    ValueError: as `pgd`.
    TypeError: as `pgd`.
  """
  _validate.positive_int("num_steps", num_steps)
  _validate.one_of("norm", norm, ("linf", "l2"))
  checked = inputs.check(logits_fn, x, y, bounds=bounds, where=where)
  x = checked.x
  num_classes = inputs.num_classes(logits_fn, x)
  _validate.labels_in_range("y", checked.y, num_classes, checked.where)
  radii.check("epsilon", epsilon, len(x))
  epsilon = radii.argument(epsilon, x)
  step_size = epsilon / 4 if step_size is None else step_size
  radii.check("step_size", step_size, len(x))
  _, vectors = fisher.fisher_eigenvectors(logits_fn, x, k=1)
  return _refined(
    logits_fn,
    checked,
    vectors[:, 0],
    epsilon,
    radii.argument(step_size, x),
    num_steps=num_steps,
    norm=norm,
    loss=losses.resolve(loss),
    num_classes=num_classes,
  )


@compiled.once
def _refined(
  logits_fn,
  checked,
  vector,
  epsilon,
  step_size,
  *,
  num_steps,
  norm,
  loss,
  num_classes,
):
  """The better of both steps along a vector [N, ...], then PGD."""
  x = checked.x
  epsilon, step_size = (radii.of(v, x) for v in (epsilon, step_size))
  valid = inputs.valid(checked, num_classes, epsilon, step_size)
  box = {"low": checked.low, "high": checked.high}
  project = projections.BY_NORM[norm]
  objective = ascent.label_objective(
    ascent.evaluator(logits_fn, None), checked.y, loss, targeted=False
  )
  vector, lost = ascent.finite_gradient(vector)
  move = radii.along(epsilon, x) * steps.BY_NORM[norm](vector, x, **box)
  ahead = project(x + move, x, epsilon, **box)
  behind = project(x - move, x, epsilon, **box)
  worse = objective(ahead, None).loss >= objective(behind, None).loss
  outcome = ascent.ascend(
    objective,
    x,
    results.select(worse, ahead, behind),
    checked.where & valid,
    None,
    epsilon=epsilon,
    step_size=step_size,
    num_steps=num_steps,
    step_rule=steps.BY_NORM[norm],
    projection=project,
    momentum=0.0,
    keep="worst",
    **box,
  )
  outcome = dataclasses.replace(
    outcome, nonfinite_gradients=outcome.nonfinite_gradients | lost
  )
  return results.settle(outcome, x, checked.where, valid)
