"""Work and precision: the error of each estimator against its cost.

    python -m benchmarks.precision [--seed=0] [--output=docs]

MLPs with two hidden layers of 128, trained here on scikit-learn's 8x8 digits.
The cost is the number of network passes per example or pair: a forward pass, a
derivative along one direction and a pullback count 1 each. Most of the time
goes into compilation. Three measurements:

* Fisher norms of 64 test images, two digits side by side (100 classes, so that
  the exact route needs 100 passes): the matrix-free route by Lanczos steps and
  probes, and the coarse norms by the number of classes kept apart. The truth is
  the exact route. Median over images and keys of the relative error.
* Path rules on 64 pairs of digits: method and `num_nodes`. The truth is that
  of 4,096 chords in float64, extrapolated once. Median over pairs.
* The mean Fisher part of the path lens over all pairs of classes of 200 test
  digits, from samples of them, with and without control variates. The truth is
  the mean over every pair. Root mean square over 500 samples.

`--output` names the folder that gets images/precision.png and the tables of
results/precision.md, between its lines "tables: begin" and "tables: end".
"""

import argparse
import functools
import pathlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import robust_info as ri
from benchmarks import path_battery, small_networks
from robust_info.plots.drawing import style

FINE, COARSE = 64, 8  # Segments of the path lens and of its control variate.
COARSE_PER_PAIR = 16  # Pairs of the coarse lens per pair of the fine one.
SAMPLES = 500
KEYS = 4
POPULATION = 200
PAIRS = 64
TEST = 500


class Point(NamedTuple):
  """An estimator at one setting.

  Attributes:
    setting: the setting, in words.
    passes: its cost.
    error: its relative error.
    stated: the relative error that the estimator itself states.
  """

  setting: str
  passes: float
  error: float
  stated: float = float("nan")


Curves = dict[str, list[Point]]


def digits():
  """Images [N, 8, 8, 1] in [0, 1] and labels, in a fixed random order."""
  from sklearn import datasets

  found = datasets.load_digits()
  order = np.random.default_rng(0).permutation(len(found.target))
  images = (found.images / 16).astype(np.float32)[order][..., None]
  return images, found.target[order].astype(np.int32)


def side_by_side(images, labels, rng, count):
  """Pairs of digits as images [count, 8, 16, 1] of 100 classes."""
  left, right = rng.integers(0, len(labels), (2, count))
  pairs = np.concatenate([images[left], images[right]], axis=2)
  return pairs, 10 * labels[left] + labels[right]


def trained(draw, image, classes, *, steps, seed):
  """Weights of the MLP after Adam on the batches of `draw(rng)`."""
  import optax

  params = small_networks.init("mlp", image, classes, seed)
  optimizer = optax.adam(optax.cosine_decay_schedule(3e-3, steps))
  state = optimizer.init(params)

  @jax.jit
  def step(params, state, x, y):
    def loss(params):
      logits = small_networks.apply(params, x)
      return jnp.mean(ri.attacks.losses.cross_entropy(logits, y))

    updates, state = optimizer.update(jax.grad(loss)(params), state)
    return optax.apply_updates(params, updates), state

  rng = np.random.default_rng(seed)
  for _ in range(steps):
    params, state = step(params, state, *draw(rng))
  return jax.tree.map(jnp.asarray, params)


def network(params):
  return jax.tree_util.Partial(small_networks.apply, params)


def median(values, truth):
  """Median of the relative errors."""
  return float(np.median(np.abs(values / truth - 1)))


def fisher_norms(params, x, num_classes) -> Curves:
  """Errors of the matrix-free and the coarse norms."""
  logits_fn = network(params)
  exact = ri.fisher_norms(logits_fn, x, method="gram")
  norms = ("trace", "frobenius", "spectral_norm")
  free = {norm: [] for norm in norms}
  coarse = []
  for count in (1, 2, 4, 8, 16):
    found = [
      ri.fisher_norms(
        logits_fn,
        x,
        method="matrix_free",
        num_steps=count,
        num_probes=count,
        key=jax.random.key(number),
      )
      for number in range(KEYS)
    ]
    passes = 1 + 2 * (2 * count + 1)
    setting = f"{count} steps, {count} probes"
    for norm in norms:
      values = np.stack([getattr(f, norm) for f in found])
      stated = np.stack([getattr(f, f"{norm}_error") for f in found])
      truth = np.asarray(getattr(exact, norm))
      free[norm].append(
        Point(
          setting,
          passes,
          median(values, truth),
          float(np.median(stated / truth)),
        )
      )
    probes = 4
    below = ri.coarse_fisher_norms(
      logits_fn, x, max_classes=count, num_probes=probes
    )
    truth = np.asarray(exact.trace)
    coarse.append(
      Point(
        f"{count} classes, {probes} probes",
        1 + count + probes,
        median(np.asarray(below.trace), truth),
        float(np.median(below.trace_error / truth)),
      )
    )
  rounding = float(np.median(exact.trace_error / exact.trace))
  return {
    "trace": free["trace"],
    "Frobenius norm": free["frobenius"],
    "spectral norm": free["spectral_norm"],
    "trace, coarse": coarse,
    "exact route": [Point("", num_classes, 0.0, rounding)],
  }


def path_rules(params, x, x_other) -> Curves:
  """Errors of the rules of the path lens."""

  def in_dtype_of(v):
    return small_networks.apply(
      jax.tree.map(lambda w: w.astype(v.dtype), params), v
    )

  sums = path_battery.chords(in_dtype_of, x, x_other)
  last = path_battery.REFERENCE_NODES
  truth = 2 * sums[last] - sums[last // 2]
  logits_fn = network(params)

  def point(setting, passes, **options):
    parts = jax.tree.map(
      np.asarray, ri.disentangle_path(logits_fn, x, x_other, **options)
    )
    return Point(
      setting,
      # The most demanding pair decides.
      passes or int(parts.nodes.max()) + 1,
      median(parts.non_robust, truth),
      float(np.median(parts.error / truth)),
    )

  counts = (4, 8, 16, 32, 64, 128)
  curves = {
    method: [
      point(
        f"num_nodes={n}",
        2 * n + 1 if method == "jvp" else n + 1,
        method=method,
        num_nodes=n,
      )
      for n in counts
      if method != "extrapolated" or n >= 8
    ]
    for method in ("chord", "extrapolated", "jvp")
  }
  curves["to rtol"] = [
    point(f"rtol={rtol:g}", None, num_nodes=8, rtol=rtol, max_nodes=128)
    for rtol in (0.1, 0.03, 0.01)
  ]
  return curves


def lens_means(params, x, labels, key) -> Curves:
  """Errors of the mean of the path lens, by its control variates."""
  logits_fn = network(params)
  i, j = map(np.asarray, np.nonzero(labels[:, None] != labels[None]))

  def everywhere(**options):
    size = 4096
    rows = [slice(k, k + size) for k in range(0, len(i), size)]
    # Every call has the same shapes, and compiles once.
    parts = [
      ri.disentangle_path(
        logits_fn,
        x[np.resize(i[r], size)],
        x[np.resize(j[r], size)],
        **options,
      )
      for r in rows
    ]
    return jax.tree.map(lambda *v: np.concatenate(v)[: len(i)], *parts)

  fine = everywhere(num_nodes=FINE, method="extrapolated")
  coarse = everywhere(num_nodes=COARSE)
  cckl, truth = fine.total.mean(), fine.non_robust.mean()

  @functools.partial(jax.jit, static_argnames="count")
  def draws(fine, coarse, key, count):
    def draw(key):
      key_few, key_many = jax.random.split(key)
      few = jax.random.randint(key_few, (count,), 0, len(i))
      many = jax.random.randint(key_many, (COARSE_PER_PAIR * count,), 0, len(i))
      at_few, same = (jax.tree.map(lambda v: v[few], p) for p in (fine, coarse))
      more = ri.CoarseLens(jax.tree.map(lambda v: v[many], coarse), same)
      one = ri.lens_means(at_few, cckl).non_robust
      two = ri.lens_means(at_few, cckl, coarse=more).non_robust
      return {
        "no control": (one.plain_mean, one.plain_standard_error),
        "CCKL": (one.mean, one.standard_error),
        "CCKL and coarse lens": (two.mean, two.standard_error),
      }

    return jax.vmap(draw)(jax.random.split(key, SAMPLES))

  curves: Curves = {
    name: [] for name in ("no control", "CCKL", "CCKL and coarse lens")
  }
  for count in (16, 32, 64, 128, 256, 512):
    single = count * (FINE + 1)
    extra = count * (1 + COARSE_PER_PAIR) * (COARSE + 1)
    for name, (means, errors) in draws(fine, coarse, key, count).items():
      curves[name].append(
        Point(
          f"{count} pairs",
          single + (extra if "coarse" in name else 0),
          float(np.sqrt(np.mean((means - truth) ** 2)) / truth),
          float(np.sqrt(np.mean(errors**2)) / truth),
        )
      )
  return curves


PANELS = (
  ("Fisher norms", "100 classes", "passes per image"),
  ("Path lens of a pair", "Fisher part", "passes per pair"),
  ("Mean of the path lens", "by control variates", "passes in all"),
)


def draw(measured: list[Curves]) -> style.Figure:
  """One panel per measurement, relative error over passes."""
  theme = style.LIGHT
  with style.figure(theme, width=style.WIDTH, height=3.9) as figure:
    grid = figure.subplots(1, len(measured))
    for axes, curves, (head, note, unit) in zip(
      grid, measured, PANELS, strict=True
    ):
      style.title(axes, head, note)
      for number, (name, points) in enumerate(curves.items()):
        if name == "exact route":
          axes.axvline(points[0].passes, color=theme.quiet, linestyle=":")
          axes.annotate(
            "exact ",
            (points[0].passes, 1),
            xycoords=("data", "axes fraction"),
            ha="right",
            va="top",
            color=theme.quiet,
          )
          continue
        axes.plot(
          [p.passes for p in points],
          [p.error for p in points],
          color=theme.colour(number),
          marker=style.marker(number),
          label=name,
        )
      axes.set(xscale="log", yscale="log", xlabel=unit)
      axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2))
    grid[0].set_ylabel("relative error")
  return figure


def tables(measured: list[Curves]) -> str:
  """The points of every panel as tables."""
  lines = []
  for curves, (head, note, unit) in zip(measured, PANELS, strict=True):
    lines += [
      f"### {head}: {note}",
      "",
      f"| estimator | setting | {unit} | relative error | its own estimate |",
      "|---|---|---|---|---|",
    ]
    for name, points in curves.items():
      lines += [
        f"| {name} | {p.setting} | {p.passes:,} | {p.error:.1e} | "
        f"{p.stated:.1e} |"
        for p in points
      ]
    lines.append("")
  return "\n".join(lines)


def write(folder: pathlib.Path, text: str, figure: style.Figure) -> None:
  """Writes the figure, and the tables into their page."""
  style.save(figure, folder / "images" / "precision.png")
  page = folder / "results" / "precision.md"
  head, rest = page.read_text().split("<!-- tables: begin -->\n")
  tail = rest.partition("<!-- tables: end -->")[2]
  page.write_text(
    f"{head}<!-- tables: begin -->\n\n{text}\n<!-- tables: end -->{tail}"
  )


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--output", type=pathlib.Path)
  options = parser.parse_args()
  images, labels = digits()
  x, y, x_test, y_test = (
    images[:-TEST],
    labels[:-TEST],
    images[-TEST:],
    labels[-TEST:],
  )
  print(f"jax {jax.__version__}, {jax.default_backend()}, {options}")

  def batch(rng):
    rows = rng.integers(0, len(y), 128)
    return x[rows], y[rows]

  single = trained(batch, (8, 8, 1), 10, steps=600, seed=options.seed)
  double = trained(
    lambda rng: side_by_side(x, y, rng, 128),
    (8, 16, 1),
    100,
    steps=1500,
    seed=options.seed,
  )
  rng = np.random.default_rng(options.seed)
  x_double, y_double = side_by_side(x_test, y_test, rng, 1000)
  for params, data in (
    (single, (x_test, y_test)),
    (double, (x_double, y_double)),
  ):
    logits = small_networks.apply(params, data[0])
    print(f"accuracy {np.mean(np.argmax(logits, axis=-1) == data[1]):.3f}")
  key = jax.random.key(options.seed)
  i, j = ri.sample_cross_pairs(key, y_test, num_pairs=PAIRS)
  measured = [
    fisher_norms(double, x_double[:64], 100),
    path_rules(single, x_test[i], x_test[j]),
    lens_means(single, x_test[:POPULATION], y_test[:POPULATION], key),
  ]
  text = tables(measured)
  print(text)
  if options.output:
    write(options.output, text, draw(measured))


if __name__ == "__main__":
  main()
