"""On several devices: `jax.shard_map`, and meshes of explicit axes."""

import os
import pathlib
import subprocess
import sys

SCRIPT = """
import sys
sys.path.append("tests/support")
import short_process
short_process.collect_no_garbage()
import jax, numpy as np
from jax.sharding import AxisType, PartitionSpec as P
import robust_info as ri
from robust_info.information import stats as stats_lib

rng = np.random.default_rng(0)
labels = rng.integers(0, 3, 800)
logits = rng.normal(size=(800, 3)).astype(np.float32)
where = rng.random(800) < 0.9
mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))

# More rows on a device than a block has.
stats_lib._MIN_BLOCK = stats_lib._MAX_SMALL_BLOCK = 32

def on_devices(fn, *args, out=P("data")):
  specs = (P("data"),) * len(args)
  return jax.jit(
    jax.shard_map(fn, mesh=mesh, in_specs=specs, out_specs=out)
  )(*args)

def merged_stats(logits, labels, where):
  stats = ri.information_stats(logits, labels, where=where)
  return ri.merge_across(stats, "data")

merged = on_devices(merged_stats, logits, labels, where, out=P())
assert len(jax.devices()) == 8
for leaf in jax.tree.leaves(merged):
  shards = [np.asarray(shard.data) for shard in leaf.addressable_shards]
  assert all((s == shards[0]).all() for s in shards), "devices disagree"
summarize = jax.jit(ri.summarize)
one = summarize(jax.jit(ri.information_stats)(logits, labels, where=where))
all_ = summarize(jax.device_get(merged))
jax.tree.map(
  lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-6), all_, one
)

def network(x):
  return jax.numpy.tanh(x @ rng_weights[0]) @ rng_weights[1]

rng_weights = [
  np.random.default_rng(k).normal(size=shape).astype(np.float32)
  for k, shape in enumerate([(6, 5), (5, 4)])
]
x = rng.uniform(size=(16, 6)).astype(np.float32)
y = np.arange(16) % 4
lanczos = {"method": "matrix_free", "num_steps": 3, "num_probes": 2}
key = jax.random.key(0)
for fn, args in (
  (lambda x: ri.fisher_norms(network, x, num_eigenvectors=2, **lanczos), (x,)),
  (lambda x: ri.coarse_fisher_norms(network, x, max_classes=2), (x,)),
  (lambda z, y: ri.fit_temperature(z, y)[None], (logits, labels)),
  # Doubled once: the first level is the estimate before any comparison.
  (lambda x: ri.disentangle_path(
    network, x, x / 2, num_nodes=3, max_nodes=6, rtol=0.1), (x,)),
  (lambda x, y: ri.attacks.pgd(
    network, x, y, key, epsilon=0.1, num_steps=2, keep="worst"), (x, y)),
):
  # Types alone tell: a carry that differs by device must do so from the start.
  jax.eval_shape(lambda *args: on_devices(fn, *args), *args)

import explicit_axes
explicit_axes.check()
print("agree")
"""


def test_eight_devices_agree_with_one():
  environment = dict(
    os.environ,
    JAX_PLATFORMS="cpu",
    XLA_FLAGS=f"{os.environ['XLA_FLAGS']} "
    "--xla_force_host_platform_device_count=8",
  )
  result = subprocess.run(
    [sys.executable, "-c", SCRIPT],
    env=environment,
    cwd=pathlib.Path(__file__).parents[2],
    capture_output=True,
    text=True,
  )
  assert result.stdout.strip() == "agree", result.stderr[-2000:]
