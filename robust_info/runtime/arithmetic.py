"""Small programs and their correct results, for `self_check`.

Each program resembles a published fault of a compiler, a driver or a device:

* elementary functions at awkward lengths (jax-ml/jax#39352), single operations
one after another (#40633);
* fused broadcasts, products and sums over more than 2^15 elements (#39103);
* several outputs of one fused program (#39486), a scaled affine map (#39336);
* the Gram matrix of a small network, the input gradient of a convolution in a
  loop, random draws, and a few steps of training (#40633).
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from robust_info._xla import loops

# For any order of the sums, float32 results agree with float64 to this
# tolerance, relative to the largest entry; the faults are off by 1e-3 and more.
TOLERANCE = 1e-4

_matmul = functools.partial(jnp.matmul, precision="highest")


@dataclasses.dataclass(frozen=True)
class Comparison:
  """A result of the device and the correct one."""

  what: str
  found: Any
  expected: np.ndarray


def _jitted(
  what: str, fn: Callable[..., Any], expected: Any, *arguments: np.ndarray
) -> Iterator[Comparison]:
  """Every output of `fn`, compiled as one program."""
  found = jax.jit(fn)(*(jnp.asarray(a, jnp.float32) for a in arguments))
  pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
  for result, right in pairs:
    yield Comparison(f"{what}, jitted", result, right)


def _single_operations() -> Iterator[Comparison]:
  x = np.linspace(-4.0, 4.0, 203, dtype=np.float32)
  for _ in range(2):  # A stale buffer shows only after other operations.
    root = jnp.sqrt(jnp.float32(512))
    yield Comparison("sqrt(512)", root, np.sqrt(512.0))
    yield Comparison("ones(4) + 1", jnp.ones(4) + 1, np.full(4, 2.0))
    yield Comparison("exp", jnp.exp(x), np.exp(x.astype(np.float64)))


def _elementary_functions() -> Iterator[Comparison]:
  x = np.linspace(0.01, 4.0, 203, dtype=np.float32)
  names = ("sqrt", "exp", "log", "tanh", "arctan")
  expected = [getattr(np, name)(x.astype(np.float64)) for name in names]

  def values(x):
    return [getattr(jnp, name)(x) for name in names]

  yield from _jitted("an elementary function", values, expected, x)


def _long_sums() -> Iterator[Comparison]:
  """Jitted, and the first two as single operations."""
  rng = np.random.default_rng(0)
  logits = rng.normal(size=(4099, 10)).astype(np.float32)
  wide = logits.astype(np.float64)
  log_p = wide - np.log(np.sum(np.exp(wide), axis=1, keepdims=True))

  def sums(z):
    return jax.nn.log_softmax(z), jnp.sum(z, axis=0), jnp.sum(z * z)

  expected = (log_p, wide.sum(axis=0), np.sum(wide**2))
  yield from _jitted("a sum over 40,990 numbers", sums, expected, logits)
  z = jnp.asarray(logits)
  yield Comparison("log_softmax", jax.nn.log_softmax(z), log_p)
  yield Comparison("a sum of columns", jnp.sum(z, axis=0), wide.sum(axis=0))

  def centred(z):
    return z - jnp.sum(z[:1] * z, axis=-1, keepdims=True)

  yield from _jitted(
    "a broadcast, a product and a sum in one",
    centred,
    wide - np.sum(wide[:1] * wide, axis=-1, keepdims=True),
    logits,
  )


def _many_products() -> Iterator[Comparison]:
  rows = np.arange(32_769)[:, None] % 1024 * np.array([1.0, 0.0, 0.0])
  square = jax.vmap(lambda matrix, row: jnp.sum((matrix @ row) ** 2), (None, 0))
  expected = np.sum(rows**2, axis=1)
  yield from _jitted(
    "a product and a sum in one", square, expected, np.eye(3), rows
  )


def _fused_outputs() -> Iterator[Comparison]:
  rng = np.random.default_rng(1)
  x = rng.normal(size=(100, 33)).astype(np.float32)
  weights = rng.normal(size=(32, 33)).astype(np.float32)
  bias = (100 * rng.normal(size=32)).astype(np.float32)

  def outputs(x, weights, bias):
    size = jnp.sqrt(jnp.mean(x * x, axis=1, keepdims=True))
    affine = jax.vmap(
      lambda row: 0.1 * (jnp.matmul(weights, row, precision="highest") + bias)
    )(x)
    return size, x / size, jnp.sum(jnp.abs(x), axis=1), affine

  wide = x.astype(np.float64)
  size = np.sqrt(np.mean(wide**2, axis=1, keepdims=True))
  affine = 0.1 * (wide @ weights.astype(np.float64).T + bias)
  expected = (size, wide / size, np.abs(wide).sum(axis=1), affine)
  yield from _jitted(
    "one of several fused outputs", outputs, expected, x, weights, bias
  )


def _gram() -> Iterator[Comparison]:
  """`A A^T` with the rows `sqrt(p_k) grad log p_k`, as in Fisher norms."""
  rng = np.random.default_rng(2)
  x = rng.normal(size=(3, 12))
  inner, outer = rng.normal(size=(12, 8)) / 3, rng.normal(size=(8, 5)) / 3

  def gram(x, inner, outer):
    def log_p(x):
      return jax.nn.log_softmax(_matmul(jnp.tanh(_matmul(x, inner)), outer))

    value, pullback = jax.vjp(log_p, x)
    one = jnp.broadcast_to(jnp.eye(5, dtype=x.dtype)[:, None], (5, 3, 5))
    rows = jnp.exp(value.T / 2)[:, :, None] * jax.vmap(pullback)(one)[0]
    return jnp.einsum("and,bnd->nab", rows, rows, precision="highest")

  hidden = np.tanh(x @ inner)
  z = hidden @ outer
  p = np.exp(z) / np.sum(np.exp(z), axis=1, keepdims=True)
  root = np.sqrt(p)
  factor = (
    np.einsum("na,ab->nab", root, np.eye(5)) - p[:, :, None] * root[:, None, :]
  )
  jacobian = np.einsum("dh,nh,hc->ncd", inner, 1 - hidden**2, outer)
  rows = np.einsum("nca,ncd->nad", factor, jacobian)
  expected = np.einsum("nad,nbd->nab", rows, rows)
  yield from _jitted(
    "a Gram matrix of gradients", gram, expected, x, inner, outer
  )

  def product(rows):
    return jnp.einsum("nad,nbd->nab", rows, rows, precision="highest")

  yield Comparison("a product", product(jnp.float32(rows)), expected)


def _convolution_in_a_loop() -> Iterator[Comparison]:
  """Three steps of gradient ascent on sum(tanh(w * x))."""
  rng = np.random.default_rng(3)
  x, w = rng.normal(size=(2, 6, 6, 2)), rng.normal(size=(3, 3, 2, 4)) / 4

  def ascend(x, w):
    def loss(x):
      out = jax.lax.conv_general_dilated(
        x,
        w,
        (1, 1),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision="highest",
      )
      return jnp.sum(jnp.tanh(out))

    def step(x, _):
      return x + 0.1 * jax.grad(loss)(x), None

    return loops.scan(step, x, None, length=3)[0]

  expected = x
  for _ in range(3):
    padded = np.pad(expected, ((0, 0), (1, 1), (1, 1), (0, 0)))
    places = [(i, j) for i in range(3) for j in range(3)]
    out = sum(padded[:, i : i + 6, j : j + 6] @ w[i, j] for i, j in places)
    slope = np.pad(1 - np.tanh(out) ** 2, ((0, 0), (1, 1), (1, 1), (0, 0)))
    expected = expected + 0.1 * sum(
      slope[:, 2 - i : 8 - i, 2 - j : 8 - j] @ w[i, j].T for i, j in places
    )
  yield from _jitted(
    "the gradient of a convolution in a loop", ascend, expected, x, w
  )


def _random_draws() -> Iterator[Comparison]:
  """Moments of normal draws, to six standard errors of 2^16 of them."""
  count = 2**16
  draws = np.asarray(
    jax.random.normal(jax.random.key(0), (count,), jnp.float32), np.float64
  )
  moments = [np.mean(draws**power) for power in (1, 2, 3, 4)]
  errors = np.sqrt(np.array([1.0, 2.0, 15.0, 96.0]) / count)
  off = (np.array(moments) - [0.0, 1.0, 0.0, 3.0]) / (6 * errors)
  yield Comparison(
    "a moment of random draws, in six standard errors, in millions",
    np.append(off * TOLERANCE, 1.0),
    np.append(np.zeros(4), 1.0),
  )


def _training() -> Iterator[Comparison]:
  """Losses of four steps of gradient descent on a small network."""
  rng = np.random.default_rng(4)
  x, y = rng.normal(size=(64, 16)), rng.normal(size=(64, 4))
  weights = (rng.normal(size=(16, 32)) / 4, rng.normal(size=(32, 4)) / 6)

  def loss_fn(weights, x, y):
    out = _matmul(jnp.tanh(_matmul(x, weights[0])), weights[1])
    return jnp.mean(jnp.square(out - y))

  @jax.jit
  def step(weights, x, y):
    loss, gradient = jax.value_and_grad(loss_fn)(weights, x, y)
    return jax.tree.map(lambda w, g: w - 0.5 * g, weights, gradient), loss

  found, state = [], jax.tree.map(jnp.float32, weights)
  for _ in range(4):
    state, loss = step(state, jnp.float32(x), jnp.float32(y))
    found.append(loss)
  expected, (inner, outer) = [], weights
  for _ in range(4):
    hidden = np.tanh(x @ inner)
    rest = hidden @ outer - y
    expected.append(np.mean(rest**2))
    slope = 2 * rest / rest.size
    to_inner = x.T @ ((slope @ outer.T) * (1 - hidden**2))
    inner, outer = inner - 0.5 * to_inner, outer - 0.5 * hidden.T @ slope
  yield Comparison(
    "the loss of a training step, jitted",
    np.array(jax.device_get(found)),
    np.array(expected),
  )


# Each yields its results on the default device and the correct ones.
PROGRAMS: tuple[Callable[[], Iterator[Comparison]], ...] = (
  _long_sums,
  _many_products,
  _elementary_functions,
  _random_draws,
  _training,
  _gram,
  _fused_outputs,
  _convolution_in_a_loop,
  _single_operations,
)
