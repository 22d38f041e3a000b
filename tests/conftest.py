"""Shared set-up: hostile numerics, little to compile, no accelerator.

With JAX_PLATFORMS=cuda,cpu the tests run on a GPU, see
docs/results/core_gpu.md.
"""

import atexit
import functools
import gc
import importlib.metadata
import os
import shutil
import tempfile

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Compilation takes most of the time of the tests: LLVM may optimise less, and
# jaxlib 0.10 has a simpler code generator that is twice as fast, and needs not
# split a program for several threads, which costs a quarter more (later
# versions may stop at an unknown flag). Flags from the environment come last
# and take precedence.
os.environ["XLA_FLAGS"] = " ".join(
  [
    "--xla_backend_optimization_level=0",
    *[
      "--xla_cpu_use_fusion_emitters=false",
      "--xla_cpu_parallel_codegen_split_count=1",
    ]
    * importlib.metadata.version("jaxlib").startswith("0.10."),
    os.environ.get("XLA_FLAGS", ""),
  ]
).strip()
# Silence XLA, which logs a line for every program found in the cache. JAX sets
# this, too, when a plugin of pytest imports it first.
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
# Tracing and lowering are faster without source locations.
os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")
# Idle threads of NumPy's BLAS would take the cores of other test processes.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import hypothesis
import jax
import jax.numpy as jnp
import pytest

from robust_info._xla import loops
from robust_info.runtime import sharding

# Garbage collections while the tests are imported take seconds for nothing.
gc.disable()
jax.config.update("jax_numpy_rank_promotion", "raise")
# Equal programs are compiled once per process, for all tests of some rooms: see
# `kept_programs`. Each process has its own folder, because JAX writes there
# without a lock.
_programs = tempfile.mkdtemp(prefix="programs-")
atexit.register(shutil.rmtree, _programs, ignore_errors=True)
jax.config.update("jax_compilation_cache_dir", _programs)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
# Loops are rolled as on GPU and TPU; test_loops.py compares with the unrolled
# form.
loops.MAX_UNROLL_ON_CPU = 1

# CI judges every change by the same examples; other runs draw new ones.
hypothesis.settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
  hypothesis.settings.load_profile("ci")


def pytest_collection_finish():
  """Leaves all imported modules out of the garbage collections to come."""
  gc.freeze()
  # Traced programs are many objects and little garbage.
  gc.set_threshold(100_000, 50, 50)
  gc.enable()


@pytest.fixture(autouse=True, scope="module")
def old_garbage():
  """Leaves the objects of earlier files out of the collections to come.

  Some libraries collect garbage in ordinary calls (statsmodels, for one), which
  would take seconds late in a process that has traced hundreds of programs.
  """
  gc.freeze()


@pytest.fixture(autouse=True, scope="module")
def kept_programs(request):
  """Keeps compiled programs where other tests have equal ones.

  Keeping a program takes a tenth of the time of its compilation, or longer if
  that takes less than 0.1 s; elsewhere too few tests would read it.
  """
  rooms = {"end_to_end", "evaluation", "report", "study", "training"}
  shared = request.path.parent.name in rooms
  jax.config.update(
    "jax_persistent_cache_min_compile_time_secs", 0.1 if shared else 3600.0
  )


@pytest.fixture
def x64():
  """Runs a test with 64-bit types enabled."""
  with jax.enable_x64(True):
    yield


@pytest.fixture
def on_cpu():
  """Skips a test of what the package does on CPUs only."""
  if jax.default_backend() != "cpu":
    pytest.skip("this is for CPUs")


@pytest.fixture
def one_device(monkeypatch):
  """Computes on one device of several, for batches that they do not divide."""
  mesh = jax.sharding.Mesh(jax.devices()[:1], (sharding.AXIS,))
  monkeypatch.setattr(sharding, "mesh", lambda: mesh)
  monkeypatch.setattr(jax, "device_count", lambda: 1)


@pytest.fixture(autouse=True)
def without_float16(request):
  """Skips a test of float16 where XLA has no code to convert it."""
  case = getattr(request.node, "callspec", None)
  asked = case.params.values() if case else ()
  if (
    any(
      v is jnp.float16 or (isinstance(v, str) and v == "float16") for v in asked
    )
    and not _has_float16()
  ):
    pytest.skip("XLA cannot convert float16 on this processor (no F16C)")


@functools.cache
def _has_float16():
  try:
    jnp.ones(2, jnp.float16).astype(jnp.float32).block_until_ready()
  except jax.errors.JaxRuntimeError:
    return False
  return True
