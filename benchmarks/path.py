"""The adaptive path lens over the forward passes that it makes.

    python -m benchmarks.path [--pairs=1024] [--max_nodes=256]

Pairs to rtol 1e-3 on the small CNN at MNIST shape (conv 16-32, 5x5, stride 2,
dense 100), random weights scaled so that predictions are confident. Timed in
turns with the same number of forward passes of the same batch, unrolled
(target: at most 2).
"""

import argparse

import jax
import jax.numpy as jnp

import robust_info as ri
from benchmarks import timing
from robust_info import models
from robust_info._xla import loops


def main():
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument("--pairs", type=int, default=1024)
  parser.add_argument("--max_nodes", type=int, default=256)
  options = parser.parse_args()
  num_pairs = options.pairs
  print(f"jax {jax.__version__}, {jax.default_backend()}")
  model = models.create("cnn", num_classes=10)
  variables = models.init(model, jax.random.key(0), (28, 28, 1))
  network = models.apply_fn(model)

  def apply(variables, x):
    return 20.0 * network(variables, x)

  x, x_other = jax.random.uniform(jax.random.key(1), (2, num_pairs, 28, 28, 1))

  @jax.jit
  def adaptive(variables, x, x_other):
    return ri.disentangle_path(
      lambda x: apply(variables, x),
      x,
      x_other,
      num_nodes=8,
      rtol=1e-3,
      max_nodes=options.max_nodes,
    )

  parts = adaptive(variables, x, x_other)
  nodes = int(parts.nodes.max())
  met = float(jnp.mean(parts.error <= 1e-3 * parts.non_robust))

  @jax.jit
  def forward(variables, x, x_other):
    def step(total, t):
      return total, apply(variables, (1 - t) * x + t * x_other)

    fractions = jnp.linspace(0.0, 1.0, nodes + 1)
    return loops.scan(
      step, None, fractions, length=nodes + 1, differentiable=True
    )[1]

  pair = timing.paired(
    lambda: forward(variables, x, x_other),
    lambda: adaptive(variables, x, x_other),
  )
  print(
    f"{num_pairs} pairs to rtol 1e-3: {pair.second.median:.2f} s, {nodes} "
    f"nodes at most, median {int(jnp.median(parts.nodes))}, tolerance met by "
    f"{met:.1%}; over {nodes + 1} forward passes: ratio {pair.ratio}"
  )


if __name__ == "__main__":
  main()
