"""Speed of AutoAttack against pyautoattack on the same weights, in one run.

    python -m benchmarks.parity_autoattack make FOLDER --case mnist-pgd
    python -m benchmarks.autoattack FOLDER --points 200

Version "standard" on the first test points, in one batch size. Each attack is
timed separately, ours and theirs in turns, on the examples that the attacks
before it left standing on the respective side. Compilations are timed
separately and counted. Without torch and pyautoattack, only our side runs.
OMP_NUM_THREADS=1 may suit PyTorch best: its threads wait for each other by
spinning.
"""

import argparse
import importlib.util
import pathlib
import time

import jax
import numpy as np

from benchmarks import small_networks
from robust_info import attacks


class Compilations:
  """Counts compiled programs and their seconds since its creation."""

  def __init__(self):
    self.count, self.seconds = 0, 0.0
    jax.monitoring.register_event_duration_secs_listener(self._listen)

  def _listen(self, event, duration, **_):
    if event.endswith("backend_compile_duration"):
      self.count += 1
      self.seconds += duration


class Ours:
  """Attacks of this package on the examples that are robust so far."""

  def __init__(self, params, x, y, norm, epsilon, batch_size):
    self._logits_fn = jax.tree_util.Partial(small_networks.apply, params)
    self._data = x, y
    self._options = {
      "norm": norm,
      "epsilon": epsilon,
      "batch_size": batch_size,
    }

  def __call__(self, name: str, robust: np.ndarray) -> np.ndarray:
    """Returns a mask of the robust examples that survive the named attack."""
    result = attacks.auto_attack(
      self._logits_fn,
      *self._data,
      jax.random.key(0),
      attacks=(name,),
      where=robust,
      **self._options,
    )
    return robust & ~result.success


class Theirs:
  """The same by pyautoattack."""

  def __init__(self, params, x, y, norm, epsilon, batch_size):
    import pyautoattack

    self._module = small_networks.torch_module(params)
    self._data = small_networks.torch_data(x, y)
    self._batch_size = batch_size
    self._attack = pyautoattack.AutoAttack(
      self._module, norm=norm.capitalize(), eps=epsilon, seed=0
    )

  def __call__(self, name: str, robust: np.ndarray) -> np.ndarray:
    """Returns a mask of the robust examples that survive the named attack."""
    import torch

    rows = torch.from_numpy(np.flatnonzero(robust)).to(self._data[0].device)
    images, labels = (values[rows] for values in self._data)
    self._attack.attacks_to_run = [name]
    points, *_ = self._attack.run_standard_evaluation(
      images, labels, batch_size=self._batch_size
    )
    with torch.no_grad():
      correct = (self._module(points).argmax(1) == labels).cpu().numpy()
    robust = robust.copy()
    robust[np.flatnonzero(robust)] = correct
    return robust


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("folder", type=pathlib.Path)
  parser.add_argument("--points", type=int, default=200)
  parser.add_argument("--norm", choices=("linf", "l2"), default="linf")
  parser.add_argument("--epsilon", type=float, default=0.1)
  parser.add_argument("--batch_size", type=int, default=250)
  options = parser.parse_args()
  params, x, y = small_networks.load(options.folder / "case.npz")
  x, y = x[: options.points], y[: options.points]
  setting = (params, x, y, options.norm, options.epsilon, options.batch_size)
  compilations = Compilations()
  sides = {"ours": Ours(*setting)}
  if importlib.util.find_spec("pyautoattack"):
    sides["theirs"] = Theirs(*setting)
  clean = np.asarray(small_networks.apply(params, x)).argmax(axis=1) == y
  robust = dict.fromkeys(sides, clean)
  total = dict.fromkeys(sides, 0.0)
  compilations.count, compilations.seconds = 0, 0.0
  for name in attacks.VERSIONS["standard"]:
    line = [f"{name:8}"]
    for side, run in sides.items():
      compiled, begin = compilations.seconds, time.perf_counter()
      robust[side] = run(name, robust[side])
      compiled = compilations.seconds - compiled
      seconds = time.perf_counter() - begin - compiled
      total[side] += seconds
      line.append(f"{side} {seconds:.1f} s, {robust[side].mean():.2%} left")
    print("; ".join(line), flush=True)
  print(
    f"ours: {total['ours']:.1f} s and {compilations.seconds:.1f} s for "
    f"{compilations.count} compilations"
  )
  if "theirs" in sides:
    warm = total["ours"] / total["theirs"]
    cold = (total["ours"] + compilations.seconds) / total["theirs"]
    print(f"theirs: {total['theirs']:.1f} s")
    print(f"ours over theirs: {warm:.2f}, with compilation {cold:.2f}")


if __name__ == "__main__":
  main()
