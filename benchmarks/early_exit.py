"""Time saved by dropping examples that PGD has broken.

    python -m benchmarks.parity_autoattack make FOLDER --case mnist-pgd
    python -m benchmarks.early_exit FOLDER --epsilon 0.2

The robust accuracy of the first test points under PGD with restarts, measured
in turns by `attacks.pgd` on whole batches, which runs every restart of every
example to its last step, and by `auto_attack(attacks=("pgd",))`, where an
example ends at its first misclassified iterate and the next one takes its
place. Both are compiled beforehand.
"""

import argparse
import pathlib

import jax
import numpy as np

from benchmarks import small_networks, timing
from robust_info import attacks


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("folder", type=pathlib.Path)
  parser.add_argument("--points", type=int, default=1000)
  parser.add_argument("--epsilon", type=float, default=0.1)
  parser.add_argument("--num_steps", type=int, default=20)
  parser.add_argument("--restarts", type=int, default=10)
  parser.add_argument("--batch_size", type=int, default=250)
  options = parser.parse_args()
  params, x, y = small_networks.load(options.folder / "case.npz")
  x, y = x[: options.points], y[: options.points]
  network = jax.tree_util.Partial(small_networks.apply, params)
  batch_size, num_steps = options.batch_size, options.num_steps
  threat = {"epsilon": options.epsilon, "num_steps": num_steps}
  left = {"whole": [], "early": []}

  # One restart at a time, so that the batch and its memory equal those of
  # `auto_attack`.
  @jax.jit
  def attack(network, x, y, key):
    return attacks.pgd(network, x, y, key, keep="worst", **threat).success

  def whole():
    broken = np.asarray(network(x)).argmax(axis=1) != y
    for restart in range(options.restarts):
      for begin in range(0, len(x), batch_size):
        rows = slice(begin, begin + batch_size)
        key = jax.random.fold_in(jax.random.key(restart), begin)
        broken[rows] |= np.asarray(attack(network, x[rows], y[rows], key))
    left["whole"].append(1 - broken.mean())

  def early():
    result = attacks.auto_attack(
      network,
      x,
      y,
      jax.random.key(0),
      attacks=("pgd",),
      restarts=options.restarts,
      batch_size=batch_size,
      **threat,
    )
    left["early"].append(result.robust_accuracy)

  pair = timing.paired(early, whole)
  for name, side in (("whole", pair.second), ("early", pair.first)):
    print(f"{name}: {side.median:.1f} s, {left[name][-1]:.2%} left")
  print(f"PGD-{num_steps}x{options.restarts}, {len(x)} points: {pair.ratio}")


if __name__ == "__main__":
  main()
