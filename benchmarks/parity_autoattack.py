"""Parity with pyautoattack on the same weights, component by component.

    python -m benchmarks.parity_autoattack make FOLDER --case digits-mlp
    python -m benchmarks.parity_autoattack ours FOLDER --norm linf --epsilon 0.1
    python -m benchmarks.parity_autoattack theirs FOLDER --norm linf ...
    python -m benchmarks.parity_autoattack table FOLDER

`make` trains the network (optax); `ours` needs only robust_info; `theirs` runs
in an environment of its own with torch and pyautoattack; each writes a JSON
file into FOLDER and `table` prints them side by side in Markdown.
"""

import argparse
import json
import pathlib
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import small_networks

CASES = ("digits-mlp", "mnist-standard", "mnist-pgd")
COMPONENTS = ("apgd-ce", "apgd-dlr", "apgd-t", "fab", "fab-t", "square")
ENSEMBLE = "standard"


def _data(case: str):
  """Train and test images in [0, 1] with labels, and the kind of network."""
  if case == "digits-mlp":
    from sklearn import datasets

    digits = datasets.load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    x = (digits.images / 16).astype(np.float32)[order][..., None]
    y = digits.target[order].astype(np.int32)
    return x[:1400], y[:1400], x[1400:], y[1400:], "mlp"
  from robust_info import data

  source = data.load("mnist")
  return *_pixels(source.train), *_pixels(source.test), "cnn"


def _pixels(split):
  images = np.asarray(split.images).astype(np.float32) / 255
  return images, np.asarray(split.labels).astype(np.int32)


def make(folder: pathlib.Path, case: str, points: int, steps: int) -> None:
  """Trains a network and stores it with the first test points."""
  import optax

  from robust_info import attacks

  x, y, x_test, y_test, kind = _data(case)
  params = small_networks.init(kind, x.shape[1:], int(y.max()) + 1, seed=0)
  optimizer = optax.adam(1e-3)
  state = optimizer.init(params)

  @jax.jit
  def step(params, state, x, y, key, epsilon):
    if case == "mnist-pgd":
      logits_fn = jax.tree_util.Partial(small_networks.apply, params)
      x = attacks.pgd(logits_fn, x, y, key, epsilon=epsilon, num_steps=7).x_adv

    def loss(params):
      logits = small_networks.apply(params, x)
      return jnp.mean(attacks.losses.cross_entropy(logits, y))

    gradient = jax.grad(loss)(params)
    updates, state = optimizer.update(gradient, state)
    return optax.apply_updates(params, updates), state

  rng = np.random.default_rng(1)
  key = jax.random.key(0)
  for number in range(steps):
    rows = rng.integers(0, len(x), 128)
    epsilon = 0.1 * min(1, 2 * number / steps)
    key, step_key = jax.random.split(key)
    params, state = step(params, state, x[rows], y[rows], step_key, epsilon)
  folder.mkdir(parents=True, exist_ok=True)
  small_networks.save(
    folder / "case.npz", params, x_test[:points], y_test[:points]
  )
  (folder / "case.json").write_text(json.dumps({"case": case, "steps": steps}))


def ours(x, y, params, norm, epsilon, components, seed):
  """Robust accuracies and seconds with this package."""
  from robust_info import attacks

  logits_fn = jax.tree_util.Partial(small_networks.apply, params)

  def run(**options):
    begin = time.perf_counter()
    result = attacks.auto_attack(
      logits_fn,
      x,
      y,
      jax.random.key(seed),
      epsilon=epsilon,
      norm=norm,
      batch_size=250,
      **options,
    )
    return result, time.perf_counter() - begin

  rows = {}
  result, seconds = run()
  rows[ENSEMBLE] = {
    "accuracy": result.robust_accuracy,
    "steps": result.accuracies,
    "seconds": seconds,
  }
  for name in components:
    result, seconds = run(attacks=(name,))
    rows[name] = {"accuracy": result.robust_accuracy, "seconds": seconds}
  return rows


def theirs(x, y, params, norm, epsilon, components, seed):
  """The same with pyautoattack."""
  import pyautoattack
  import torch

  module = small_networks.torch_module(params)
  x = torch.from_numpy(np.moveaxis(np.asarray(x), -1, 1).copy())
  y = torch.from_numpy(np.asarray(y).astype(np.int64))

  def run(**options):
    attack = pyautoattack.AutoAttack(
      module, norm=norm.capitalize(), eps=epsilon, seed=seed, **options
    )
    if options["version"] == "custom":
      attack.apgd.n_restarts = 1
      attack.fab.n_restarts = 1
    begin = time.perf_counter()
    points, *_ = attack.run_standard_evaluation(x, y, batch_size=250)
    seconds = time.perf_counter() - begin
    with torch.no_grad():
      correct = module(points).argmax(1) == y
    return {"accuracy": float(correct.float().mean()), "seconds": seconds}

  rows = {ENSEMBLE: run(version="standard")}
  for name in components:
    rows[name] = run(version="custom", attacks=[name])
  return rows


def table(folder: pathlib.Path) -> str:
  """Markdown, one row an attack."""
  lines = []
  for path in sorted(folder.glob("ours-*.json")):
    mine = json.loads(path.read_text())
    other = folder / path.name.replace("ours", "theirs")
    if not other.exists():
      continue
    their = json.loads(other.read_text())
    lines += [
      f"### {mine['case']}, {mine['norm']} {mine['epsilon']}, "
      f"{mine['points']} points, clean {100 * mine['clean']:.2f} %",
      "",
      "| attack | ours % | pyautoattack % | difference | ours s | theirs s |",
      "|---|---|---|---|---|---|",
    ]
    for name, row in mine["rows"].items():
      if name not in their["rows"]:
        continue
      theirs_row = their["rows"][name]
      a, b = 100 * row["accuracy"], 100 * theirs_row["accuracy"]
      lines.append(
        f"| {name} | {a:.2f} | {b:.2f} | {a - b:+.2f} | "
        f"{row['seconds']:.1f} | {theirs_row['seconds']:.1f} |"
      )
    lines.append("")
  return "\n".join(lines)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("action", choices=("make", "ours", "theirs", "table"))
  parser.add_argument("folder", type=pathlib.Path)
  parser.add_argument("--case", choices=CASES, default=CASES[0])
  parser.add_argument("--points", type=int, default=1000)
  parser.add_argument("--steps", type=int, default=600)
  parser.add_argument("--norm", choices=("linf", "l2"), default="linf")
  parser.add_argument("--epsilon", type=float, default=0.1)
  parser.add_argument("--components", nargs="*", default=list(COMPONENTS))
  parser.add_argument("--seed", type=int, default=0)
  options = parser.parse_args()
  folder = options.folder
  if options.action == "make":
    make(folder, options.case, options.points, options.steps)
    return
  if options.action == "table":
    print(table(folder))
    return
  params, x, y = small_networks.load(folder / "case.npz")
  x, y = x[: options.points], y[: options.points]
  clean = np.argmax(small_networks.apply(params, x), axis=1) == y
  side = {"ours": ours, "theirs": theirs}[options.action]
  rows = side(
    x,
    y,
    params,
    options.norm,
    options.epsilon,
    options.components,
    options.seed,
  )
  report = {
    **json.loads((folder / "case.json").read_text()),
    "command": " ".join(sys.argv[1:]),
    "norm": options.norm,
    "epsilon": options.epsilon,
    "points": len(x),
    "seed": options.seed,
    "clean": float(clean.mean()),
    "rows": rows,
  }
  name = f"{options.action}-{options.norm}-{options.epsilon}.json"
  (folder / name).write_text(json.dumps(report, indent=1))
  print(json.dumps(rows, indent=1))


if __name__ == "__main__":
  main()
