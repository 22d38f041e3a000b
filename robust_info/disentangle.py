"""What the divergence between two predictions consists of: lenses 1 and 2.

For a pair of inputs `x`, `x'` (of different classes, as a rule), `d = x' - x`
and `p_t` the prediction at `x_t = x + t d`, `KL(p_0 || p_1)` is split into a
non-robust part, made of input-space Fisher information, and the robust rest.

* Local lens ([paper]: the device, a Taylor expansion; [ours]: the formula):
  `non_robust = 1/2 d^T F(x) d`, the Fisher information at the sample only.
* Path lens [ours], exact for every differentiable network:

      KL(p_0||p_1) = int_0^1 (1-t) Var_{p_t}(zdot_t) dt         (non-robust)
                   + int_0^1 (1-t) (p_t - p_0) . zddot_t dt     (robust)

  where `Var_{p_t}(zdot_t) = d^T F(x_t) d`. The second part is taken as the
  difference, so no second derivative is left and ReLU and max-pool networks
  are covered. Linear logits have no robust part.

Shapes: `P` pairs, `C` classes; `logits_fn: [P, ...] -> [P, C]` treats rows
independently. All values in nats.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from robust_info import _loops, _validate, divergences, fisher_products

LogitsFn = Callable[[jax.Array], jax.Array]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Components:
  """A divergence and its two parts; `total = non_robust + robust`.

  Attributes:
    total: [P], `KL(p(x) || p(x'))`, nats, at least 0.
    non_robust: [P], the Fisher part, nats, at least 0.
    robust: [P], the rest, nats; may be negative.
    error: [P], the estimated absolute error of `non_robust` (and of `robust`)
      from the quadrature, nats; `None` for the local lens, which has none.
  """

  total: jax.Array
  non_robust: jax.Array
  robust: jax.Array
  error: jax.Array | None = None


def disentangle_local(
  logits_fn: LogitsFn, x: jax.Array, x_other: jax.Array
) -> Components:
  """Local lens: how much of `KL(p(x)||p(x'))` the FIM at x accounts for.

  Args:
    logits_fn: [P, ...] -> [P, C].
    x: [P, ...], floating point, where the Fisher information is taken.
    x_other: the shape of x.

  Returns:
    `Components` with `non_robust = 1/2 d^T F(x) d` and `error=None`. For a
    confident model F(x) is nearly 0 at most samples while a few carry the
    mean: look at quantiles, too. Cost: one JVP and one forward pass.
  """
  x, x_other = _check_pair(logits_fn, x, x_other)
  logits, tangent = _jvp(logits_fn, x, x_other - x)
  logits_other = _logits(logits_fn, x_other)
  total = divergences.kl_divergence(logits, logits_other)
  non_robust = 0.5 * fisher_products.prediction_variance(logits, tangent)
  return Components(total, non_robust, total - non_robust)


def disentangle_path(
  logits_fn: LogitsFn,
  x: jax.Array,
  x_other: jax.Array,
  *,
  num_nodes: int = 32,
  method: str = "chord",
) -> Components:
  """Path lens: the exact split of `KL(p(x)||p(x'))` along the segment.

  The segment is cut at `t_i = i / num_nodes`, i = 0..num_nodes; both ends are
  met exactly.

  * `"chord"`: logits are interpolated linearly between nodes and the integral
    is done in closed form, with forward passes only,
    `sum_i (n-1-i) (KL(p_i||p_{i+1}) + KL(p_{i+1}||p_i)) + KL(p_i||p_{i+1})`.
    Exact for linear logits at any n, and for ReLU networks once every kink is
    a node.
  * `"jvp"`: trapezoidal rule for `(1-t) d^T F(x_t) d`, an independent estimate
    from derivatives. It needs the transition between the classes to be
    resolved by the nodes; prefer "chord" for values.

  Args:
    logits_fn: [P, ...] -> [P, C].
    x: [P, ...], floating point, where the path starts.
    x_other: the shape of x, where it ends.
    num_nodes: n, the number of segments; a Python int. An even n gives the
      better error estimate.
    method: "chord" or "jvp".

  Returns:
    `Components`. `error` compares n segments with the coarser rule on every
    other node (for odd n: every q-th, q its smallest divisor above 1), which
    costs nothing; it estimates the error of the *coarser* rule and so
    overstates that of the result once both resolve the path. NaN for n = 1.
    Differentiable in whatever `logits_fn` depends on. Cost: n + 1 forward
    passes ("chord") or n JVPs and one forward ("jvp"); memory of one pass and
    n P C logits.

  Raises:
    ValueError: shapes differ, `num_nodes < 1`, or an unknown method.
  """
  x, x_other = _check_pair(logits_fn, x, x_other)
  _validate.positive_int("num_nodes", num_nodes)
  _validate.one_of("method", method, ("chord", "jvp"))
  estimate = _chord if method == "chord" else _trapezoid
  stride = _smallest_divisor(num_nodes)
  total, non_robust, coarse = estimate(logits_fn, x, x_other, num_nodes, stride)
  error = jnp.abs(non_robust - coarse)
  if num_nodes == 1:
    error = jnp.full_like(error, jnp.nan)
  return Components(total, non_robust, total - non_robust, error)


def _chord(logits_fn, x, x_other, num_nodes, stride):
  def node(_, t):
    return None, _logits(logits_fn, _point(x, x_other, t))

  fractions = jnp.arange(num_nodes + 1, dtype=x.dtype) / num_nodes
  _, logits = _loops.scan(node, None, fractions, length=num_nodes + 1)
  total = divergences.kl_divergence(logits[0], logits[-1])
  return total, _chord_sum(logits), _chord_sum(logits[::stride])


def _chord_sum(logits: jax.Array) -> jax.Array:
  """Fisher part of the polygon through the logits [n + 1, P, C]: [P]."""
  forward = divergences.kl_divergence(logits[:-1], logits[1:])
  backward = divergences.kl_divergence(logits[1:], logits[:-1])
  num_segments = logits.shape[0] - 1
  later = num_segments - 1 - jnp.arange(num_segments, dtype=forward.dtype)
  return jnp.sum(later[:, None] * (forward + backward) + forward, axis=0)


def _trapezoid(logits_fn, x, x_other, num_nodes, stride):
  direction = x_other - x

  def node(_, t):
    logits, tangent = _jvp(logits_fn, _point(x, x_other, t), direction)
    variance = fisher_products.prediction_variance(logits, tangent)
    return None, (logits, (1 - t) * variance)

  # The integrand vanishes at t = 1: that node needs no derivative.
  fractions = jnp.arange(num_nodes, dtype=x.dtype) / num_nodes
  _, (logits, integrand) = _loops.scan(node, None, fractions, length=num_nodes)

  def rule(values):
    return (jnp.sum(values, axis=0) - 0.5 * values[0]) / values.shape[0]

  total = divergences.kl_divergence(logits[0], _logits(logits_fn, x_other))
  return total, rule(integrand), rule(integrand[::stride])


def _point(x, x_other, t):
  t = t.astype(x.dtype)
  return (1 - t) * x + t * x_other


def _smallest_divisor(n: int) -> int:
  return next((q for q in range(2, n) if n % q == 0), max(n, 1))


def _logits(logits_fn, x):
  logits = logits_fn(x)
  _validate.logits_shape(logits.shape, x.shape[0])
  return logits


def _jvp(logits_fn, x, direction):
  logits, tangent = jax.jvp(logits_fn, (x,), (direction,))
  _validate.logits_shape(logits.shape, x.shape[0])
  return logits, tangent


def _check_pair(logits_fn, x, x_other):
  _validate.logits_fn("logits_fn", logits_fn)
  x = _validate.inputs("x", x, "[P, ...]")
  x_other = jnp.asarray(x_other, x.dtype)
  _validate.same_shape("x_other", x_other, "x", x)
  return x, x_other
