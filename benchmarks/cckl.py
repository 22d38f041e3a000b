"""Exact CCKL, I and L: against all pairs, and against reading the data.

    python -m benchmarks.cckl

* all pairs: 10,000 x 10 logits, the loop over rows of `KL(p_i||p_j)`, compiled
  (target: 100x).
* read: one sum over the same logits, the memory bandwidth of this machine
  (target: within 3x).
* streaming: 1e6 x 100 logits in chunks through one compiled merge; the planned
  memory does not depend on the number of chunks.
"""

import time

import jax
import jax.numpy as jnp

import robust_info as ri
from benchmarks import timing


def all_pairs(logits, labels):
  """The mean over all cross-category pairs, row by row."""

  def row(total, item):
    z, label = item
    kl = ri.kl_divergence(jnp.broadcast_to(z[None], logits.shape), logits)
    cross = labels != label
    return (
      total[0] + jnp.sum(jnp.where(cross, kl, 0.0)),
      total[1] + jnp.sum(cross),
    ), None

  start = (jnp.zeros(()), jnp.zeros((), jnp.int32))
  (total, count), _ = jax.lax.scan(row, start, (logits, labels))
  return total / count


def exact(logits, labels):
  summary = ri.summarize(ri.information_stats(logits, labels))
  return summary.cckl, summary.mutual_information, summary.lautum_information


def main():
  print(f"jax {jax.__version__}, {jax.default_backend()}")
  keys = jax.random.split(jax.random.key(0))
  logits = 3 * jax.random.normal(keys[0], (10_000, 10))
  labels = jax.random.randint(keys[1], (10_000,), 0, 10)
  ours, loop = jax.jit(exact), jax.jit(all_pairs)
  read = jax.jit(jnp.sum)

  fast = timing.warm(lambda: ours(logits, labels), runs=51)
  slow = timing.seconds(lambda: loop(logits, labels))
  slow = min(slow, timing.seconds(lambda: loop(logits, labels)))
  print(
    f"10,000 x 10: {fast.median * 1e3:.2f} ms, all pairs {slow:.1f} s, "
    f"ratio {slow / fast.median:.0f}",
    flush=True,
  )
  pair = timing.paired(
    lambda: read(logits), lambda: ours(logits, labels), runs=51
  )
  print(f"10,000 x 10, exact over one read: ratio {pair.ratio}", flush=True)

  @jax.jit
  def merge(stats, logits, labels):
    return stats + ri.information_stats(logits, labels)

  chunk = 3 * jax.random.normal(keys[0], (20_000, 100))
  chunk_labels = jax.random.randint(keys[1], (20_000,), 0, 100)
  stats = ri.InformationStats.identity(100)
  jax.block_until_ready(merge(stats, chunk, chunk_labels))
  begin = time.perf_counter()
  for _ in range(50):
    stats = merge(stats, chunk, chunk_labels)
  jax.block_until_ready(stats)
  elapsed = time.perf_counter() - begin
  planned = merge.lower(stats, chunk, chunk_labels).compile().memory_analysis()
  print(
    f"1e6 x 100 in 50 chunks: {elapsed:.2f} s, temporaries "
    f"{planned.temp_size_in_bytes / 2**20:.0f} MiB a chunk of "
    f"{chunk.nbytes / 2**20:.0f} MiB"
  )


if __name__ == "__main__":
  main()
