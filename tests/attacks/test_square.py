"""Square is the published attack, query by query.

`golden_square.npz` holds queries of the published code with its random choices:
see `golden_square.py`. What Square has in common with the other attacks is in
`test_iterative.py`.
"""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robust_info import attacks
from robust_info.attacks import random_search, square_windows

KEY = jax.random.key(0)
GOLDEN = pathlib.Path(__file__).with_name("golden_square.npz")


@pytest.fixture(scope="module")
def golden():
  with np.load(GOLDEN) as arrays:
    return dict(arrays)


def tries(x):
  zeros = jnp.zeros((len(x),), jnp.int32)
  return attacks.methods.Try(
    x, zeros, zeros, zeros, jax.random.split(KEY, len(x))
  )


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_start_and_queries_are_those_of_the_published_code(
  golden, norm, monkeypatch
):
  def of(name):
    return golden.get(f"{norm}_{name}")

  # The golden choices instead of random ones.
  choices = {}

  def corner(key, shape, side, reach_edges):
    del key, shape, side
    assert not reach_edges
    return choices["corners"].pop(0)

  monkeypatch.setattr(random_search, "_corner", corner)
  monkeypatch.setattr(
    random_search,
    "_signs",
    lambda _, shape, __: choices["signs"].reshape(shape),
  )
  monkeypatch.setattr(
    jax.random,
    "bernoulli",
    lambda _, shape=(): choices["turned"].reshape(shape),
  )
  method = random_search.method(
    norm=norm,
    num_queries=5000,
    share=float(golden["share"]),
    low=0.0,
    high=1.0,
    reach_edges=False,
  )
  epsilon = float(of("epsilon"))
  x = jnp.asarray(golden["x"])[None]

  @jax.jit
  def begin(signs, turned):
    choices.update(signs=signs, turned=turned)
    return method.start(tries(x), epsilon)

  @jax.jit
  def step(state, signs, turned, corners):
    choices.update(signs=signs, turned=turned, corners=list(corners))
    better = jnp.array([[[1.0, 0.0]]])
    return method.step(lambda *_: better, state, epsilon, None)

  def close(actual, expected):
    # Sums of D squares in float32 are off by a share of D * 2^-24 at most, and
    # no entry of a perturbation is larger than the radius.
    atol = epsilon * x.size * 2**-24
    np.testing.assert_allclose(actual.x_found[0], expected, rtol=0, atol=atol)

  state = begin(of("start_signs"), of("start_turned"))
  close(state, of("start"))
  for number, query in enumerate(golden["queries"]):
    state = state._replace(
      iteration=jnp.array([query]),
      x_found=jnp.asarray(of("before"))[number : number + 1],
    )
    turned = None if norm == "linf" else of("turned")[number]
    after = step(state, of("signs")[number], turned, of("corners")[number])
    close(after, of("after")[number])


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("size", [(4, 4), (6, 20), (28, 28), (3, 32)])
def test_window_sizes_follow_the_published_schedule(size, norm):
  height, width = size
  sides = square_windows.window_sizes(5000, height, width, norm=norm, share=0.8)
  share = 0.8
  for query in range(5000):
    if query in (11, 51, 201, 501, 1001, 2001, 4001):
      share /= 2
    side = round((share * height * width) ** 0.5)
    if norm == "l2":
      side = max(side, 3)
      side += side % 2 == 0
    assert sides[query] == min(max(side, 1), height, width)


@pytest.mark.parametrize("side", [2, 3, 5, 25])
def test_bump_has_unit_norm_and_two_signs(side):
  profile = square_windows.bump(side)
  assert np.sum(profile**2) == pytest.approx(1)
  assert np.all(profile[: side // 2] > 0)
  assert np.all(profile[side // 2 :] < 0)


def test_vectors_are_folded_to_the_squarest_image():
  assert square_windows.image_shape((5, 64)) == (8, 8, 1)
  assert square_windows.image_shape((5, 12)) == (3, 4, 1)
  assert square_windows.image_shape((5, 7)) == (1, 7, 1)
  assert square_windows.image_shape((5, 8, 9, 3)) == (8, 9, 3)


def test_l2_start_on_an_image_too_narrow_for_a_bump_is_the_image():
  x = jnp.full((2, 20, 3, 1), 0.5)
  method = random_search.method(
    norm="l2", num_queries=5, share=0.8, low=0.0, high=1.0, reach_edges=True
  )
  start = jax.jit(method.start)(tries(x), 0.1)
  np.testing.assert_array_equal(start.x_found, x)
