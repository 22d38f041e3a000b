"""Statistics merged across devices equal those of one device."""

import os
import pathlib
import subprocess
import sys

SCRIPT = """
import jax, numpy as np
from jax.sharding import AxisType, PartitionSpec as P
import robust_info as ri

rng = np.random.default_rng(0)
labels = rng.integers(0, 3, 800)
logits = rng.normal(size=(800, 3)).astype(np.float32)
where = rng.random(800) < 0.9
mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))

def shard(logits, labels, where):
  stats = ri.information_stats(logits, labels, where=where)
  merged = ri.merge_across(stats, "data")
  return jax.tree.map(lambda leaf: leaf[None], merged)

merged = jax.jit(jax.shard_map(
  shard, mesh=mesh, in_specs=(P("data"),) * 3, out_specs=P("data")
))(logits, labels, where)
assert len(jax.devices()) == 8
for leaf in jax.tree.leaves(merged):
  leaf = np.asarray(leaf)
  assert (leaf == leaf[:1]).all(), "devices disagree"
one = ri.summarize(ri.information_stats(logits, labels, where=where))
all_ = ri.summarize(jax.tree.map(lambda leaf: leaf[0], merged))
jax.tree.map(
  lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-6), all_, one
)
print("agree")
"""


def test_eight_devices_agree_with_one():
  environment = dict(
    os.environ,
    JAX_PLATFORMS="cpu",
    XLA_FLAGS="--xla_force_host_platform_device_count=8",
  )
  result = subprocess.run(
    [sys.executable, "-c", SCRIPT],
    env=environment,
    cwd=pathlib.Path(__file__).parent.parent,
    capture_output=True,
    text=True,
  )
  assert result.stdout.strip() == "agree", result.stderr[-2000:]
