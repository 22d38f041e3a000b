"""The fast gradient sign method: one step of PGD."""

from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Integer, PRNGKeyArray

from robust_info import _validate
from robust_info._xla import explicit_meshes
from robust_info.attacks import (
  _pgd,
  inputs,
  losses,
  radii,
  results,
)


@explicit_meshes.accepted(rows=True)
def fgsm(
  logits_fn: _validate.LogitsFn,
  x: Float[ArrayLike, "N ..."],
  y: Integer[ArrayLike, " N"],
  key: PRNGKeyArray | None = None,
  *,
  epsilon: radii.Radius,
  step_size: radii.Radius | None = None,
  norm: str = "linf",
  random_start: bool = False,
  loss: str | losses.Loss = "cross_entropy",
  targeted: bool = False,
  bounds: inputs.Bounds = (0.0, 1.0),
  where: Bool[ArrayLike, " N"] | None = None,
  example_ids: Integer[ArrayLike, " N"] | None = None,
) -> results.AttackResult:
  """Fast gradient (sign) method (Goodfellow et al. 2015): one step of PGD.

  By default the step starts at the clean input and is `epsilon` long.
  `random_start=True` with `step_size=1.25 * epsilon` is the FGSM-RS of Wong et
  al. (2020). Cost: one gradient and one forward pass. Arguments, guarantees and
  errors: see `pgd`.

  Returns:
    An `AttackResult`.
  """
  return _pgd.pgd(
    logits_fn,
    x,
    y,
    key,
    epsilon=epsilon,
    step_size=epsilon if step_size is None else step_size,
    num_steps=1,
    norm=norm,
    random_start=random_start,
    loss=loss,
    targeted=targeted,
    bounds=bounds,
    where=where,
    example_ids=example_ids,
  )
