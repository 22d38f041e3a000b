"""Local lens: the Fisher information at the sample only (lens 1)."""

from jax.typing import ArrayLike
from jaxtyping import Float

from robust_info import _validate
from robust_info._xla import compiled, explicit_meshes
from robust_info.fisher import products
from robust_info.information import divergences
from robust_info.lenses import components


@explicit_meshes.accepted(rows=True)
def disentangle_local(
  logits_fn: _validate.LogitsFn,
  x: Float[ArrayLike, " P *shape"],
  x_other: Float[ArrayLike, " P *shape"],
) -> components.Components:
  """Local lens: the part of `KL(p(x)||p(x'))` that the FIM at x explains.

  Args:
    logits_fn: [P, ...] -> [P, C].
    x: [P, ...], floating point, point of the Fisher information.
    x_other: the shape of x.

  Returns:
    `Components` with `non_robust = 1/2 d^T F(x) d` and `error=None`. For a
    confident model F(x) is nearly 0 at most samples while a few dominate the
    mean: look at quantiles, too. Cost: one JVP and one forward pass.
  """
  x, x_other = components.check_pair(logits_fn, x, x_other)
  found, logits = _split(logits_fn, x, x_other)
  _validate.warn_of_probabilities("the output of logits_fn", logits)
  return found


@compiled.once
def _split(logits_fn, x, x_other):
  """The components, and the logits of a few rows."""
  _validate.network("logits_fn", logits_fn, x)
  logits, tangent = components.derivative(logits_fn, x, x_other - x)
  logits_other = components.logits_at(logits_fn, x_other)
  total = divergences.kl_divergence(logits, logits_other)
  non_robust = 0.5 * products.prediction_variance(logits, tangent)
  found = components.Components(total, non_robust, total - non_robust)
  return found, logits[: _validate.SAMPLE]
