"""Derivatives along a direction of networks with rules of their own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import robust_info as ri
from robust_info._xla import tangents


@jax.custom_vjp
def own_tanh(x):
  return jnp.tanh(x)


own_tanh.defvjp(
  lambda x: (jnp.tanh(x), x), lambda x, g: (g * (1 - jnp.tanh(x) ** 2),)
)


@jax.custom_vjp
def hidden(x):
  return 2 * x


def _by_the_host(_, g):
  # As a compiled kernel: JAX cannot look inside.
  return (jax.pure_callback(lambda g: 2 * g, g, g, vmap_method="sequential"),)


hidden.defvjp(lambda x: (2 * x, None), _by_the_host)


def network(tanh, wrap=lambda f: f):
  rng = np.random.default_rng(0)
  a, b = (jnp.asarray(rng.normal(size=s), "f4") for s in ((12, 6), (6, 3)))
  return wrap(lambda x: tanh(x.reshape(len(x), -1) @ a) @ b)


@pytest.fixture(scope="module")
def x():
  return jax.random.normal(jax.random.key(0), (5, 2, 2, 3))


@pytest.fixture(scope="module")
def v():
  return jax.random.normal(jax.random.key(1), (5, 2, 2, 3))


def looped(fn):
  def loop(x):
    return jax.lax.scan(lambda s, _: (s + fn(x), None), 0 * fn(x), length=2)[0]

  return loop


@pytest.mark.parametrize("wrap", [jax.jit, jax.checkpoint, looped])
def test_are_those_of_the_same_function_without_a_rule(x, v, wrap):
  own, plain = (network(f, wrap) for f in (own_tanh, jnp.tanh))
  value, tangent = jax.jvp(plain, (x,), (v,))
  for found in (tangents.jvp(own, x, v), tangents.jvp(plain, x, v)):
    np.testing.assert_allclose(found[0], value, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found[1], tangent, rtol=1e-4, atol=1e-4)
  logits, push, pull = tangents.linearize(own, x)
  np.testing.assert_allclose(logits, value, rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(push(v), tangent, rtol=1e-4, atol=1e-4)
  [row] = pull(value)
  np.testing.assert_allclose(
    jnp.sum(row * v), jnp.sum(value * tangent), rtol=1e-4
  )


@pytest.mark.parametrize(
  "measure",
  [
    ri.fisher_vector_product,
    ri.fisher_quadratic,
    lambda f, x, v: ri.disentangle_local(f, x, x + v).non_robust,
    lambda f, x, v: jax.jit(
      jax.grad(lambda s: ri.fisher_quadratic(lambda x: s * f(x), x, v).sum())
    )(1.5),
  ],
  ids=["product", "quadratic", "local", "gradient"],
)
def test_metrics_are_those_of_the_same_network_without_a_rule(x, v, measure):
  own, plain = (measure(network(f), x, v) for f in (own_tanh, jnp.tanh))
  np.testing.assert_allclose(own, plain, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("measure", [tangents.jvp, ri.fisher_vector_product])
def test_a_rule_that_cannot_be_differentiated_is_one_line(x, v, measure):
  with pytest.raises(TypeError, match=r"got a jax\.custom_vjp .* use jax\.c"):
    measure(network(hidden), x, v)


def test_other_errors_stay_as_they_are(x, v):
  def wrong(x):
    raise TypeError("another")

  with pytest.raises(TypeError, match="another"):
    tangents.jvp(wrong, x, v)
