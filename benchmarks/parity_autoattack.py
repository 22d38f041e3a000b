"""Parity with other implementations on the same weights, attack by attack.

    python -m benchmarks.parity_autoattack make FOLDER --case digits-mlp
    python -m benchmarks.parity_autoattack ours FOLDER --norm linf --epsilon 0.1
    python -m benchmarks.parity_autoattack theirs FOLDER --norm linf ...
    python -m benchmarks.parity_autoattack art FOLDER --norm linf ...
    python -m benchmarks.parity_autoattack table FOLDER

`make` trains the network (optax); `ours` needs only robust_info; `theirs` runs
in an environment with torch and pyautoattack, `art` in one with torch and the
Adversarial Robustness Toolbox. Each writes one JSON file per seed into FOLDER,
after every attack, so that the same command resumes a killed one; `table`
prints all of them side by side in Markdown.

The row "rand" attacks the same network with Gaussian noise on its inputs. The
two sides define a broken point by different rules (the average of 20 draws
here, one draw there). The row therefore counts the points that each side
returned by one common rule: the average logits of 100 draws. For
"rand-averaged" both sides attack a network that averages 20 draws itself,
without further averaging: then the rules are equal.

Data other than the digits come from TFDS. "cifar10-jpeg" is CIFAR-10 encoded
again as JPEG of quality 75 (`cifar10_jpeg`, prepared in TFDS_DATA_DIR): colour
images, but not the benchmark of that name.
"""

import argparse
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import small_networks

CASES = ("digits-mlp", "mnist-standard", "mnist-pgd", "cifar10-jpeg")
VERSIONS = ("standard", "plus")
RANDOMISED = ("rand", "rand-averaged")
COMPONENTS = ("apgd-ce", "apgd-dlr", "apgd-t", "fab", "fab-t", "square")
ROWS = ("standard", *COMPONENTS)
BATCH = 250
# For the randomised network: standard deviation, and number of draws per
# prediction.
NOISE = 0.1
DRAWS = 100
EOT_SAMPLES = 20


def _data(case: str, points: int):
  """Train and test images in [0, 1] with labels, and the kind of network.

  All digits except `points` are for training.
  """
  if case == "digits-mlp":
    from sklearn import datasets

    digits = datasets.load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    x = (digits.images / 16).astype(np.float32)[order][..., None]
    y = digits.target[order].astype(np.int32)
    held = len(y) - points
    return x[:held], y[:held], x[held:], y[held:], "mlp"
  from robust_info import data

  source = data.load("cifar10_jpeg" if case == "cifar10-jpeg" else "mnist")
  return *_pixels(source.train), *_pixels(source.test), "cnn"


def _pixels(split):
  images = np.asarray(split.images).astype(np.float32) / 255
  return images, np.asarray(split.labels).astype(np.int32)


def make(folder: pathlib.Path, case: str, points: int, steps: int) -> None:
  """Trains a network and stores it with the first test points."""
  import optax

  from robust_info import attacks

  x, y, x_test, y_test, kind = _data(case, points)
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


def ours(x, y, params, norm, epsilon, seed, queries):
  """Function that gives the robust accuracy of an attack of this package."""
  from robust_info import attacks

  def noisy(params, x, key):
    noise = NOISE * jax.random.normal(key, x.shape, x.dtype)
    return small_networks.apply(params, x + noise)

  def averaged(params, x, key):
    keys = jax.random.split(key, EOT_SAMPLES)
    return jnp.mean(jax.vmap(lambda k: noisy(params, x, k))(keys), axis=0)

  def run(name):
    options = {"version": name} if name in VERSIONS else {"attacks": (name,)}
    network = small_networks.apply
    if name == "rand":
      options, network = {"version": name}, noisy
    elif name == "rand-averaged":
      options, network = {"version": "rand", "eot_samples": 1}, averaged
    logits_fn = jax.tree_util.Partial(network, params)
    result = attacks.auto_attack(
      logits_fn,
      x,
      y,
      jax.random.key(seed),
      epsilon=epsilon,
      norm=norm,
      batch_size=BATCH,
      num_queries=queries,
      **options,
    )
    if name not in RANDOMISED:
      return result.robust_accuracy
    draws = jax.random.split(jax.random.key(seed + 1), DRAWS)
    logits = sum(noisy(params, result.x_adv, key) for key in draws)
    return float(np.mean(np.argmax(logits, axis=1) == y))

  return run


def theirs(x, y, params, norm, epsilon, seed, queries):
  """The same with pyautoattack."""
  import pyautoattack
  import torch

  module = small_networks.torch_module(params)
  images, labels = small_networks.torch_data(x, y)

  def noisy(x):
    return module(x + NOISE * torch.randn_like(x))

  def averaged(x):
    return sum(noisy(x) for _ in range(EOT_SAMPLES)) / EOT_SAMPLES

  def run(name):
    options, network = {"version": name}, module
    if name in COMPONENTS:
      options = {"version": "custom", "attacks": [name]}
    elif name == "rand":
      network = noisy
    elif name == "rand-averaged":
      options = {"version": "custom", "attacks": ["apgd-ce", "apgd-dlr"]}
      network = averaged
    attack = pyautoattack.AutoAttack(
      network, norm=norm.capitalize(), eps=epsilon, seed=seed, **options
    )
    attack.square.n_queries = queries
    if options["version"] == "custom":
      attack.apgd.n_restarts = 1
      attack.fab.n_restarts = 1
    points, *_ = attack.run_standard_evaluation(
      images, labels, batch_size=BATCH
    )
    with torch.no_grad():
      if name in RANDOMISED:
        logits = sum(noisy(points) for _ in range(DRAWS))
      else:
        logits = module(points)
    correct = logits.argmax(1) == labels
    return float(correct.float().mean())

  return run


def art(x, y, params, norm, epsilon, seed, queries):
  """Auto-PGD of the Adversarial Robustness Toolbox; no other attacks."""
  del queries
  import torch
  from art.attacks import evasion
  from art.estimators import classification

  names = {
    "apgd-ce": "cross_entropy",
    "apgd-dlr": "difference_logits_ratio",
  }
  images, labels = (v.cpu().numpy() for v in small_networks.torch_data(x, y))
  classifier = classification.PyTorchClassifier(
    small_networks.torch_module(params),
    loss=torch.nn.CrossEntropyLoss(),
    input_shape=images.shape[1:],
    nb_classes=10,
    clip_values=(0.0, 1.0),
  )

  def run(name):
    np.random.seed(seed)  # The toolbox draws from this generator.
    attack = evasion.AutoProjectedGradientDescent(
      classifier,
      norm={"linf": np.inf, "l2": 2}[norm],
      eps=epsilon,
      eps_step=2 * epsilon,
      max_iter=100,
      nb_random_init=1,
      batch_size=BATCH,
      loss_type=names[name],
      verbose=False,
    )
    points = attack.generate(images, labels)
    predicted = classifier.predict(points, batch_size=BATCH).argmax(1)
    return float(np.mean(predicted == labels))

  return run


SIDES = {"ours": ours, "theirs": theirs, "art": art}


def table(folder: pathlib.Path) -> str:
  """Markdown: per threat model one row per attack, means over seeds."""
  reports = [
    json.loads(p.read_text()) for p in sorted(folder.glob("*-s*.json"))
  ]
  lines = []
  for norm, epsilon in sorted({(r["norm"], r["epsilon"]) for r in reports}):
    group = [r for r in reports if (r["norm"], r["epsilon"]) == (norm, epsilon)]
    lines += [
      f"### {group[0]['case']}, {norm} {epsilon}, {group[0]['points']} points, "
      f"clean {100 * group[0]['clean']:.2f} %",
      "",
      "| attack | ours % | pyautoattack % | difference | ART % |",
      "|---|---|---|---|---|",
    ]
    for name in (*VERSIONS, *COMPONENTS, *RANDOMISED):
      found = {
        side: [
          100 * r["rows"][name]
          for r in group
          if r["side"] == side and name in r["rows"]
        ]
        for side in SIDES
      }
      if not found["ours"]:
        continue
      difference = ""
      if found["theirs"]:
        difference = f"{np.mean(found['ours']) - np.mean(found['theirs']):+.2f}"
      cells = (
        _cell(found["ours"]),
        _cell(found["theirs"]),
        difference,
        _cell(found["art"]),
      )
      lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines.append("")
  return "\n".join(lines)


def _cell(values: list[float]) -> str:
  """A value, or the mean of several with their spread and number."""
  if len(values) < 2:
    return f"{values[0]:.2f}" if values else ""
  return (
    f"{np.mean(values):.2f} (sd {np.std(values, ddof=1):.2f}, {len(values)})"
  )


def attack(options: argparse.Namespace) -> None:
  """Runs the missing attacks of one side with one seed."""
  folder = options.folder
  params, x, y = small_networks.load(folder / "case.npz")
  x, y = x[: options.points], y[: options.points]
  clean = np.argmax(small_networks.apply(params, x), axis=1) == y
  threat = f"{options.norm}-{options.epsilon}"
  path = folder / f"{options.action}-{threat}-s{options.seed}.json"
  report = {
    **json.loads((folder / "case.json").read_text()),
    "side": options.action,
    "norm": options.norm,
    "epsilon": options.epsilon,
    "points": len(x),
    "queries": options.queries,
    "seed": options.seed,
    "clean": float(clean.mean()),
    "rows": {},
  }
  if path.exists():
    before = json.loads(path.read_text())
    report["rows"] = before["rows"]
    if before != report:
      raise SystemExit(f"{path} holds another evaluation: remove it.")
  run = SIDES[options.action](
    x,
    y,
    params,
    options.norm,
    options.epsilon,
    options.seed,
    options.queries,
  )
  for name in options.rows:
    if name in report["rows"]:
      continue
    report["rows"][name] = run(name)
    path.write_text(json.dumps(report, indent=1))
    print(f"{options.action} {threat} {name}: {report['rows'][name]:.4f}")


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("action", choices=("make", *SIDES, "table"))
  parser.add_argument("folder", type=pathlib.Path)
  parser.add_argument("--case", choices=CASES, default=CASES[0])
  parser.add_argument("--points", type=int, default=1000)
  parser.add_argument("--steps", type=int, default=600)
  parser.add_argument("--norm", choices=("linf", "l2"), default="linf")
  parser.add_argument("--epsilon", type=float, default=0.1)
  parser.add_argument("--rows", nargs="*", default=list(ROWS))
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--queries", type=int, default=5000, help="of Square")
  options = parser.parse_args()
  if options.action == "make":
    make(options.folder, options.case, options.points, options.steps)
  elif options.action == "table":
    print(table(options.folder))
  else:
    attack(options)


if __name__ == "__main__":
  main()
