"""Square attack (Andriushchenko et al. 2020): random search without gradients.

Each query changes one square window of the best point so far and keeps the
change if the margin shrinks. Windows shrink over the queries: see
`_square_windows`. Shape letters: N examples, H x W pixels, C channels. Inputs
are channels-last.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Integer, PRNGKeyArray

from robust_info import _validate
from robust_info._xla import explicit_meshes
from robust_info.attacks import (
  _square_windows,
  ascent,
  inputs,
  losses,
  methods,
  projections,
  radii,
  results,
)


class State(NamedTuple):
  """Carry of a Square run, one row per example.

  Attributes:
    tried: the try that each row runs.
    loss: [N] margin loss at `x_found`, the best point.
    iteration: see `methods.State`; -1 before the start has been queried.
    found: see `methods.State`.
    x_found: see `methods.State`.
    zero_gradient: [N] bool, never set, because no gradient is taken.
    nonfinite_gradient: [N] bool, never set.
  """

  tried: methods.Try
  loss: jax.Array
  iteration: jax.Array
  found: jax.Array
  x_found: jax.Array
  zero_gradient: jax.Array
  nonfinite_gradient: jax.Array


def _signs(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
  return jax.random.rademacher(key, shape, dtype)


def _corner(key, shape, side, reach_edges):
  """Draws the top left corner of a window that fits, uniformly."""
  u = jax.random.uniform(key, (2,))
  last = jnp.array(shape[:2]) - side
  if not reach_edges:
    last = jnp.maximum(last - 1, 0)
  drawn = u * (last + 1).astype(u.dtype)
  return jnp.minimum(drawn.astype(last.dtype), last)


def _start_linf(key, shape, dtype):
  """Draws vertical stripes: one sign per column and channel."""
  _, width, channels = shape
  stripes = _signs(key, (1, width, channels), dtype)
  return jnp.broadcast_to(stripes, shape)


def _start_l2(key, shape, dtype):
  """Draws a grid of bumps with random signs, each transposed or not."""
  height, width, channels = shape
  sign, turn = jax.random.split(key)
  side = _square_windows.tile_side(height)
  tiles = (height // side, width // side)
  return _square_windows.bump_grid(
    _signs(sign, (*tiles, channels), dtype),
    jax.random.bernoulli(turn, shape=tiles),
    height,
    width,
  )


def _propose_linf(key, delta, side, epsilon, reach_edges):
  place, sign = jax.random.split(key)
  return _square_windows.propose_linf(
    delta,
    side,
    epsilon,
    corner=_corner(place, delta.shape, side, reach_edges),
    signs=_signs(sign, delta.shape[2:], delta.dtype),
  )


def _propose_l2(key, delta, side, epsilon, profile, reach_edges):
  place, other, sign, turn = jax.random.split(key, 4)
  return _square_windows.propose_l2(
    delta,
    side,
    epsilon,
    corner=_corner(place, delta.shape, side, reach_edges),
    source=_corner(other, delta.shape, side, reach_edges),
    signs=_signs(sign, delta.shape[2:], delta.dtype),
    profile=jnp.where(jax.random.bernoulli(turn), profile.T, profile),
  )


def method(
  *,
  norm: str,
  num_queries: int,
  share: float,
  low: float,
  high: float,
  reach_edges: bool,
) -> methods.Method:
  """Square attack on the margin, one try per restart; arguments: `square`."""

  def start(tried: methods.Try, epsilon: ArrayLike) -> State:
    x = tried.x
    n = x.shape[0]
    shape = _square_windows.image_shape(x.shape)
    if norm == "l2" and min(shape[:2]) < 3:
      raise ValueError(
        "Expected x to hold images of at least 3 x 3 pixels for the l2 Square "
        f"attack, got {shape[0]} x {shape[1]}."
      )
    draw = _start_linf if norm == "linf" else _start_l2
    offset = jax.vmap(lambda key: draw(key, shape, x.dtype))(tried.key)
    offset = offset.reshape(x.shape)
    # The offset is zero where no bump fits: for example, an image five times as
    # high as wide.
    length = results.rows(projections.norm(offset, norm), x)
    unit = offset / jnp.where(length > 0, length, 1)
    x_start = jnp.clip(x + radii.along(epsilon, x) * unit, low, high)
    no = jnp.zeros((n,), bool)
    return State(
      tried=tried,
      loss=jnp.full((n,), -jnp.inf, x.dtype),
      iteration=jnp.full((n,), -1, jnp.int32),
      found=no,
      x_found=x_start,
      zero_gradient=no,
      nonfinite_gradient=no,
    )

  def step(
    evaluate: methods.Evaluate, state: State, epsilon: ArrayLike, key: Any
  ) -> State:
    tried, x = state.tried, state.tried.x
    shape = _square_windows.image_shape(x.shape)
    sides = _square_windows.window_sizes(
      num_queries, shape[0], shape[1], norm=norm, share=share
    )
    index = jnp.clip(state.iteration, 0, num_queries - 1)
    keys = jax.vmap(jax.random.fold_in)(tried.key, state.iteration + 2)
    delta = (state.x_found - x).reshape(x.shape[0], *shape)
    radius = jnp.broadcast_to(radii.of(epsilon, x), index.shape)
    rows = (keys, delta, jnp.asarray(sides)[index], radius)
    propose = _propose_linf
    if norm == "l2":
      distinct, which = np.unique(sides, return_inverse=True)
      bumps = _square_windows.padded_bumps(distinct)
      rows += (jnp.asarray(bumps, x.dtype)[jnp.asarray(which)[index]],)
      propose = _propose_l2
    proposal = jax.vmap(lambda *row: propose(*row, reach_edges))(*rows)
    moved = projections.BY_NORM[norm](
      x + proposal.reshape(x.shape), x, epsilon, low=low, high=high
    )
    candidate = results.select(state.iteration < 0, state.x_found, moved)
    objective = ascent.label_objective(
      evaluate, tried.y, losses.margin, targeted=False
    )
    evaluation = objective(candidate, key)
    live = ~state.found & (state.iteration < num_queries)
    better = live & (evaluation.success | (evaluation.loss > state.loss))
    return State(
      tried=tried,
      loss=jnp.where(better, evaluation.loss, state.loss),
      iteration=state.iteration + 1,
      found=state.found | (live & evaluation.success),
      x_found=results.select(better, candidate, state.x_found),
      zero_gradient=state.zero_gradient,
      nonfinite_gradient=state.nonfinite_gradient,
    )

  return methods.Method(
    start, step, num_queries + 1, targeted=False, backward=False
  )


@explicit_meshes.accepted(rows=True)
def square(
  logits_fn: _validate.LogitsFn,
  x: Float[ArrayLike, "N ..."],
  y: Integer[ArrayLike, " N"],
  key: PRNGKeyArray,
  *,
  epsilon: radii.Radius,
  num_queries: int = 5000,
  norm: str = "linf",
  restarts: int = 1,
  share: float = 0.8,
  reach_edges: bool = True,
  bounds: inputs.Bounds = (0.0, 1.0),
  where: Bool[ArrayLike, " N"] | None = None,
  example_ids: Integer[ArrayLike, " N"] | None = None,
) -> results.AttackResult:
  """Square attack: random search on the margin, forward passes only.

  Gradients that are zero, noisy or rounded away do not mislead this attack.
  Starts and queries are those of the code published with AutoAttack, channel by
  channel; windows shrink at its query counts, which are not rescaled to
  `num_queries`. There are two differences: each row draws its own windows and
  signs (the published code shares them within a batch), and a tie of logits
  counts as misclassified only if `argmax` says so.

  Cost: per restart `num_queries + 2` forward passes; restarts run as one batch.
  Broken examples take all queries too: for whole data sets prefer
  `auto_attack(..., attacks=("square",))`, which drops them.

  Args:
    logits_fn: network, [N, ...] -> [N, C]; see `pgd`.
    x: [N, H, W, C] channels-last images, or [N, H, W] of one channel; further
      axes join the channels. [N, D] vectors are folded to the most nearly
      square image of D pixels and one channel. This suits flattened grey images
      and is weak for flattened colour images: pass those as images and flatten
      them in `logits_fn`. In another layout the windows are not windows of the
      image and the attack is weak: inputs that look like [N, C, H, W] are
      refused.
    y: [N] int labels.
    key: PRNG key, consumed.
    epsilon: radius of the ball, >= 0, [] or [N]; may be traced.
    num_queries: number of queries, static.
    norm: "linf" or "l2".
    restarts: number of independent starts, static.
    share: share of the pixels in the first window, in (0, 1].
    reach_edges: whether windows may touch the last row and column. The
      published code never places one there, which makes it much weaker on small
      images; `False` does the same.
    bounds: (low, high) of valid inputs, or `None`.
    where: [N] bool, `False` in padding rows.
    example_ids: [N] ints; see `pgd`.

  Returns:
    An `AttackResult`; `loss` is the margin.

  Raises:
    ValueError: as `pgd`; also for images under 3 x 3 pixels in l2, and images
      that look channels-first (axis 1 has at most 4 entries and the last has
      more).
    TypeError: as `pgd`.
  """
  _validate.positive_int("num_queries", num_queries)
  _validate.positive_int("restarts", restarts)
  _validate.one_of("norm", norm, projections.COMMON_NORMS)
  inputs.channels_last("x", x)
  if not 0 < share <= 1:
    raise ValueError(f"Expected share in (0, 1], got share={share}.")
  checked = inputs.check(logits_fn, x, y, bounds=bounds, where=where)
  return methods.iterate(
    method,
    {
      "norm": norm,
      "num_queries": num_queries,
      "share": share,
      "reach_edges": reach_edges,
    },
    logits_fn,
    checked,
    key,
    epsilon=epsilon,
    loss=losses.margin,
    tries=restarts,
    example_ids=example_ids,
  )
