"""Square attack (Andriushchenko et al. 2020): random search without gradients.

Each query changes one square window of the best point so far and keeps the
change if the margin shrinks. Windows shrink over the queries. Shape letters: N
examples, H x W pixels, C channels (inputs are channels-last).
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from robust_info import _validate
from robust_info.attacks import (
  ascent,
  inputs,
  losses,
  methods,
  projections,
  radii,
  results,
)

NORMS = ("linf", "l2")

# The share of pixels in a window is halved after these many queries.
_HALVE_AFTER = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
_TINY = 1e-12


def window_sizes(
  num_queries: int, height: int, width: int, *, norm: str, share: float
) -> np.ndarray:
  """Side of the square window at each query, falling.

  Args:
    num_queries: >= 1.
    height: of the image.
    width: of the image.
    norm: "linf" or "l2"; l2 windows are odd and at least 3.
    share: of the pixels in the first window.

  Returns:
    [num_queries] ints.
  """
  query = np.arange(num_queries)[:, None]
  halvings = np.sum(query > np.array(_HALVE_AFTER)[None, :], axis=1)
  side = np.round(np.sqrt(share / 2.0**halvings * height * width)).astype(int)
  shorter = min(height, width)
  if norm == "linf":
    return np.clip(side, 1, shorter)
  side = np.maximum(side, 3)
  side += side % 2 == 0
  return np.minimum(side, shorter - (shorter % 2 == 0))


def bump(side: int) -> np.ndarray:
  """Unit-norm [side, side] profile: a positive half above a negative one.

  Each half is a pile of concentric rectangles of height 1/k^2.
  """

  def pile(rows, columns):
    profile = np.zeros((rows, columns))
    top, left = rows // 2, columns // 2
    for k in range(max(rows // 2, columns // 2) + 1):
      profile[
        max(top - k, 0) : top + k + 1, max(left - k, 0) : left + k + 1
      ] += 1 / (k + 1) ** 2
    return profile / max(np.sqrt(np.sum(profile**2)), _TINY)

  half = side // 2
  both = np.concatenate([pile(half, side), -pile(side - half, side)])
  return both / np.sqrt(np.sum(both**2))


def image_shape(shape: tuple[int, ...]) -> tuple[int, int, int]:
  """H, W, C of inputs [N, ...]: images as they are, vectors folded.

  A vector of D inputs becomes H x W with H the largest divisor of D up to its
  root; more axes than H, W, C join the channels.
  """
  if len(shape) >= 3:
    return shape[1], shape[2], math.prod(shape[3:])
  size = shape[1]
  height = max(h for h in range(1, math.isqrt(size) + 1) if size % h == 0)
  return height, size // height, 1


class State(NamedTuple):
  """Rows of a Square run; see `methods.State` for the last five.

  Attributes:
    tried: what is attacked.
    loss: [N] the margin loss at `x_found`, the best point.
    iteration: [N] int.
    found: [N] bool.
    x_found: [N, ...].
    zero_gradient: [N] bool, never set: no gradient is taken.
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


def _corner(key, height, width, side, reach_edges):
  """Top left of a window that fits, uniformly."""
  u = jax.random.uniform(key, (2,))
  last = jnp.array([height, width]) - side
  if not reach_edges:
    last = jnp.maximum(last - 1, 0)
  drawn = u * (last + 1).astype(u.dtype)
  return jnp.minimum(drawn.astype(last.dtype), last)


def _window(corner, side, height, width):
  """[H, W, 1] bool."""
  row = jnp.arange(height)[:, None, None] - corner[0]
  column = jnp.arange(width)[None, :, None] - corner[1]
  return (row >= 0) & (row < side) & (column >= 0) & (column < side)


def _start_linf(key, shape, dtype):
  """Vertical stripes of one sign a column and channel."""
  _, width, channels = shape
  stripes = _signs(key, (1, width, channels), dtype)
  return jnp.broadcast_to(stripes, shape)


def _start_l2(key, shape, dtype):
  """A grid of bumps with random signs."""
  height, width, channels = shape
  side = max(height // 5, 1)
  offset = (height - 5 * side) // 2 if height >= 5 else 0
  down, across = height // side, width // side
  tile = np.tile(bump(side) if side > 1 else np.ones((1, 1)), (down, across))
  signs = jnp.repeat(
    jnp.repeat(_signs(key, (down, across, channels), dtype), side, 0), side, 1
  )
  grid = jnp.asarray(tile, dtype)[:, :, None] * signs
  grid = grid[: height - offset, : width - offset]
  return (
    jnp.zeros(shape, dtype)
    .at[offset : offset + grid.shape[0], offset : offset + grid.shape[1]]
    .set(grid)
  )


def _propose_linf(key, delta, side, epsilon, reach_edges):
  """Adds twice epsilon of random sign in a window; clipping does the rest."""
  place, sign = jax.random.split(key)
  height, width, channels = delta.shape
  corner = _corner(place, height, width, side, reach_edges)
  window = _window(corner, side, height, width)
  signs = _signs(sign, (1, 1, channels), delta.dtype)
  return delta + jnp.where(window, 2 * epsilon * signs, 0)


def _propose_l2(key, delta, side, epsilon, reach_edges, bumps):
  """Moves the norm of one window to another and adds a bump there."""
  place, other, sign, turn = jax.random.split(key, 4)
  height, width, channels = delta.shape
  corner = _corner(place, height, width, side, reach_edges)
  here = _window(corner, side, height, width)
  source = _corner(other, height, width, side, reach_edges)
  there = _window(source, side, height, width)

  # The bump of this side, its corner moved to the window's.
  profile = bumps[(side - 1) // 2]
  profile = jnp.where(
    jax.random.bernoulli(turn), profile, jnp.swapaxes(profile, 0, 1)
  )
  largest = profile.shape[0]
  row = jnp.clip(jnp.arange(height) - corner[0], 0, largest - 1)
  column = jnp.clip(jnp.arange(width) - corner[1], 0, largest - 1)
  shape = profile[row][:, column][:, :, None]
  signs = _signs(sign, (1, 1, channels), delta.dtype)

  def plane_norm(values):
    return jnp.sqrt(jnp.sum(values**2, axis=(0, 1), keepdims=True))

  inside = jnp.where(here, delta, 0)
  fresh = jnp.where(here, shape * signs, 0) + inside / (
    plane_norm(inside) + _TINY
  )
  spare = jnp.maximum(epsilon**2 - jnp.sum(delta**2), 0) / channels
  moved = jnp.sum(jnp.where(here | there, delta, 0) ** 2)
  fresh = fresh / (plane_norm(fresh) + _TINY) * jnp.sqrt(spare + moved)
  delta = jnp.where(here, fresh, jnp.where(there, 0, delta))
  return epsilon * delta / (jnp.sqrt(jnp.sum(delta**2)) + _TINY)


def method(
  *,
  norm: str,
  num_queries: int,
  share: float,
  low: float,
  high: float,
  reach_edges: bool,
) -> methods.Method:
  """Square attack on the margin; a restart is a try. As `square`."""

  def start(tried: methods.Try, epsilon: ArrayLike) -> State:
    x = tried.x
    n = x.shape[0]
    shape = image_shape(x.shape)
    if norm == "l2" and min(shape[:2]) < 3:
      raise ValueError(
        "Expected x to hold images of at least 3 x 3 pixels for the l2 Square "
        f"attack, got {shape[0]} x {shape[1]}."
      )
    draw = _start_linf if norm == "linf" else _start_l2
    offset = jax.vmap(lambda key: draw(key, shape, x.dtype))(tried.key)
    offset = offset.reshape(x.shape)
    length = projections.norm(offset, norm)
    x_start = jnp.clip(
      x + radii.along(epsilon, x) * offset / results.rows(length, x), low, high
    )
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
    shape = image_shape(x.shape)
    sides = window_sizes(
      num_queries, shape[0], shape[1], norm=norm, share=share
    )
    index = jnp.clip(state.iteration, 0, num_queries - 1)
    side = jnp.asarray(sides)[index]
    keys = jax.vmap(jax.random.fold_in)(tried.key, state.iteration + 2)
    delta = (state.x_found - x).reshape(x.shape[0], *shape)
    if norm == "linf":
      propose = _propose_linf
    else:
      propose = functools.partial(
        _propose_l2, bumps=_padded_bumps(int(sides.max()), x.dtype)
      )
    radius = jnp.broadcast_to(radii.of(epsilon, x), side.shape)
    proposal = jax.vmap(lambda *row: propose(*row, reach_edges))(
      keys, delta, side, radius
    )
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


def _padded_bumps(largest: int, dtype: Any) -> jax.Array:
  """[K, largest, largest]: the bumps of sides 1, 3, 5, ..., zero-padded."""
  bumps = np.zeros(((largest + 1) // 2, largest, largest))
  for k in range(1, len(bumps)):
    side = 2 * k + 1
    bumps[k, :side, :side] = bump(side)
  return jnp.asarray(bumps, dtype)


def square(
  logits_fn: inputs.LogitsFn,
  x: ArrayLike,
  y: ArrayLike,
  key: Any,
  *,
  epsilon: ArrayLike,
  num_queries: int = 5000,
  norm: str = "linf",
  restarts: int = 1,
  share: float = 0.8,
  reach_edges: bool = True,
  bounds: inputs.Bounds = (0.0, 1.0),
  where: ArrayLike | None = None,
  example_ids: ArrayLike | None = None,
) -> results.AttackResult:
  """Square attack: random search on the margin, forward passes only.

  Not fooled by gradients that are zero, noisy or rounded away. Windows shrink
  at the published query counts, not rescaled to `num_queries` (what AutoAttack
  does), and each row draws its own windows.

  Cost: per restart `num_queries + 2` forward passes; restarts run as one batch.
  Broken examples take all queries too: for whole data sets prefer
  `auto_attack(..., attacks=("square",))`, which drops them.

  Args:
    logits_fn: [N, ...] -> [N, C]; see `pgd`.
    x: [N, H, W, ...] channels-last images; [N, D] vectors are folded to the
      most nearly square image of D pixels.
    y: [N] int labels.
    key: consumed.
    epsilon: radius of the ball, >= 0; may be traced.
    num_queries: static.
    norm: "linf" or "l2".
    restarts: static.
    share: of the pixels in the first window, in (0, 1].
    reach_edges: whether windows may touch the last row and column. The
      published code never places one there, which costs it a lot on small
      images; `False` does the same.
    bounds: (low, high) or `None`.
    where: [N] bool.
    example_ids: [N] int; see `pgd`.

  Returns:
    An `AttackResult`; `loss` is the margin.

  Raises:
    ValueError: as `pgd`; or images under 3 x 3 pixels in l2.
    TypeError: as `pgd`.
  """
  _validate.positive_int("num_queries", num_queries)
  _validate.positive_int("restarts", restarts)
  _validate.one_of("norm", norm, NORMS)
  if not 0 < share <= 1:
    raise ValueError(f"Expected share in (0, 1], got share={share}.")
  checked = inputs.check(logits_fn, x, y, bounds=bounds, where=where)
  return methods.iterate(
    method(
      norm=norm,
      num_queries=num_queries,
      share=share,
      low=checked.low,
      high=checked.high,
      reach_edges=reach_edges,
    ),
    logits_fn,
    checked,
    key,
    epsilon=epsilon,
    loss=losses.margin,
    tries=restarts,
    example_ids=example_ids,
  )
