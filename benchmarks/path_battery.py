"""Tests the error estimates of the adaptive path lens on many networks.

    python -m benchmarks.path_battery --rtol=1e-3 --max_nodes=256 --seed=0

Random networks of every kind; pairs of independent normal inputs, which are far
apart, and pairs at a hundredth of that distance. For each it prints how many
pairs met the tolerance by their own estimate; how many of those were off by
more than the tolerance and 1e-9 nats; and the worst of these errors, in
tolerances. The truth is that of 4,096 chord nodes in float64 (extrapolated
once). The same for the plain chord rule, doubled until its last step is within
the tolerance.
"""

import argparse
import itertools

import jax
import jax.numpy as jnp
import numpy as np

import robust_info as ri
from robust_info.lenses import _path_rule

SIZE, CLASSES = 16, 10
ROUNDING = 1e-9  # nats, of float32
REFERENCE_NODES = 4096


def dense(activation, widths, scale, seed):
  """Logits of a network of these widths, He-normal weights, no biases."""
  rng = np.random.default_rng(seed)
  sizes = (SIZE, *widths, CLASSES)
  weights = [
    rng.normal(size=size) * np.sqrt(2 / size[0])
    for size in itertools.pairwise(sizes)
  ]

  def logits_fn(x):
    for weight in weights[:-1]:
      x = activation(x @ weight.astype(x.dtype))
    return scale * x @ weights[-1].astype(x.dtype)

  return logits_fn


def max_pool(scale, seed):
  """The largest of four linear units, 32 times, and a linear layer."""
  rng = np.random.default_rng(seed)
  first = rng.normal(size=(SIZE, 128)) / SIZE**0.5
  last = rng.normal(size=(32, CLASSES)) / 32**0.5

  def logits_fn(x):
    units = (x @ first.astype(x.dtype)).reshape(-1, 32, 4)
    return scale * jnp.max(units, axis=-1) @ last.astype(x.dtype)

  return logits_fn


def networks(seed):
  """The networks of the battery, by name."""
  first = 100 * seed
  return {
    "tanh": dense(jnp.tanh, (64, 64), 1.0, first + 1),
    "tanh, confident": dense(jnp.tanh, (64, 64), 10.0, first + 1),
    "softplus": dense(jax.nn.softplus, (64, 64), 3.0, first + 2),
    "GELU": dense(jax.nn.gelu, (64, 64), 3.0, first + 2),
    "ReLU": dense(jax.nn.relu, (64, 64), 1.0, first + 3),
    "ReLU, confident": dense(jax.nn.relu, (64, 64), 10.0, first + 3),
    "ReLU, saturated": dense(jax.nn.relu, (64, 64), 100.0, first + 3),
    "ReLU, 16 units": dense(jax.nn.relu, (8, 8), 3.0, first + 3),
    "ReLU, 512 units": dense(jax.nn.relu, (256, 256), 3.0, first + 9),
    "max-pool": max_pool(5.0, first + 8),
  }


def chords(logits_fn, x, x_other):
  """The chord sums of 4, 8, ... segments up to the reference's, float64."""
  with jax.enable_x64(True):
    x, x_other = (jnp.asarray(np.asarray(v, np.float64)) for v in (x, x_other))
    count = jax.jit(lambda logits: _path_rule.chord_sums([logits])[0])
    network = jax.jit(logits_fn)
    rows = [
      network((1 - t) * x + t * x_other)
      for t in np.arange(REFERENCE_NODES + 1) / REFERENCE_NODES
    ]
    logits = np.stack(rows)
    numbers = [4 * 2**k for k in range(11)]
    return {
      n: np.asarray(count(logits[:: REFERENCE_NODES // n])) for n in numbers
    }


def plain(sums, rtol, max_nodes):
  """The chord rule by its last step: its value, and whether it met `rtol`."""
  value = sums[4].copy()
  met = np.zeros(value.shape, bool)
  for n in (n for n in sums if 4 < n <= max_nodes):
    now = ~met & (np.abs(sums[n] - sums[n // 2]) <= rtol * sums[n])
    value[now] = sums[n][now]
    met |= now
  return value, met


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--rtol", type=float, default=1e-3)
  parser.add_argument("--max_nodes", type=int, default=256)
  parser.add_argument("--pairs", type=int, default=64)
  parser.add_argument("--seed", type=int, default=0)
  options = parser.parse_args()
  rtol, max_nodes = options.rtol, options.max_nodes
  print(f"jax {jax.__version__}, {jax.default_backend()}, {options}")
  print(
    "| network | pairs | met | further off | worst | chord rule: met | further "
    "off | worst |"
  )
  print("|" + "---|" * 8)
  rng = np.random.default_rng(options.seed)
  total = np.zeros((2, 3), int)
  for name, logits_fn in networks(options.seed).items():
    x, step = rng.normal(size=(2, options.pairs, SIZE)).astype(np.float32)
    for kind, length in (("far", 1.0), ("near", 0.01)):
      x_other = x + np.float32(length) * (step - x)
      adaptive = jax.jit(
        lambda x, x_other, logits_fn=logits_fn: ri.disentangle_path(
          logits_fn, x, x_other, num_nodes=8, rtol=rtol, max_nodes=max_nodes
        )
      )
      parts = jax.tree.map(np.asarray, adaptive(x, x_other))
      sums = chords(logits_fn, x, x_other)
      truth = 2 * sums[REFERENCE_NODES] - sums[REFERENCE_NODES // 2]
      ours = parts.non_robust, parts.error <= rtol * parts.non_robust
      cells = [f"{name}, {kind}", str(options.pairs)]
      rivals = (ours, plain(sums, rtol, max_nodes))
      for row, (value, met) in enumerate(rivals):
        allowed = rtol * truth + ROUNDING
        off = np.where(met, np.abs(value - truth) / allowed, 0.0)
        cells += [
          f"{met.mean():.0%}",
          str(int((off > 1).sum())),
          f"{off.max():.2f}",
        ]
        total[row] += (options.pairs, met.sum(), (off > 1).sum())
      print("| " + " | ".join(cells) + " |", flush=True)
  for row, rule in enumerate(("adaptive", "chord rule")):
    pairs, met, off = total[row]
    print(f"{rule}: {met} of {pairs} met {rtol:g}, {off} further off")


if __name__ == "__main__":
  main()
