"""Random starts: one perturbation inside the ball per example.

Each function takes one key per example, so that a start depends on the example
and not on its place in the batch. The projection, not the start, enforces the
box. Shape letters: N examples, D inputs flattened.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from robust_info.attacks import projections, radii, results

# keys [N], x [N, ...], epsilon [] or [N] -> perturbations like x.
Initial = Callable[[jax.Array, jax.Array, ArrayLike], jax.Array]


def uniform_linf(
  keys: jax.Array, x: jax.Array, epsilon: ArrayLike
) -> jax.Array:
  """Draws uniformly from the cube of half-width `epsilon`."""

  def sample(key):
    return jax.random.uniform(key, x.shape[1:], x.dtype, -1, 1)

  return radii.along(epsilon, x) * jax.vmap(sample)(keys)


def uniform_l2(keys: jax.Array, x: jax.Array, epsilon: ArrayLike) -> jax.Array:
  """Draws uniformly from the l2 ball of radius `epsilon`.

  The sample is D normal coordinates divided by the norm of D + 2: the same D
  and two more.
  """

  def sample(key):
    inside, outside = jax.random.split(key)
    normal = jax.random.normal(inside, x.shape[1:], x.dtype)
    # The squares of two normal coordinates sum to twice an exponential.
    rest = 2 * jax.random.exponential(outside, (), x.dtype)
    return normal / jnp.sqrt(jnp.sum(normal**2) + rest)

  return radii.along(epsilon, x) * jax.vmap(sample)(keys)


def uniform_l1(keys: jax.Array, x: jax.Array, epsilon: ArrayLike) -> jax.Array:
  """Draws uniformly from the l1 ball of radius `epsilon`.

  The sample is D signed exponential coordinates divided by the sum of D + 1
  exponentials: the same D and one more.
  """

  def sample(key):
    inside, signs, outside = jax.random.split(key, 3)
    sizes = jax.random.exponential(inside, x.shape[1:], x.dtype)
    rest = jax.random.exponential(outside, (), x.dtype)
    sign = jax.random.rademacher(signs, x.shape[1:], x.dtype)
    return sign * sizes / (jnp.sum(sizes) + rest)

  return radii.along(epsilon, x) * jax.vmap(sample)(keys)


BY_NORM: dict[str, Initial] = {
  "linf": uniform_linf,
  "l2": uniform_l2,
  "l1": uniform_l1,
}


def surface(
  keys: jax.Array, x: jax.Array, epsilon: ArrayLike, norm: str
) -> jax.Array:
  """Draws perturbations of length `epsilon`: uniform or normal draws, scaled.

  Args:
    keys: [N] PRNG keys, consumed.
    x: [N, ...] inputs, used for their shape and type.
    epsilon: length of the perturbations, [] or [N].
    norm: "linf" (a uniform draw) or "l2" (a normal draw).

  Returns:
    Perturbations like `x`.
  """

  def draw(key):
    if norm == "linf":
      return jax.random.uniform(key, x.shape[1:], x.dtype, -1, 1)
    return jax.random.normal(key, x.shape[1:], x.dtype)

  draws = jax.vmap(draw)(keys)
  length = projections.norm(draws, norm)
  return radii.along(epsilon, x) * draws / results.rows(length, draws)
