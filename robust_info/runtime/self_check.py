"""A self-test of the stack: device, driver, compiler and JAX release [ours].

Releases of a compiler, drivers and devices come and go, and some of them give
wrong numbers without a word. A list of such versions is always late, so the
arithmetic itself is tested: a few small programs, as single operations and
jitted, against NumPy in float64. Each resembles a public fault:

* elementary functions at awkward lengths (jax-ml/jax#39352), single operations
  after one another (#40633);
* fused broadcasts, products and sums over more than 2^15 elements (#39103);
* several outputs of one fused program (#39486), a scaled affine map (#39336);
* the Gram matrix of a small network, the input gradient of a convolution in a
  loop, random draws, and a few steps of training (#40633);
* sums over arrays of seven and eight axes, which crash (#39257, #40412): these
  run in a process of their own, on CPUs only.
"""

import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import platform
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np

from robust_info import _loops
from robust_info.runtime import environment

# A process that hangs is as bad as one that crashes.
_CRASH_SECONDS = 60
# float32 results agree with float64 to this relative to the largest entry,
# whatever the order of the sums; the faults are off by 1e-3 and more.
_TOLERANCE = 1e-4


class SelfCheckError(RuntimeError):
  """The device or its software computes wrong numbers, or crashes."""


@dataclasses.dataclass(frozen=True)
class _Comparison:
  """A result of the device and the right one."""

  what: str
  found: Any
  expected: np.ndarray


def self_check(*, use_cache: bool = True) -> None:
  """Refuses a device or a JAX release that computes wrong numbers [ours].

  Compares a few small programs, as single operations and jitted, on the default
  device with NumPy in float64, and on CPUs runs in a process of its own
  programs that are known to crash some releases. train.py and evaluate.py call
  it before they start.

  Args:
    use_cache: whether a check that passed before for this kind of device, these
      versions and these XLA flags counts; otherwise the programs always run.

  Raises:
    SelfCheckError: one line that names the program, the numbers, the versions
      and the device.

  Cost: about two seconds, or next to nothing when it passed before. The record
  of that lies in ROBUST_INFO_CACHE, else ~/.cache/robust_info; where neither
  can be written the programs run again.
  """
  stack = _stack()
  record = _record(stack)
  if use_cache and _passed(stack, record):
    return
  is_cpu = jax.default_backend() == "cpu"
  crash = _start_crash_probe() if is_cpu else None
  try:
    with jax.numpy_dtype_promotion("standard"), jax.debug_nans(False):
      for comparison in _comparisons():
        _require(comparison, stack)
  except BaseException:
    if crash is not None:
      crash.kill()
      crash.communicate()
    raise
  if crash is not None:
    _require_alive(crash, stack)
  _passed_here.add(json.dumps(stack, sort_keys=True))
  _keep(record, stack)


# Stacks that passed in this process.
_passed_here: set[str] = set()


def _stack() -> dict[str, str]:
  """Everything that the results of the programs may depend on."""
  device = jax.devices()[0]
  source = pathlib.Path(__file__).read_bytes()
  return {
    "device": f"{device.platform} {device.device_kind}",
    "processor": environment.processor(),
    "jax": jax.__version__,
    "jaxlib": jaxlib.__version__,
    "backend": str(device.client.platform_version),
    "numpy": np.__version__,
    "python": platform.python_version(),
    "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
    "x64": str(jax.config.jax_enable_x64),
    "programs": hashlib.sha256(source).hexdigest()[:16],
  }


def _record(stack: dict[str, str]) -> pathlib.Path:
  text = json.dumps(stack, sort_keys=True).encode()
  name = hashlib.sha256(text).hexdigest()[:16]
  return environment.cache_root() / "self_check" / f"{name}.json"


def _passed(stack: dict[str, str], record: pathlib.Path) -> bool:
  if json.dumps(stack, sort_keys=True) in _passed_here:
    return True
  try:
    return json.loads(record.read_text(encoding="utf-8")) == stack
  except (OSError, ValueError):
    return False


def _keep(record: pathlib.Path, stack: dict[str, str]) -> None:
  try:
    record.parent.mkdir(parents=True, exist_ok=True)
    draft = record.with_suffix(f".{os.getpid()}")
    draft.write_text(json.dumps(stack, sort_keys=True), encoding="utf-8")
    draft.replace(record)
  except OSError:
    pass  # The next process checks again.


def _refuse(problem: str, stack: dict[str, str]) -> NoReturn:
  raise SelfCheckError(
    f"The self-check of this device failed: {problem} (jax {stack['jax']}, "
    f"jaxlib {stack['jaxlib']} on {stack['device']}, XLA_FLAGS="
    f"{stack['XLA_FLAGS']!r}). Install another jax and jaxlib, or accept wrong "
    "numbers with --noself_check."
  )


def _require(comparison: _Comparison, stack: dict[str, str]) -> None:
  found = np.asarray(comparison.found, np.float64)
  expected = np.asarray(comparison.expected, np.float64)
  scale = max(float(np.max(np.abs(expected))), 1e-30)
  wrong = ~(np.abs(found - expected) <= _TOLERANCE * scale)
  if wrong.any():
    place = tuple(int(i) for i in np.argwhere(wrong)[0])
    _refuse(
      f"{comparison.what} gives {found[place]:.6g} where {expected[place]:.6g} "
      f"is right, in {int(wrong.sum())} of {wrong.size} places",
      stack,
    )


def _comparisons() -> Iterator[_Comparison]:
  for programs in (
    _single_operations,
    _elementary_functions,
    _long_sums,
    _fused_outputs,
    _gram,
    _convolution_in_a_loop,
    _random_draws,
    _training,
  ):
    yield from programs()


def _twice(
  what: str, fn: Callable[..., Any], expected: Any, *arguments: np.ndarray
) -> Iterator[_Comparison]:
  """`fn` as single operations and jitted."""
  arguments = tuple(jnp.asarray(a, jnp.float32) for a in arguments)
  leaves = jax.tree.leaves(expected)
  for how, call in (("", fn), (", jitted", jax.jit(fn))):
    for found, right in zip(
      jax.tree.leaves(call(*arguments)), leaves, strict=True
    ):
      yield _Comparison(f"{what}{how}", found, right)


def _single_operations() -> Iterator[_Comparison]:
  for _ in range(2):  # A stale buffer shows after other operations only.
    root = jnp.sqrt(jnp.float32(512))
    yield _Comparison("sqrt(512)", root, np.sqrt(512.0))
    yield _Comparison("ones(4) + 1", jnp.ones(4) + 1, np.full(4, 2.0))


def _elementary_functions() -> Iterator[_Comparison]:
  x = np.linspace(0.01, 4.0, 203, dtype=np.float32)
  names = ("sqrt", "exp", "log", "tanh", "arctan")
  expected = [getattr(np, name)(x.astype(np.float64)) for name in names]

  def values(x):
    return [getattr(jnp, name)(x) for name in names]

  yield from _twice("an elementary function", values, expected, x)


def _long_sums() -> Iterator[_Comparison]:
  rng = np.random.default_rng(0)
  logits = rng.normal(size=(4099, 10)).astype(np.float32)
  wide = logits.astype(np.float64)
  log_p = wide - np.log(np.sum(np.exp(wide), axis=1, keepdims=True))

  def sums(z):
    return jax.nn.log_softmax(z), jnp.sum(z, axis=0), jnp.sum(z * z)

  expected = (log_p, wide.sum(axis=0), np.sum(wide**2))
  yield from _twice("a sum over 40,990 numbers", sums, expected, logits)

  def centred(z):
    return z - jnp.sum(z[:1] * z, axis=-1, keepdims=True)

  yield _Comparison(
    "a broadcast, a product and a sum in one, jitted",
    jax.jit(centred)(jnp.asarray(logits)),
    wide - np.sum(wide[:1] * wide, axis=-1, keepdims=True),
  )
  rows = np.arange(32_769)[:, None] % 1024 * np.array([1.0, 0.0, 0.0])
  square = jax.vmap(lambda matrix, row: jnp.sum((matrix @ row) ** 2), (None, 0))
  expected = np.sum(rows**2, axis=1)
  found = jax.jit(square)(
    jnp.eye(3, dtype=jnp.float32), jnp.asarray(rows, jnp.float32)
  )
  yield _Comparison("a product and a sum in one, jitted", found, expected)


def _fused_outputs() -> Iterator[_Comparison]:
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
  found = jax.jit(outputs)(*map(jnp.asarray, (x, weights, bias)))
  for result, right in zip(found, expected, strict=True):
    yield _Comparison("one of several fused outputs, jitted", result, right)


def _gram() -> Iterator[_Comparison]:
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
  found = jax.jit(gram)(*map(jnp.float32, (x, inner, outer)))
  yield _Comparison("a Gram matrix of gradients, jitted", found, expected)

  def product(rows):
    return jnp.einsum("nad,nbd->nab", rows, rows, precision="highest")

  yield _Comparison("a product", product(jnp.float32(rows)), expected)


def _convolution_in_a_loop() -> Iterator[_Comparison]:
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

    return _loops.scan(step, x, None, length=3)[0]

  expected = x
  for _ in range(3):
    padded = np.pad(expected, ((0, 0), (1, 1), (1, 1), (0, 0)))
    places = [(i, j) for i in range(3) for j in range(3)]
    out = sum(padded[:, i : i + 6, j : j + 6] @ w[i, j] for i, j in places)
    slope = np.pad(1 - np.tanh(out) ** 2, ((0, 0), (1, 1), (1, 1), (0, 0)))
    expected = expected + 0.1 * sum(
      slope[:, 2 - i : 8 - i, 2 - j : 8 - j] @ w[i, j].T for i, j in places
    )
  found = jax.jit(ascend)(jnp.float32(x), jnp.float32(w))
  yield _Comparison(
    "the gradient of a convolution in a loop, jitted", found, expected
  )


def _random_draws() -> Iterator[_Comparison]:
  """Moments of normal draws, to six standard errors of 2^16 of them."""
  count = 2**16
  draws = np.asarray(
    jax.random.normal(jax.random.key(0), (count,), jnp.float32), np.float64
  )
  moments = [np.mean(draws**power) for power in (1, 2, 3, 4)]
  errors = np.sqrt(np.array([1.0, 2.0, 15.0, 96.0]) / count)
  off = (np.array(moments) - [0.0, 1.0, 0.0, 3.0]) / (6 * errors)
  yield _Comparison(
    "a moment of random draws, in six standard errors, in millions",
    np.append(off * _TOLERANCE, 1.0),
    np.append(np.zeros(4), 1.0),
  )


def _training() -> Iterator[_Comparison]:
  """Losses of four steps of gradient descent of a small network."""
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
  yield _Comparison(
    "the loss of a training step, jitted",
    np.array(jax.device_get(found)),
    np.array(expected),
  )


_matmul = functools.partial(jnp.matmul, precision="highest")

_CRASH_PROBE = """
import jax, jax.numpy as jnp
u = jnp.ones((3, 1, 2, 2, 8, 8, 8), jnp.float32)
jax.jit(lambda a, b: jnp.sum(a * b, axis=3))(u, u).block_until_ready()
a, b = jnp.ones((2, 4, 6)), jnp.ones((2, 4, 6, 3, 3, 3, 3, 3))
product = lambda a, b: jnp.log(jnp.sum(a[..., *[None] * 5] * b, axis=2))
jax.jit(product)(a, b).block_until_ready()
"""


def _start_crash_probe() -> subprocess.Popen[bytes] | None:
  """A process that dies where sums over seven and eight axes crash."""
  if not sys.executable:
    return None
  try:
    return subprocess.Popen(
      [sys.executable, "-c", _CRASH_PROBE],
      stdin=subprocess.DEVNULL,
      stdout=subprocess.DEVNULL,
      stderr=subprocess.PIPE,
      env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )
  except OSError:
    return None  # A system without processes to spare still computes.


def _require_alive(
  crash: subprocess.Popen[bytes], stack: dict[str, str]
) -> None:
  try:
    _, said = crash.communicate(timeout=_CRASH_SECONDS)
  except subprocess.TimeoutExpired:
    crash.kill()
    crash.communicate()
    _refuse(f"a sum over seven axes takes more than {_CRASH_SECONDS} s", stack)
  if crash.returncode < 0:
    name = signal.Signals(-crash.returncode).name
    _refuse(f"a sum over seven or eight axes ends its process by {name}", stack)
  if crash.returncode:
    last = said.decode(errors="replace").strip().splitlines()[-1:]
    _refuse(f"a sum over seven or eight axes fails: {''.join(last)}", stack)
