"""Every public function under the strictest settings, for every platform."""

import functools
import inspect

import jax
import numpy as np
import public_calls
import pytest
from jax.experimental import checkify

import robust_info as ri

# HOST functions are driven from the host, so they are run instead of traced.
# SHARDED ones are for use inside `jax.shard_map`: see
# tests/information/test_stats_devices.py.
HOST = {"auto_attack", "sanity_report", "jackknife", "self_check"}
SHARDED = {"merge_across"}


@pytest.fixture(autouse=True)
def strict():
  with (
    jax.enable_x64(True),
    jax.numpy_dtype_promotion("strict"),
    jax.numpy_rank_promotion("raise"),
    jax.debug_nans(True),
  ):
    yield


def public_functions():
  for module in (ri, ri.attacks):
    for name in module.__all__:
      if inspect.isfunction(getattr(module, name)):
        yield name


def traced(name, dtype=np.float32):
  """Traces a function: types mix in tracing, so nothing need be compiled."""
  x, other = (public_calls.arrays()[k].astype(dtype) for k in ("x", "other"))
  return jax.jit(lambda x, other: public_calls.calls(x, other)[name]()).trace(
    x, other
  )


def test_every_public_function_is_called():
  found = set(traced_names()) | HOST | SHARDED
  assert set(public_functions()) == found


def traced_names():
  x = public_calls.arrays()["x"]
  return list(public_calls.calls(x, x))


@pytest.mark.parametrize("name", traced_names())
def test_dtypes_never_mix_and_gpus_and_tpus_have_a_program(name):
  assert traced(name).lower(lowering_platforms=("cuda", "tpu"))


def test_a_float32_network_takes_float64_inputs():
  with jax.numpy_dtype_promotion("standard"):
    norms = traced("coarse_fisher_norms", np.float64).out_info
  assert norms.trace_error.shape == (12,)


@pytest.mark.parametrize("name", ["coarse_fisher_norms", "disentangle_path"])
def test_no_rows_are_no_error(name):
  none = np.zeros((0, *public_calls.arrays()["x"].shape[1:]), np.float32)
  found = jax.eval_shape(
    lambda x: public_calls.calls(x, x)[name](), jax.numpy.asarray(none)
  )
  assert {leaf.shape for leaf in jax.tree.leaves(found)} == {(0,)}


def stats_without_a_class_in_one_group():
  logits = np.asarray(public_calls.network(public_calls.arrays()["x"]))
  labels = np.where(np.arange(12) % 3 == 0, 3, public_calls.LABELS % 3)
  return logits, labels.astype(np.int32)


def test_promised_nan_stops_nobody():
  logits, labels = stats_without_a_class_in_one_group()
  parts = jax.jit(ri.grouped_information_stats, static_argnames="num_groups")(
    logits, labels, public_calls.GROUPS, num_groups=3
  )
  found = ri.jackknife(parts, ri.summarize)
  assert np.isnan(found.deleted.cckl_matrix).any()
  total = np.ones(12, np.float32)
  matrices = ri.lens_matrices(
    ri.Components(total, total / 2, total / 2),
    labels,
    np.roll(labels, 1),
    found.estimate.cckl_matrix,
  )
  assert np.isnan(np.diag(matrices.non_robust)).all()


def two_points():
  rng = np.random.default_rng(0)
  x = rng.normal(size=(1, 4)).astype(np.float32)
  weights = rng.normal(size=(4, 3)).astype(np.float32)
  logits_fn = jax.tree_util.Partial(lambda w, x: 3 * jax.numpy.tanh(x @ w))
  return jax.tree_util.Partial(logits_fn, weights), x, x + np.float32(0.3)


@pytest.mark.parametrize(
  "options",
  [
    {"num_nodes": 1},
    {"num_nodes": 4, "method": "extrapolated"},
    {"num_nodes": 1, "max_nodes": 2, "rtol": 1e-2},
  ],
)
def test_nan_inside_a_path_stops_nobody(options):
  assert np.isfinite(ri.disentangle_path(*two_points(), **options).non_robust)


def test_no_nan_on_the_way_to_derivatives():
  logits_fn, x, other = two_points()

  def slope(x):
    norm = lambda x: ri.fisher_spectral_norm(logits_fn, x)[0]  # noqa: E731
    return jax.jvp(norm, (x,), (other,))[1]

  # A class that is impossible for both.
  first = np.array([[0.0, 1.0, -np.inf]], np.float32)
  gradient = jax.grad(lambda p: ri.kl_divergence(p, first)[0])

  # One program that looks at the results of all its operations.
  @jax.jit
  @functools.partial(checkify.checkify, errors=checkify.nan_checks)
  def derivatives(x, p):
    return jax.jvp(slope, (x,), (other,))[1], gradient(p)

  error, found = derivatives(x, first + np.float32([1, 0, 0]))
  error.throw()
  assert all(np.isfinite(values).all() for values in found)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:apgd-t, fab-t. 3 targets")
def test_an_ensemble_runs():
  arrays = public_calls.arrays()
  found = ri.attacks.auto_attack(
    public_calls.network,
    arrays["x"],
    public_calls.LABELS,
    jax.random.key(0),
    epsilon=0.1,
    num_steps=2,
    num_queries=3,
  )
  assert found.success.shape == (12,)


@pytest.mark.slow
def test_a_sanity_report_runs():
  arrays = public_calls.arrays()
  report = ri.attacks.sanity_report(
    public_calls.network,
    arrays["x"],
    public_calls.LABELS,
    jax.random.key(0),
    epsilon=0.1,
  )
  assert report.checks
