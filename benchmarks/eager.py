"""Public functions called eagerly, over the same call under `jax.jit`.

    python -m benchmarks.eager [--only=NAME,...] [--runs=N] [--examples=N]

The network is the small CNN at MNIST shape (conv 16-32, 5x5, stride 2, dense
100) in a `jax.tree_util.Partial`; weights are random. For each function: the
seconds of the first eager call, milliseconds of later ones with other weights,
milliseconds of the compiled call, in turns, and their ratio (target: 1.2).
"""

import argparse
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import robust_info as ri
from benchmarks import small_networks, timing

SHAPE, CLASSES, ROWS = (28, 28, 1), 10, 2000


def calls(examples: int) -> dict[str, Callable[[Any], Any]]:
  """Name -> call of a network, given the weights of the network."""
  rng = np.random.default_rng(0)
  x, other = jnp.asarray(rng.uniform(size=(2, examples, *SHAPE)), jnp.float32)
  y = jnp.asarray(rng.integers(0, CLASSES, examples), jnp.int32)
  key = jax.random.key(0)

  def on(function: Callable[..., Any], *args: Any, **options: Any):
    return lambda network, *args: function(network, *args, **options), args

  attacked = {"epsilon": 0.1}
  few = {"method": "matrix_free", "num_steps": 4, "num_probes": 4}
  return {
    "fisher_gram": on(ri.fisher_gram, x),
    "fisher_norms": on(ri.fisher_norms, x),
    "fisher_norms, in batches": on(ri.fisher_norms, x, batch_size=8),
    "fisher_norms, matrix-free": on(ri.fisher_norms, x, **few),
    "fisher_trace": on(ri.fisher_trace, x),
    "fisher_frobenius": on(ri.fisher_frobenius, x),
    "fisher_spectral_norm": on(ri.fisher_spectral_norm, x),
    "fisher_eigenvectors": on(ri.fisher_eigenvectors, x, k=2),
    "fisher_vector_product": on(ri.fisher_vector_product, x, other),
    "fisher_quadratic": on(ri.fisher_quadratic, x, other),
    "coarse_fisher_norms": on(ri.coarse_fisher_norms, x, max_classes=3),
    "disentangle_local": on(ri.disentangle_local, x, other),
    "disentangle_path": on(ri.disentangle_path, x, other),
    "disentangle_path, rtol": on(
      ri.disentangle_path, x, other, num_nodes=8, rtol=0.01, max_nodes=64
    ),
    "path_fisher_estimate": on(ri.path_fisher_estimate, x, other, key),
    "pgd": on(ri.attacks.pgd, x, y, key, **attacked),
    "fgsm": on(ri.attacks.fgsm, x, y, **attacked),
    "kl_pgd": on(ri.attacks.kl_pgd, x, key, **attacked),
    "fisher_pgd": on(ri.attacks.fisher_pgd, x, y, **attacked),
    "apgd": on(ri.attacks.apgd, x, y, key, num_steps=10, **attacked),
    "apgd_targeted": on(
      ri.attacks.apgd_targeted, x, y, key, num_steps=10, **attacked
    ),
    "fab": on(ri.attacks.fab, x, y, key, num_steps=5, **attacked),
    "fab_targeted": on(
      ri.attacks.fab_targeted, x, y, key, num_steps=5, **attacked
    ),
    "square": on(ri.attacks.square, x, y, key, num_queries=50, **attacked),
  }


def calls_of_arrays() -> dict[str, Any]:
  """Name -> call without a network, and its arguments."""
  rng = np.random.default_rng(0)
  z, other = jnp.asarray(rng.normal(size=(2, ROWS, CLASSES)), jnp.float32)
  y, groups = jnp.asarray(rng.integers(0, CLASSES, (2, ROWS)), jnp.int32)
  y_other = (y + 1) % CLASSES
  stats = ri.information_stats(z, y)
  total, part = jnp.abs(z[:, 0]), jnp.abs(z[:, 1])
  parts = ri.Components(total, part, total - part)
  exact = ri.cckl(z, y)
  matrix = ri.summarize(stats).cckl_matrix
  key = jax.random.key(0)
  grouped = ri.grouped_information_stats(z, y, groups, num_groups=CLASSES)
  deleted = jnp.linspace(1.0, 2.0, CLASSES)
  return {
    "entropy": (ri.entropy, (z,)),
    "kl_divergence": (ri.kl_divergence, (z, other)),
    "fisher_rao_distance": (ri.fisher_rao_distance, (z, other)),
    "information_stats": (ri.information_stats, (z, y)),
    "grouped_information_stats": (
      lambda *args: ri.grouped_information_stats(*args, num_groups=CLASSES),
      (z, y, groups),
    ),
    "merge_groups": (ri.merge_groups, (grouped,)),
    "summarize": (ri.summarize, (stats,)),
    "cckl": (ri.cckl, (z, y)),
    "label_information": (ri.label_information, (z, y)),
    "mutual_information": (ri.mutual_information, (z,)),
    "lautum_information": (ri.lautum_information, (z,)),
    "pointwise_information": (ri.pointwise_information, (z,)),
    "fit_temperature": (ri.fit_temperature, (z, y)),
    "sample_cross_pairs": (
      lambda *args: ri.sample_cross_pairs(*args, num_pairs=ROWS),
      (key, y),
    ),
    "pair_mean": (ri.pair_mean, (total, part, exact)),
    "lens_means": (ri.lens_means, (parts, exact)),
    "lens_errors": (ri.lens_errors, (parts, y, y_other, deleted)),
    "lens_matrices": (ri.lens_matrices, (parts, y, y_other, matrix)),
    "epsilon_lens": (ri.epsilon_lens, (stats, stats)),
  }


def networks() -> list[jax.tree_util.Partial]:
  """One architecture with two sets of weights."""
  return [
    jax.tree_util.Partial(
      small_networks.apply,
      jax.tree.map(
        jnp.asarray, small_networks.init("cnn", SHAPE, CLASSES, seed)
      ),
    )
    for seed in range(2)
  ]


def measure(name: str, function: Any, first: Any, later: Any, runs: int):
  """Prints the row of a function, whose arguments are `first`, then `later`."""
  seconds = timing.seconds(lambda: function(*first))
  program = jax.jit(function)
  pair = timing.paired(
    lambda: program(*later), lambda: function(*later), runs=runs
  )
  print(
    f"{name:28} {seconds:7.2f} s  {pair.second.median * 1e3:9.3f} ms  "
    f"{pair.first.median * 1e3:9.3f} ms  {pair.ratio}",
    flush=True,
  )


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument("--only", default="")
  parser.add_argument("--runs", type=int, default=21)
  parser.add_argument("--examples", type=int, default=32)
  options = parser.parse_args()
  wanted = set(filter(None, options.only.split(",")))
  print(f"jax {jax.__version__}, {jax.default_backend()}")
  print(f"{'':28} {'first':>9}  {'eager':>12}  {'compiled':>12}  ratio")
  one, two = networks()
  for name, (function, args) in calls(options.examples).items():
    if not wanted or name in wanted:
      measure(name, function, (one, *args), (two, *args), options.runs)
  for name, (function, args) in calls_of_arrays().items():
    if not wanted or name in wanted:
      measure(name, function, args, args, options.runs)


if __name__ == "__main__":
  main()
