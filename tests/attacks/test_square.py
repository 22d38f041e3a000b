"""Square is the published attack, query by query, on channels-last images.

`golden_square.npz` holds queries of the published code with its random choices:
see `golden_square.py`. `test_rows.py` tests the properties that Square shares
with the other attacks.
"""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robust_info import attacks
from robust_info.attacks import _square, _square_windows, inputs

KEY = jax.random.key(0)
SUPPORT = pathlib.Path(__file__).parents[1] / "support"
GOLDEN = SUPPORT / "golden_square.npz"


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

  # Replay the golden choices instead of drawing random ones.
  choices = {}

  def corner(key, shape, side, reach_edges):
    del key, shape, side
    assert not reach_edges
    return choices["corners"].pop(0)

  monkeypatch.setattr(_square, "_corner", corner)
  monkeypatch.setattr(
    _square,
    "_signs",
    lambda _, shape, __: choices["signs"].reshape(shape),
  )
  monkeypatch.setattr(
    jax.random,
    "bernoulli",
    lambda _, shape=(): choices["turned"].reshape(shape),
  )
  method = _square.method(
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
  sides = _square_windows.window_sizes(
    5000, height, width, norm=norm, share=0.8
  )
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
  profile = _square_windows.bump(side)
  assert np.sum(profile**2) == pytest.approx(1)
  assert np.all(profile[: side // 2] > 0)
  assert np.all(profile[side // 2 :] < 0)


def test_vectors_are_folded_to_the_squarest_image():
  assert _square_windows.image_shape((5, 64)) == (8, 8, 1)
  assert _square_windows.image_shape((5, 12)) == (3, 4, 1)
  assert _square_windows.image_shape((5, 7)) == (1, 7, 1)
  assert _square_windows.image_shape((5, 8, 9, 3)) == (8, 9, 3)


def test_l2_start_on_an_image_too_narrow_for_a_bump_is_the_image():
  x = jnp.full((2, 20, 3, 1), 0.5)
  method = _square.method(
    norm="l2", num_queries=5, share=0.8, low=0.0, high=1.0, reach_edges=True
  )
  start = jax.jit(method.start)(tries(x), 0.1)
  np.testing.assert_array_equal(start.x_found, x)


CHANNELS_FIRST = [(2, 1, 8, 8), (2, 3, 8, 6), (2, 4, 5, 5), (2, 1, 6, 7, 8)]
CALLS = {
  "square": attacks.square,
  "auto_attack": attacks.auto_attack,
  "sanity_report": attacks.sanity_report,
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("shape", CHANNELS_FIRST)
def test_channels_first_images_are_refused_in_one_line(shape, name):
  with pytest.raises(ValueError, match="channels-last") as error:
    CALLS[name](
      lambda v: v.reshape(len(v), -1)[:, :3],
      np.zeros(shape, np.float32),
      np.zeros(2, np.int32),
      KEY,
      epsilon=0.1,
    )
  line = str(error.value)
  assert line.startswith("Expected x to be ")
  assert f"got shape={shape}" in line
  assert "jnp.moveaxis(x, 1, -1)" in line
  assert "\n" not in line


@pytest.mark.parametrize(
  "shape", [(2, 8), (2, 3, 9), (2, 8, 8, 1), (2, 3, 3, 3), (2, 16, 16, 200)]
)
def test_other_layouts_are_accepted(shape):
  inputs.channels_last("x", np.zeros(shape))


def test_attacks_without_windows_take_any_layout():
  result = attacks.auto_attack(
    lambda v: v.reshape(len(v), -1)[:, :2],
    # Not 0.5, because two logits that sum to 1 look like probabilities.
    np.full((2, 1, 6, 6), 0.6, np.float32),
    np.zeros(2, np.int32),
    KEY,
    epsilon=0.1,
    attacks=("pgd",),
    num_steps=2,
  )
  assert result.success.all()
