"""Wrong arithmetic is found, and refused in one line."""

import json

import jax
import jax.numpy as jnp
import pytest

import robust_info as ri
from robust_info.runtime import arithmetic, self_check


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
  monkeypatch.setenv("ROBUST_INFO_CACHE", str(tmp_path))
  monkeypatch.setattr(self_check, "_passed_here", set())
  return tmp_path / "self_check"


@pytest.fixture
def no_programs(monkeypatch):
  """Replaces the programs, which take seconds to compile."""
  monkeypatch.setattr(arithmetic, "PROGRAMS", ())
  monkeypatch.setattr(self_check, "_CRASH_PROBE", "")


def test_this_stack_passes_and_is_known_then(cache, monkeypatch):
  ri.self_check()
  (record,) = cache.iterdir()
  assert json.loads(record.read_text())["jax"] == jax.__version__
  # Neither this process nor the next one runs the programs again.
  monkeypatch.setattr(arithmetic, "PROGRAMS", None)
  ri.self_check()
  monkeypatch.setattr(self_check, "_passed_here", set())
  ri.self_check()
  with pytest.raises(TypeError):
    ri.self_check(use_cache=False)


def _off_by_one_part_in_a_thousand(fn):
  return lambda *args, **kwargs: fn(*args, **kwargs) * 1.001


# Emulates operations that give 0 or junk (#40633); silent errors of elementary
# functions (#39352), of fused products and sums (#39103), of a matrix product
# (#39336) and of random draws; and NaN in training (#40633).
@pytest.mark.parametrize(
  ("programs", "module", "name", "fault"),
  [
    ("_single_operations", jnp, "sqrt", lambda x: 0 * x),
    ("_single_operations", jnp, "ones", lambda n: jnp.full(n, 512.0)),
    ("_elementary_functions", jnp, "arctan", lambda x: x),
    ("_long_sums", jnp, "sum", _off_by_one_part_in_a_thousand(jnp.sum)),
    ("_fused_outputs", jnp, "abs", lambda x: 1.001 * x),
    ("_gram", jnp, "einsum", _off_by_one_part_in_a_thousand(jnp.einsum)),
    ("_convolution_in_a_loop", jnp, "tanh", lambda x: 1.01 * x),
    ("_random_draws", jax.random, "normal", lambda k, s, d: jnp.ones(s, d)),
    ("_training", jnp, "square", lambda x: x * jnp.nan),
  ],
)
def test_wrong_numbers_are_refused_in_one_line(
  monkeypatch, programs, module, name, fault
):
  monkeypatch.setattr(arithmetic, "PROGRAMS", (getattr(arithmetic, programs),))
  monkeypatch.setattr(self_check, "_start_crash_probe", lambda: None)
  monkeypatch.setattr(module, name, fault)
  with pytest.raises(ri.SelfCheckError) as error:
    ri.self_check()
  monkeypatch.undo()
  assert "self-check of this device failed" in str(error.value)
  assert f"jaxlib {jax.lib.__version__}" in str(error.value)
  assert "\n" not in str(error.value)


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize(
  ("probe", "message"),
  [
    ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "by SIGSEGV"),
    ("import time; time.sleep(60)", "takes more than 1 s"),
    ("raise ValueError('no such axis')", "fails: ValueError: no such axis"),
  ],
)
def test_crashes_hangs_and_errors_of_the_probe_are_refused(
  no_programs, monkeypatch, cache, probe, message
):
  monkeypatch.setattr(self_check, "_CRASH_PROBE", probe)
  if "sleep" in probe:
    monkeypatch.setattr(self_check, "_CRASH_SECONDS", 1)
  with pytest.raises(ri.SelfCheckError, match=message):
    ri.self_check()
  assert not cache.exists()


def test_other_flags_and_damaged_records_run_the_programs_again(
  no_programs, monkeypatch, cache
):
  ri.self_check()
  (record,) = cache.iterdir()
  monkeypatch.setattr(self_check, "_passed_here", set())
  record.write_text("{")
  ri.self_check()
  assert json.loads(record.read_text())
  monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_max_isa=AVX2")
  ri.self_check()
  assert len(list(cache.iterdir())) == 2


def test_a_cache_that_cannot_be_written_does_not_matter(
  no_programs, monkeypatch, tmp_path
):
  (tmp_path / "file").write_text("")
  monkeypatch.setenv("ROBUST_INFO_CACHE", str(tmp_path / "file"))
  ri.self_check()


def test_strict_houses_are_checked_alike(monkeypatch):
  monkeypatch.setattr(self_check, "_start_crash_probe", lambda: None)
  with (
    jax.enable_x64(True),
    jax.numpy_dtype_promotion("strict"),
    jax.debug_nans(True),
  ):
    ri.self_check()
