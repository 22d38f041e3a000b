"""Split of the divergence between two predictions: lenses 1 and 2.

For a pair of inputs `x`, `x'` (usually of different classes), `d = x' - x` and
`p_t` the prediction at `x_t = x + t d`, `KL(p_0 || p_1)` is split into a
non-robust part, made of input-space Fisher information, and the robust rest.

* Local lens ([paper]: the device, a Taylor expansion; [ours]: the formula):
  `non_robust = 1/2 d^T F(x) d`, the Fisher information at the sample only.
* Path lens [ours], exact for every differentiable network:

      KL(p_0||p_1) = int_0^1 (1-t) Var_{p_t}(zdot_t) dt         (non-robust)
                   + int_0^1 (1-t) (p_t - p_0) . zddot_t dt     (robust)

  where `Var_{p_t}(zdot_t) = d^T F(x_t) d`. The second part is computed as the
  difference, so no second derivative is needed and ReLU and max-pool networks
  are covered. Linear logits have no robust part.

Shapes: `P` pairs, `C` classes; `logits_fn: [P, ...] -> [P, C]` treats rows
independently. All values in nats.
"""

import dataclasses
import warnings

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PRNGKeyArray

from robust_info import _validate
from robust_info._xla import compiled, explicit_meshes, loops
from robust_info.fisher import _rounding, products
from robust_info.information import divergences
from robust_info.lenses import _path_rule, components

# Network calls per doubling of the adaptive path: they are unrolled on CPUs.
_CALLS_PER_DOUBLING = 8


@explicit_meshes.accepted(rows=True)
def disentangle_path(
  logits_fn: _validate.LogitsFn,
  x: Float[ArrayLike, " P *shape"],
  x_other: Float[ArrayLike, " P *shape"],
  *,
  num_nodes: int = 32,
  method: str = "chord",
  rtol: float | None = None,
  max_nodes: int = 512,
) -> components.Components:
  """Path lens: the exact split of `KL(p(x)||p(x'))` along the segment.

  The segment is cut at `t_i = i / num_nodes`, i = 0..num_nodes; the nodes at
  both ends are exactly x and x'.

  * `"chord"`: logits are interpolated linearly between nodes and the integral
    is computed in closed form, with forward passes only,
    `sum_i (n-1-i) (KL(p_i||p_{i+1}) + KL(p_{i+1}||p_i)) + KL(p_i||p_{i+1})`.
    Exact for linear logits at any n, and for ReLU networks once every kink is
    a node.
  * `"extrapolated"`: the chord sums at n, n/2, n/4, ... segments, on the same
    nodes, combined so that the lowest-order errors of smooth parts and of kinks
    cancel (`_path_rule` [ours]). Once the nodes resolve the path it is several
    times more accurate than the chord without further passes; before that it
    scatters more, and `error` shows this.
  * `"jvp"`: trapezoidal rule for `(1-t) d^T F(x_t) d`, an independent estimate
    from derivatives. The nodes must resolve the transition between the classes;
    prefer "chord" for values.

  With `rtol` the number of chord nodes is doubled, and every forward pass is
  reused, until the estimated error of each pair is at most `rtol * non_robust`;
  the value is the extrapolated one.

  Args:
    logits_fn: [P, ...] -> [P, C]; with `rtol` also of more rows at a time.
    x: [P, ...], floating point, start of the path.
    x_other: the shape of x, end of the path.
    num_nodes: n, the number of segments (the initial number, if `rtol` is
      given); a Python int. An even n gives the better error estimate; without
      `rtol` "extrapolated" needs a multiple of 4.
    method: "chord", "extrapolated" or "jvp"; with `rtol` the first two are one.
    rtol: relative error to reach, or `None` for a fixed n.
    max_nodes: upper limit of n with `rtol`; the `error` of a pair that has not
      met its tolerance by then shows it.

  Returns:
    `Components`. `error` compares n segments with the coarser rule on every
    other node (for odd n: every q-th, q its smallest divisor above 1), which
    costs nothing; it estimates the error of the *coarser* rule and so
    overstates that of the result once both resolve the path. NaN for n = 1.
    With `rtol` and with "extrapolated" it is the error of the value (see
    `_path_rule`), infinite with fewer than three levels of nodes, and each pair
    keeps the n of its smallest error: for near-identical inputs rounding noise
    grows with n. It is meant to be safe, but is not a proven bound: of 2,791
    pairs that met 1e-3 by it in `benchmarks.path_battery` (seeds 0, 5, 6) 1 had
    a larger error. Features narrower than the node spacing go undetected;
    increase `num_nodes`. Half precision, in the network or in x, gives a
    warning (under `jax.jit` once per trace): rounding of the differences
    between nodes adds to chord sums in proportion to n^2, for which `error`
    includes `(n eps max|logit|)^2 / 12`; with "jvp" it is a share of about
    `16 eps (1 + max|logit|)` instead. Differentiable with respect to any value
    that `logits_fn` depends on; on CPUs the gradient of "extrapolated" is slow
    for convolutional networks.

    Cost: n + 1 forward passes (chords) or n JVPs and one forward ("jvp");
    memory of one pass ("chord" and "jvp" on CPUs: of all up to n = 127, which
    are unrolled for fast gradients) and n P C logits. With `rtol`: as many
    passes as the most demanding pair needs, at most `max_nodes + 1`, in at most
    8 calls per doubling, of up to `max_nodes P / 16` rows.

  Raises:
    ValueError: the shapes differ, a count is out of range, the method is
      unknown, or `rtol` is given with "jvp".
  """
  x, x_other = components.check_pair(logits_fn, x, x_other)
  _validate.positive_int("num_nodes", num_nodes)
  _validate.one_of("method", method, ("chord", "extrapolated", "jvp"))
  if rtol is not None:
    _check_tolerance(method, rtol, num_nodes, max_nodes)
    # An array is an argument of the compiled program, a float a part of it.
    rtol = jnp.asarray(rtol)
  found, logits, epsilon = _split(
    logits_fn, x, x_other, rtol, num_nodes, method, max_nodes
  )
  _validate.warn_of_probabilities("the output of logits_fn", logits)
  _warn_of_half_precision(epsilon)
  if num_nodes == 1 and rtol is None:
    return dataclasses.replace(found, error=_unknown(found.error))
  return found


@_validate.promises_nan
def _unknown(error: jax.Array) -> jax.Array:
  return jnp.full_like(error, jnp.nan)


@compiled.once
def _split(logits_fn, x, x_other, rtol, num_nodes, method, max_nodes):
  """The components, the logits of a few rows, and the eps of chord sums."""
  _validate.network("logits_fn", logits_fn, x)
  epsilon = _rounding.epsilon(logits_fn, x)
  if rtol is not None:
    parts = _adaptive(logits_fn, x, x_other, num_nodes, rtol, max_nodes)
  elif method == "extrapolated":
    parts = _extrapolated(logits_fn, x, x_other, num_nodes)
  else:
    parts = _at_fixed_nodes(logits_fn, x, x_other, num_nodes, method)
  found = _components(*parts, epsilon, is_chord=method != "jvp")
  return found, parts[0][: _validate.SAMPLE], epsilon


@explicit_meshes.accepted(rows=True)
def path_fisher_estimate(
  logits_fn: _validate.LogitsFn,
  x: Float[ArrayLike, " P *shape"],
  x_other: Float[ArrayLike, " P *shape"],
  key: PRNGKeyArray,
) -> Float[Array, " P"]:
  """One-point estimate of the path's Fisher part, for use inside a loss.

  `(1-t) Var_{p_t}(zdot_t)` at one `t ~ U(0, 1)` per pair.

  Args:
    logits_fn: [P, ...] -> [P, C].
    x: [P, ...], floating point.
    x_other: the shape of x.
    key: a `jax.random.key`; consumed.

  Returns:
    [P], nats, at least 0. Unbiased for `disentangle_path(...).non_robust`, in
    value and in the gradient with respect to the parameters; its variance is
    that of a single point of a peaked integrand. Cost: one JVP.
  """
  x, x_other = components.check_pair(logits_fn, x, x_other)
  return _at_one_node(logits_fn, x, x_other, key)


@compiled.once
def _at_one_node(logits_fn, x, x_other, key):
  _validate.network("logits_fn", logits_fn, x)
  t = jax.random.uniform(key, x.shape[:1])
  shape = (-1,) + (1,) * (x.ndim - 1)
  point = components.point(x, x_other, t.reshape(shape))
  logits, tangent = components.derivative(logits_fn, point, x_other - x)
  variance = products.prediction_variance(logits, tangent)
  return (1 - t).astype(variance.dtype) * variance


def _is_half(epsilon: jax.Array | float) -> bool:
  return bool(epsilon > jnp.finfo(jnp.float32).eps)


def _warn_of_half_precision(epsilon: jax.Array | float) -> None:
  """Warns of an eps of half precision, in the network or in x."""
  if _is_half(epsilon):
    warnings.warn(
      f"logits_fn or x is of half precision (eps={epsilon:.1e}): rounding adds "
      "about (num_nodes eps max|logit|)^2 / 12 nats to the Fisher part of "
      'chord sums, and changes that of method="jvp" by a share of about 16 eps '
      "(1 + max|logit|); compute the network in float32, from float32 inputs.",
      UserWarning,
      stacklevel=4,
    )


def _components(
  first, last, non_robust, error, nodes, epsilon, *, is_chord
) -> components.Components:
  """Combines the logits at both ends and the results of the quadrature."""
  if _is_half(epsilon):
    if is_chord:
      size = jnp.maximum(_largest(first), _largest(last))
      noise = (nodes.astype(error.dtype) * epsilon * size) ** 2 / 12
    else:
      share = [_rounding.relative(logits, epsilon) for logits in (first, last)]
      noise = jnp.maximum(*share) * non_robust
    error = error + noise.astype(error.dtype)
  total = divergences.kl_divergence(first, last)
  geodesic = 0.5 * divergences.squared_fisher_rao_distance(first, last)
  robust = total - non_robust
  return components.Components(
    total, non_robust, robust, error, nodes, geodesic
  )


def _largest(logits):
  size = jnp.abs(_validate.float_array("logits", logits))
  return jnp.max(jnp.where(jnp.isfinite(size), size, 0.0), axis=-1)


def _check_tolerance(method, rtol, num_nodes, max_nodes):
  if method == "jvp":
    raise ValueError(
      'Expected method="chord" with rtol (its nodes are nested), got '
      f"method={method!r}."
    )
  _validate.at_least("rtol", rtol, 0.0)
  _validate.positive_int("max_nodes", max_nodes)
  if max_nodes < num_nodes:
    raise ValueError(
      f"Expected max_nodes >= num_nodes={num_nodes}, got max_nodes={max_nodes}."
    )


def _adaptive(logits_fn, x, x_other, num_nodes, rtol, max_nodes):
  logits = _logits_between(
    logits_fn, x, x_other, np.arange(num_nodes + 1), num_nodes
  )
  first, last = logits[0], logits[-1]

  def refine(estimate, logits):
    """Doubles the nodes while some pair needs it."""
    num_nodes = logits.shape[0] - 1
    if 2 * num_nodes > max_nodes:
      return estimate

    def double(logits):
      odd = np.arange(1, 2 * num_nodes, 2)
      middle = _logits_between(logits_fn, x, x_other, odd, 2 * num_nodes)
      finer = _interleave(logits, middle)
      return refine(_path_rule.refined(estimate, finer), finer)

    is_done = jnp.all(estimate.error <= rtol * estimate.value)
    return jax.lax.cond(is_done, lambda logits: estimate, double, logits)

  found = refine(_path_rule.from_nodes(logits), logits)
  return first, last, found.value, found.error, found.nodes


def _at_fixed_nodes(logits_fn, x, x_other, num_nodes, method):
  estimate = _chord if method == "chord" else _trapezoid
  stride = _smallest_divisor(num_nodes)
  ends, non_robust, coarse = estimate(logits_fn, x, x_other, num_nodes, stride)
  error = jnp.abs(non_robust - coarse)
  nodes = jnp.full(error.shape, num_nodes, jnp.int32)
  return *ends, non_robust, error, nodes


def _extrapolated(logits_fn, x, x_other, num_nodes):
  if num_nodes % 4:
    raise ValueError(
      'Expected num_nodes to be a multiple of 4 with method="extrapolated" '
      f"(three levels of nested nodes), got num_nodes={num_nodes}."
    )
  logits = _node_logits(logits_fn, x, x_other, num_nodes, differentiable=False)
  found = _path_rule.from_nodes(logits)
  return logits[0], logits[-1], found.value, found.error, found.nodes


def _interleave(even, odd):
  """Interleaves [n + 1, ...] and [n, ...] into [2 n + 1, ...]."""
  pairs = jnp.stack([even[:-1], odd], axis=1)
  return jnp.concatenate(
    [pairs.reshape((2 * len(odd), *even.shape[1:])), even[-1:]], axis=0
  )


def _logits_between(logits_fn, x, x_other, numerators, denominator):
  """Logits [len(numerators), P, C] at `numerators / denominator`.

  Several nodes share a call, so that the number of calls, and with it the
  compiled program, stays small.
  """
  count, num_pairs = len(numerators), x.shape[0]
  share = -(-count // _CALLS_PER_DOUBLING)
  num_calls = -(-count // share)
  fractions = np.resize(numerators, num_calls * share) / denominator
  wide = jnp.promote_types(x.dtype, jnp.float32)
  fractions = jnp.asarray(fractions, wide).reshape(num_calls, share)

  def call(_, t):
    t = t.reshape((share,) + (1,) * x.ndim)
    points = components.point(x[None], x_other[None], t)
    return None, components.logits_at(
      logits_fn, points.reshape((share * num_pairs, *x.shape[1:]))
    )

  _, logits = loops.scan(
    call, None, fractions, length=num_calls, differentiable=True
  )
  logits = logits.reshape((num_calls * share, num_pairs, logits.shape[-1]))
  return logits[:count]


def _node_logits(logits_fn, x, x_other, num_nodes, *, differentiable):
  """Logits [n + 1, P, C], one node per call."""

  def node(t):
    return components.logits_at(logits_fn, components.point(x, x_other, t))

  return loops.independent(
    node,
    _fractions(num_nodes + 1, num_nodes, x.dtype),
    length=num_nodes + 1,
    values=x.size,
    differentiable=differentiable,
  )


def _fractions(count, denominator, dtype):
  """0, 1, ..., count - 1 over the denominator; half precision has not all."""
  wide = jnp.promote_types(dtype, jnp.float32)
  return jnp.arange(count, dtype=wide) / denominator


def _chord(logits_fn, x, x_other, num_nodes, stride):
  logits = _node_logits(logits_fn, x, x_other, num_nodes, differentiable=True)
  fine, coarse = _path_rule.chord_sums([logits, logits[::stride]])
  return (logits[0], logits[-1]), fine, coarse


def _trapezoid(logits_fn, x, x_other, num_nodes, stride):
  direction = x_other - x

  def node(t):
    logits, tangent = components.derivative(
      logits_fn, components.point(x, x_other, t), direction
    )
    variance = products.prediction_variance(logits, tangent)
    return logits, (1 - t) * variance

  # The integrand vanishes at t = 1, so that node needs no derivative.
  logits, integrand = loops.independent(
    node,
    _fractions(num_nodes, num_nodes, x.dtype),
    length=num_nodes,
    values=x.size,
    differentiable=True,
  )

  def rule(values):
    return (jnp.sum(values, axis=0) - 0.5 * values[0]) / values.shape[0]

  ends = logits[0], components.logits_at(logits_fn, x_other)
  return ends, rule(integrand), rule(integrand[::stride])


def _smallest_divisor(n: int) -> int:
  return next((q for q in range(2, n) if n % q == 0), max(n, 1))
