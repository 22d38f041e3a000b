"""Fisher norms against the limit, and against the dense method.

    python -m benchmarks.fisher [--fast]

* limit: one forward pass and C batched pullbacks of the same network, compiled,
  in turns with `fisher_frobenius` (target: at most 1.25).
* all three: `fisher_norms` over `fisher_gram` (target: at most 1.05).
* dense: the published method in JAX, F itself as an N x D x D array: time
  (target: 5x) and peak memory (target: 50x), of the whole batch and with
  `batch_size=`.
* PyTorch: the same norm by its vectorised reverse mode, on the same weights;
  on a GPU also as one CUDA graph.
* crossover: "matrix_free" over "gram" by number of classes.

The CNN is conv 16-32, 5x5, stride 2, dense 100; ResNet-20 and VGG13 are those
of `robust_info.models`. Weights are random; times do not depend on them.
`--fast` leaves the CIFAR shapes out.
"""

import argparse
import importlib.util

import jax
import jax.numpy as jnp
import numpy as np

import robust_info as ri
from benchmarks import small_networks, timing
from robust_info import models
from robust_info._xla import loops


def network(shape, num_classes=10, name="cnn"):
  """A function of (variables, x) and its variables."""
  model = models.create(name, num_classes=num_classes)
  variables = models.init(model, jax.random.key(0), shape)
  return models.apply_fn(model), variables


def limit(apply, num_classes):
  """One forward pass and C pullbacks of whole batches, unrolled on CPUs."""

  def passes(variables, x):
    logits, pullback = jax.vjp(lambda x: apply(variables, x), x)

    def pull(total, k):
      cotangent = jax.nn.one_hot(
        jnp.full(x.shape[:1], k), num_classes, dtype=logits.dtype
      )
      (row,) = pullback(cotangent)
      return total, row

    classes = jnp.arange(num_classes)
    return loops.scan(
      pull, None, classes, length=num_classes, differentiable=True
    )[1]

  return jax.jit(passes)


def dense(apply):
  """`||F||_F` from F itself, N x D x D: the published method."""

  def frobenius(variables, x):
    def log_p(row):
      return jax.nn.log_softmax(apply(variables, row[None])[0])

    jacobian = jax.vmap(jax.jacrev(log_p))(x).reshape(len(x), -1, x[0].size)
    p = jax.nn.softmax(apply(variables, x))
    matrix = jnp.einsum("nk,nkd,nke->nde", p, jacobian, jacobian)
    return jnp.sqrt(jnp.sum(matrix**2, axis=(1, 2)))

  return jax.jit(frobenius)


def torch_frobenius(params, x):
  """`||F||_F` by the same Gram matrix in PyTorch, on the same weights."""
  import torch

  module = small_networks.torch_module(params)
  images, _ = small_networks.torch_data(x, jnp.zeros(len(x), jnp.int32))

  def log_p(image):
    return torch.log_softmax(module(image[None])[0], 0)

  def step():
    rows = torch.func.vmap(torch.func.jacrev(log_p))(images).flatten(2)
    with torch.no_grad():
      p = torch.softmax(module(images), 1)
    weighted = rows * p.sqrt()[:, :, None]
    return torch.linalg.matrix_norm(weighted @ weighted.mT)

  return step


def against_torch(x, *, runs):
  """Prints the comparison with PyTorch, where that is installed."""
  if importlib.util.find_spec("torch") is None:
    print("PyTorch: not installed")
    return
  params = small_networks.init("cnn", x.shape[1:], 10, seed=0)
  params = [(jnp.asarray(w), jnp.asarray(b)) for w, b in params]
  frobenius = jax.jit(ri.fisher_frobenius)
  logits_fn = jax.tree_util.Partial(small_networks.apply, params)
  step = torch_frobenius(params, x)
  ours, theirs = frobenius(logits_fn, x), step()
  difference = abs(np.asarray(ours) / np.asarray(theirs.cpu()) - 1).max()
  print(f"largest relative difference to PyTorch: {difference:.1e}")
  ways = {"eager": small_networks.eager}
  if jax.default_backend() == "gpu":
    ways["one CUDA graph"] = small_networks.captured
  for name, way in ways.items():
    report(
      f"CNN, {x.shape[1:]}, N={len(x)}, PyTorch ({name}) over fisher_frobenius",
      timing.paired(lambda: frobenius(logits_fn, x), way(step), runs=runs),
    )


def peak_bytes(function, *args):
  """Temporary memory in the compiler's plan, in bytes."""
  return function.lower(*args).compile().memory_analysis().temp_size_in_bytes


def report(name, pair):
  print(
    f"{name}: {pair.second.median * 1e3:.1f} ms over "
    f"{pair.first.median * 1e3:.1f} ms, ratio {pair.ratio}",
    flush=True,
  )


def compare(name, apply, variables, x, *, runs, num_classes=10):
  frobenius = jax.jit(
    lambda v, x: ri.fisher_frobenius(lambda x: apply(v, x), x)
  )
  gram = jax.jit(lambda v, x: ri.fisher_gram(lambda x: apply(v, x), x))
  norms = jax.jit(lambda v, x: ri.fisher_norms(lambda x: apply(v, x), x))
  bound = limit(apply, num_classes)
  report(
    f"{name}, fisher_frobenius over the limit",
    timing.paired(
      lambda: bound(variables, x), lambda: frobenius(variables, x), runs=runs
    ),
  )
  report(
    f"{name}, fisher_norms over fisher_gram",
    timing.paired(
      lambda: gram(variables, x), lambda: norms(variables, x), runs=runs
    ),
  )
  return frobenius


def memory(case, apply, variables, x, whole, batch_size, *, runs):
  """Prints the time cost of `batch_size=`, and memory with and without it."""
  in_batches = jax.jit(
    lambda v, x: ri.fisher_frobenius(
      lambda x: apply(v, x), x, batch_size=batch_size
    )
  )
  report(
    f"{case}, batch_size={batch_size} over the whole batch",
    timing.paired(
      lambda: whole(variables, x), lambda: in_batches(variables, x), runs=runs
    ),
  )
  theirs = peak_bytes(dense(apply), variables, x)
  for label, function in (
    ("ours", whole),
    (f"ours with batch_size={batch_size}", in_batches),
  ):
    ours = peak_bytes(function, variables, x)
    print(
      f"{case}, peak memory: dense {theirs / 2**20:.0f} MiB, {label} "
      f"{ours / 2**20:.1f} MiB, ratio {theirs / ours:.0f}",
      flush=True,
    )


def crossover(num_classes):
  apply, variables = network((28, 28, 1), num_classes)
  x = jax.random.uniform(jax.random.key(1), (16, 28, 28, 1))
  fns = [
    jax.jit(
      lambda v, x, m=method: ri.fisher_norms(lambda x: apply(v, x), x, method=m)
    )
    for method in ("gram", "matrix_free")
  ]
  report(
    f"C={num_classes}, N=16, matrix_free over gram",
    timing.paired(
      lambda: fns[0](variables, x), lambda: fns[1](variables, x), runs=15
    ),
  )


def main():
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument("--fast", action="store_true")
  is_fast = parser.parse_args().fast
  print(f"jax {jax.__version__}, {jax.default_backend()}")

  apply, variables = network((28, 28, 1))
  x = jax.random.uniform(jax.random.key(1), (128, 28, 28, 1))
  frobenius = compare("CNN, 28x28x1, N=128", apply, variables, x, runs=51)
  published = dense(apply)
  report(
    "CNN, 28x28x1, N=128, dense over ours",
    timing.paired(
      lambda: frobenius(variables, x),
      lambda: published(variables, x),
      runs=15,
    ),
  )
  against_torch(x, runs=15)
  for num_classes in (32, 64, 128):
    crossover(num_classes)
  if is_fast:
    return
  for name, num_examples, batch_size, runs in (
    ("cnn", 64, 16, 51),
    ("resnet20", 64, 16, timing.MIN_RUNS),
    ("vgg13", 16, 2, timing.MIN_RUNS),
  ):
    apply, variables = network((32, 32, 3), name=name)
    x = jax.random.uniform(jax.random.key(1), (num_examples, 32, 32, 3))
    case = f"{name}, 32x32x3, N={num_examples}"
    frobenius = compare(case, apply, variables, x, runs=runs)
    memory(case, apply, variables, x, frobenius, batch_size, runs=runs)


if __name__ == "__main__":
  main()
