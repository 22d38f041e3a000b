import jax
import jax.numpy as jnp
import numpy as np

from robust_info.information import _compensated
from robust_info.information._compensated import Compensated


def exact(value):
  return np.asarray(value.high, np.float64) + np.asarray(value.low, np.float64)


def numbers(count=10_000):
  return np.random.default_rng(0).normal(size=(3, count)).astype(np.float32)


def test_product_quotient_and_sum_have_twice_the_digits_under_jit():
  a, b, c = numbers()
  wide = [x.astype(np.float64) for x in (a, b, c)]

  @jax.jit
  def compute(a, b, c):
    product = _compensated.product(a, b)
    return product, product.over(c), product.plus(Compensated.of(c))

  product, quotient, total = compute(a, b, c)
  np.testing.assert_allclose(exact(product), wide[0] * wide[1], rtol=1e-13)
  np.testing.assert_allclose(
    exact(quotient), wide[0] * wide[1] / wide[2], rtol=1e-12
  )
  np.testing.assert_allclose(
    exact(total), wide[0] * wide[1] + wide[2], rtol=1e-12, atol=1e-13
  )


def test_difference_of_close_numbers_keeps_its_digits():
  a, b, _ = numbers()
  left = Compensated(jnp.asarray(a), jnp.asarray(1e-9 * b, jnp.float32))
  right = Compensated(jnp.asarray(a), jnp.asarray(2e-9 * b, jnp.float32))
  np.testing.assert_allclose(
    right.minus(left).value, exact(right) - exact(left), rtol=1e-4, atol=1e-15
  )


def test_a_long_sum_keeps_its_digits():
  values = np.float32(0.1) * np.ones(100_000, np.float32)

  @jax.jit
  def accumulate(values):
    def add(total, value):
      return total.plus(Compensated.of(value)), None

    zero = Compensated.of(jnp.zeros((), values.dtype))
    return jax.lax.scan(add, zero, values)[0]

  np.testing.assert_allclose(
    exact(accumulate(values)), values.astype(np.float64).sum(), rtol=1e-12
  )


def test_infinities_are_sums_without_error():
  inf = Compensated.of(jnp.array(-jnp.inf))
  total = inf.plus(Compensated.of(jnp.array(1.0))).plus(inf)
  assert total.value == -jnp.inf
  assert total.over(jnp.array(3.0)).value == -jnp.inf
