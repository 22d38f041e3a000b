"""A self-test of the stack: device, driver, compiler and JAX release [ours].

Some releases of compilers, drivers and devices compute wrong numbers without
any error. A list of such versions is never up to date, so the arithmetic itself
is tested: a few small programs (see `arithmetic`), as single operations and
jitted, against NumPy in float64. Sums over arrays of seven and eight axes,
which crash some releases (jax-ml/jax#39257, #40412), run in a process of their
own, on CPUs only.
"""

import hashlib
import json
import os
import pathlib
import platform
import signal
import subprocess
import sys
from typing import NoReturn

import jax
import jaxlib
import numpy as np

from robust_info.runtime import arithmetic, environment, files

# A process that hangs counts as one that crashes.
_CRASH_SECONDS = 60


class SelfCheckError(RuntimeError):
  """The device or its software computes wrong numbers, or crashes."""


def self_check(*, use_cache: bool = True) -> None:
  """Refuses a device or a JAX release that computes wrong numbers [ours].

  Compares a few small programs, as single operations and jitted, on the default
  device with NumPy in float64. On CPUs it also runs programs that are known to
  crash some releases, in a process of their own. train.py and evaluate.py call
  it before they start.

  Args:
    use_cache: whether to accept an earlier test that passed for this kind of
      device, these versions and these XLA flags; otherwise the programs always
      run.

  Raises:
    SelfCheckError: one line that names the program, the numbers, the versions
      and the device.

  Cost: three seconds on two idle cores, or almost nothing if it passed before.
  The record of passed tests is in ROBUST_INFO_CACHE, or else in
  ~/.cache/robust_info; if neither can be written, the programs run again.
  """
  stack = _stack()
  record = _record(stack)
  if use_cache and _passed(stack, record):
    return
  is_cpu = jax.default_backend() == "cpu"
  crash = _start_crash_probe() if is_cpu else None
  try:
    with jax.debug_nans(False):
      for programs in arithmetic.PROGRAMS:
        for comparison in programs():
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


# Stacks that passed the test in this process.
_passed_here: set[str] = set()


def _stack() -> dict[str, str]:
  """Versions and settings that the results of the programs may depend on."""
  device = jax.devices()[0]
  source = b"".join(
    pathlib.Path(file).read_bytes() for file in (__file__, arithmetic.__file__)
  )
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
    files.write_whole(record, json.dumps(stack, sort_keys=True))
  except OSError:
    pass  # The next process runs the test again.


def _refuse(problem: str, stack: dict[str, str]) -> NoReturn:
  raise SelfCheckError(
    f"The self-check of this device failed: {problem} (jax {stack['jax']}, "
    f"jaxlib {stack['jaxlib']} on {stack['device']}, XLA_FLAGS="
    f"{stack['XLA_FLAGS']!r}). Install another jax and jaxlib, or accept wrong "
    "numbers with --noself_check."
  )


def _require(comparison: arithmetic.Comparison, stack: dict[str, str]) -> None:
  found = np.asarray(comparison.found, np.float64)
  expected = np.asarray(comparison.expected, np.float64)
  scale = max(float(np.max(np.abs(expected))), 1e-30)
  wrong = ~(np.abs(found - expected) <= arithmetic.TOLERANCE * scale)
  if wrong.any():
    place = tuple(int(i) for i in np.argwhere(wrong)[0])
    _refuse(
      f"{comparison.what} gives {found[place]:.6g} where {expected[place]:.6g} "
      f"is right, in {int(wrong.sum())} of {wrong.size} places",
      stack,
    )


_CRASH_PROBE = """
import jax, jax.numpy as jnp
u = jnp.ones((3, 1, 2, 2, 8, 8, 8), jnp.float32)
jax.jit(lambda a, b: jnp.sum(a * b, axis=3))(u, u).block_until_ready()
a, b = jnp.ones((2, 4, 6)), jnp.ones((2, 4, 6, 3, 3, 3, 3, 3))
product = lambda a, b: jnp.log(jnp.sum(a[..., *[None] * 5] * b, axis=2))
jax.jit(product)(a, b).block_until_ready()
"""


def _start_crash_probe() -> subprocess.Popen[bytes] | None:
  """Starts a process that dies if sums over seven and eight axes crash."""
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
    return None  # The test is skipped if no process can be started.


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
