"""PGD on the divergence from the clean prediction."""

import dataclasses

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Integer, PRNGKeyArray

from robust_info import _validate
from robust_info._xla import compiled, explicit_meshes
from robust_info.attacks import (
  _pgd,
  ascent,
  inputs,
  projections,
  radii,
  results,
)
from robust_info.information import divergences


@explicit_meshes.accepted(rows=True)
def kl_pgd(
  logits_fn: _validate.LogitsFn,
  x: Float[ArrayLike, "N ..."],
  key: PRNGKeyArray,
  *,
  epsilon: radii.Radius,
  step_size: radii.Radius | None = None,
  num_steps: int = 20,
  norm: str = "linf",
  restarts: int = 1,
  momentum: float = 0.0,
  keep: str = "last",
  anchor: str = "clean",
  bounds: inputs.Bounds = (0.0, 1.0),
  where: Bool[ArrayLike, " N"] | None = None,
  example_ids: Integer[ArrayLike, " N"] | None = None,
  projection: projections.Projection | None = None,
) -> results.AttackResult:
  """Maximises `KL(p(x) || p(x'))` in the ball, by projected gradient ascent.

  The attack needs no labels: the reference is the clean prediction. KL has its
  minimum, and a zero gradient, at the clean point, so the ascent always starts
  uniformly at random inside the ball with the reference at the clean point, as
  TRADES (Zhang et al. 2019) does with a smaller start.

  Cost: per restart `num_steps` gradients and one forward pass, and one forward
  pass for the reference. Other arguments, guarantees and errors: see `pgd`.

  Args:
    logits_fn: network, [N, ...] -> [N, C]; see `pgd`.
    x: [N, ...] float inputs within `bounds`, in any layout.
    key: PRNG key, consumed.
    epsilon: radius of the ball, >= 0, [] or [N]; may be traced.
    step_size: length of a step, [] or [N]; `2.5 * epsilon / num_steps` unless
      given.
    num_steps: number of gradient steps, static.
    norm: "linf", "l2" or "l1".
    restarts: number of independent starts; see `pgd`.
    momentum: see `pgd`.
    keep: see `pgd`.
    anchor: place of the reference prediction: "clean" is the attack. "start"
      takes it at the random start instead, as the paper's public code does:
      its first gradient is rounding noise. For comparison only.
    bounds: (low, high) of valid inputs, or `None`.
    where: [N] bool, `False` in padding rows.
    example_ids: [N] ints; see `pgd`.
    projection: see `pgd`.

  Returns:
    An `AttackResult` whose `success` means that the class differs from the
    clean prediction's, and whose `loss` is the divergence from the reference,
    in nats. Rows whose clean logits are not finite are not `valid`.
  """
  _validate.one_of("anchor", anchor, ("clean", "start"))
  checked = inputs.check(logits_fn, x, None, bounds=bounds, where=where)
  clean, prediction = _clean_prediction(logits_fn, checked.x)
  return _pgd.attack_in_ball(
    _divergence,
    {"anchor": anchor},
    logits_fn,
    dataclasses.replace(checked, y=prediction),
    key,
    _pgd.Settings(
      num_steps=num_steps,
      norm=norm,
      random_start=True,
      restarts=restarts,
      momentum=momentum,
      keep=keep,
      eot_samples=None,
      projection=projection,
    ),
    clean=clean,
    epsilon=epsilon,
    step_size=step_size,
    example_ids=example_ids,
  )


@compiled.once
def _clean_prediction(logits_fn, x):
  """Logits [N, C] and classes [N]."""
  _validate.network("logits_fn", logits_fn, x)
  logits = logits_fn(x)
  return logits, jnp.argmax(logits, axis=-1).astype(jnp.int32)


def _divergence(evaluate, labels, clean, start, *, anchor):
  reference = clean if anchor == "clean" else evaluate(start, None)[0]

  def divergence(logits, labels):
    del labels
    return divergences.kl_divergence(reference, logits)

  return ascent.label_objective(evaluate, labels, divergence, targeted=False)
