"""Speed of attacks: PGD against peers, and the cost of one AutoAttack.

    python -m benchmarks.attacks

PGD-20, linf 0.1, small CNN, MNIST shape, batch 256, random weights (the time
does not depend on them). Timed warm, in turns with each installed peer: foolbox
on the same JAX network, torchattacks on the same weights in PyTorch. Both sides
make one more forward pass at the end.
"""

import argparse
import importlib.util
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import small_networks, timing
from robust_info import attacks

EPSILON, STEPS, BATCH = 0.1, 20, 256
STEP_SIZE = 2.5 * EPSILON / STEPS


def ours(params, x, y) -> Callable[[], Any]:
  """A call of the compiled attack."""
  attack = jax.jit(attacks.pgd, static_argnames=("num_steps",))
  logits_fn = jax.tree_util.Partial(small_networks.apply, params)
  key = jax.random.key(0)

  def run():
    return attack(
      logits_fn,
      x,
      y,
      key,
      epsilon=EPSILON,
      step_size=STEP_SIZE,
      num_steps=STEPS,
    )

  return run


def foolbox_pgd(params, x, y) -> Callable[[], Any]:
  """The same attack by foolbox on the same network."""
  import eagerpy
  import foolbox

  model = foolbox.JAXModel(
    jax.jit(lambda v: small_networks.apply(params, v)), bounds=(0, 1)
  )
  attack = foolbox.attacks.LinfPGD(abs_stepsize=STEP_SIZE, steps=STEPS)
  images, labels = eagerpy.astensor(x), eagerpy.astensor(y)

  def run():
    _, points, success = attack(model, images, labels, epsilons=EPSILON)
    return points.raw, success.raw

  return run


def torch_pgd(params, x, y) -> Callable[[], Any]:
  """The same attack by torchattacks on the same weights."""
  import torch
  import torchattacks

  module = small_networks.torch_module(params)
  images, labels = small_networks.torch_data(x, y)
  # torchattacks moves images to the device of the first parameter.
  nothing = torch.zeros((), device=images.device)
  module.register_parameter("device", torch.nn.Parameter(nothing))
  attack = torchattacks.PGD(
    module, eps=EPSILON, alpha=STEP_SIZE, steps=STEPS, random_start=True
  )

  def run():
    with torch.enable_grad():
      points = attack(images, labels)
    with torch.no_grad():
      module(points).argmax(1) == labels  # noqa: B015

  return small_networks.eager(run)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--runs", type=int, default=timing.MIN_RUNS)
  options = parser.parse_args()
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.uniform(size=(BATCH, 28, 28, 1)), jnp.float32)
  params = small_networks.init("cnn", (28, 28, 1), 10, seed=0)
  params = [(jnp.asarray(w), jnp.asarray(b)) for w, b in params]
  y = jnp.argmax(small_networks.apply(params, x), -1).astype(jnp.int32)
  own = ours(params, x, y)
  begin = time.perf_counter()
  jax.block_until_ready(own())
  print(
    f"ours, first call with compilation: {time.perf_counter() - begin:.1f}s"
  )
  print(f"ours, warm: {timing.warm(own, runs=options.runs)} s")
  peers = {"foolbox": foolbox_pgd, "torchattacks": torch_pgd}
  for name, make in peers.items():
    if importlib.util.find_spec(name) is None:
      print(f"{name}: not installed")
      continue
    pair = timing.paired(own, make(params, x, y), runs=options.runs)
    print(f"{name}: {pair.second} s, ratio to ours {pair.ratio}")


if __name__ == "__main__":
  main()
