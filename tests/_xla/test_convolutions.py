"""Convolutions are rewritten everywhere in a program, and nothing else is."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import robust_info as ri
from robust_info._xla import convolutions

AXES = ("NHWC", "HWIO", "NHWC")


def draw(*shape, seed=0):
  rng = np.random.default_rng(seed)
  return jnp.asarray(np.float32(rng.normal(size=shape)))


def network(x):
  """Two convolutions, strided and dilated, [N, 8, 8, 2] to [N, 3]."""
  convolve = jax.lax.conv_general_dilated
  hidden = convolve(x, draw(3, 3, 2, 4), (2, 2), "SAME", dimension_numbers=AXES)
  hidden = convolve(
    jax.nn.relu(hidden),
    draw(2, 2, 4, 5, seed=1),
    (1, 1),
    "VALID",
    rhs_dilation=(2, 2),
    dimension_numbers=AXES,
  )
  return jax.nn.relu(hidden).reshape(len(x), -1) @ draw(20, 3, seed=2)


def gradient(x):
  return jax.grad(lambda x: jnp.sum(jnp.sin(network(x))))(x)


def compiled(fn, *args):
  return jax.jit(fn).lower(*args).compile()


def forms(program):
  """The orders of axes of all convolutions in the compiled program."""
  return set(re.findall(r"dim_labels=([a-z0-9_>-]+)", program.as_text()))


def through_jit(x):
  return jax.jit(gradient)(x)


def step(x):
  return x + 0.01 * gradient(x)


def through_scan(x):
  return jax.lax.scan(lambda x, _: (step(x), x), x, None, length=3)


def through_while(x):
  return jax.lax.while_loop(
    lambda carry: carry[1] < 3,
    lambda carry: (step(carry[0]), carry[1] + 1),
    (x, 0),
  )


def through_cond(x):
  return jax.lax.cond(jnp.sum(x) > 0, gradient, lambda x: -gradient(x), x)


def through_checkpoint(x):
  loss = jax.checkpoint(lambda x: jnp.sum(jnp.sin(network(x))))
  return jax.grad(loss)(x)


def through_map(x):
  return jax.lax.map(lambda row: gradient(row[None])[0], x)


def through_custom_rules(x):
  @jax.custom_jvp
  def double(x):
    return 2 * gradient(x)

  double.defjvp(lambda primals, tangents: (double(*primals), tangents[0]))
  return double(x)


@pytest.mark.parametrize(
  "fn",
  [
    gradient,
    through_jit,
    through_scan,
    through_while,
    through_cond,
    through_checkpoint,
    through_map,
    through_custom_rules,
  ],
)
def test_loops_hold_only_fast_convolutions(fn):
  x = draw(3, 8, 8, 2, seed=3)

  def repeated(fn):
    return lambda x: jax.lax.map(fn, jnp.stack([x, -x]))

  rewritten, plain = (
    compiled(repeated(f), x) for f in (convolutions.canonical(fn), fn)
  )
  # Their sums round differently, and each step of a loop propagates that.
  rounding = 128 * jnp.finfo(x.dtype).eps
  jax.tree.map(
    lambda found, wanted: np.testing.assert_allclose(
      found, wanted, rtol=rounding, atol=rounding * np.abs(wanted).max()
    ),
    rewritten(x),
    plain(x),
  )
  if jax.default_backend() == "cpu":
    assert forms(rewritten) == {"b01f_01io->b01f"}
    assert "b01f_01oi->b01f" in forms(plain)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="rewritten on CPUs")
@pytest.mark.parametrize(
  "fn",
  [
    lambda x, y, key: (
      ri.attacks.pgd(network, x, y, key, epsilon=0.1, num_steps=3).x_adv
    ),
    lambda x, y, key: (
      ri.attacks.apgd(network, x, y, key, epsilon=0.1, num_steps=3).x_adv
    ),
    lambda x, y, key: ri.fisher_frobenius(network, x, batch_size=2),
    lambda x, y, key: (
      ri.fisher_norms(
        network,
        x,
        method="matrix_free",
        key=key,
        num_steps=2,
        num_probes=2,
      ).trace
    ),
  ],
)
def test_our_loops_are_fast(fn):
  x = jax.nn.sigmoid(draw(4, 8, 8, 2))
  y = jnp.arange(4) % 3
  program = compiled(fn, x, y, jax.random.key(0))
  assert forms(program) == {"b01f_01io->b01f"}


@pytest.mark.parametrize(
  ("axes", "images", "weights", "options"),
  [
    (("NCHW", "OIHW", "NCHW"), (2, 4, 6, 5), (8, 4, 3, 3), {}),
    (("HWNC", "OHWI", "CNHW"), (6, 5, 2, 4), (8, 3, 3, 4), {}),
    (("NHWC", "HWOI", "NHWC"), (2, 6, 5, 4), (3, 3, 8, 4), {}),
    (("NCH", "OIH", "NHC"), (2, 4, 6), (8, 4, 3), {}),
    (("NCDHW", "OIDHW", "NCDHW"), (2, 4, 3, 4, 5), (8, 4, 2, 2, 2), {}),
    (
      ("NCHW", "OIHW", "NCHW"),
      (2, 4, 6, 5),
      (8, 2, 3, 3),
      {"feature_group_count": 2},
    ),
    (
      ("NCHW", "OIHW", "NCHW"),
      (2, 4, 6, 5),
      (8, 4, 3, 3),
      {"batch_group_count": 2},
    ),
    (
      ("NCHW", "OIHW", "NCHW"),
      (2, 4, 6, 5),
      (8, 4, 3, 3),
      {"lhs_dilation": (2, 1), "rhs_dilation": (1, 2)},
    ),
  ],
)
def test_any_order_of_axes_gives_the_same(axes, images, weights, options):
  def convolve(x, w):
    rank = x.ndim - 2
    return jax.lax.conv_general_dilated(
      x, w, (1,) * rank, [(1, 2)] * rank, dimension_numbers=axes, **options
    )

  x, w = draw(*images), draw(*weights, seed=1)
  found, wanted = jax.jit(
    lambda x, w: (convolutions.canonical(convolve)(x, w), convolve(x, w))
  )(x, w)
  assert found.dtype == wanted.dtype
  np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_derivatives_stay():
  x, v = draw(2, 8, 8, 2), draw(2, 8, 8, 2, seed=1)
  rewritten = convolutions.canonical(gradient)
  for transform in (
    lambda fn: jax.jvp(fn, (x,), (v,))[1],
    lambda fn: jax.vjp(fn, x)[1](v)[0],
    lambda fn: jax.vmap(lambda row: fn(row[None]))(x),
  ):
    found, wanted = jax.jit(lambda t=transform: (t(rewritten), t(gradient)))()
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_pytrees_keys_and_what_is_closed_over_go_through():
  def outer(scale, x, key):
    def step(state, key):
      noise = jax.random.normal(key, state["x"].shape)
      return {"x": scale * gradient(state["x"]) + noise, "n": state["n"] + 1}

    return convolutions.canonical(step)({"x": x, "n": 1, "none": None}, key)

  x, key = draw(2, 8, 8, 2), jax.random.key(0)
  found = jax.jit(jax.value_and_grad(lambda s: outer(s, x, key)["x"].sum()))(
    2.0
  )
  noise = jax.random.normal(key, x.shape)
  terms = np.asarray(jax.jit(gradient)(x), np.float64)
  # The terms cancel: the rounding of their sum scales with the size of the
  # terms.
  rounding = 32 * np.finfo(np.float32).eps * np.abs(terms).sum()
  expected = 2 * terms.sum() + np.asarray(noise, np.float64).sum()
  np.testing.assert_allclose(found[0], expected, rtol=1e-6, atol=2 * rounding)
  np.testing.assert_allclose(found[1], terms.sum(), rtol=1e-6, atol=rounding)
  assert jax.jit(lambda x: outer(2.0, x, key))(x)["n"] == 2


def test_errors_of_the_function_are_its_own():
  def broken(x):
    raise ValueError("Expected something else.")

  with pytest.raises(ValueError, match=r"^Expected something else\."):
    convolutions.canonical(broken)(jnp.zeros(3))
