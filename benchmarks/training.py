r"""Cost of the training loop over the bare compiled step.

  python -m benchmarks.training

Comparisons on random images of MNIST's shape, small CNN, batch 128:

- an epoch of `training.train` (batches, metrics, log, checkpoint) against the
  same compiled step called on the same batches, epochs in turns;
- one PGD-10 step against ten gradients with respect to the images plus one with
  respect to the parameters;
- the same step against the same network trained the same way in PyTorch, where
  that is installed.
"""

import argparse
import importlib.util
import io
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax

from benchmarks import small_networks, timing
from robust_info import config as config_lib
from robust_info import data, models, objectives, training
from robust_info.runtime import sharding
from robust_info.training import step as train_step

SHAPE, BATCH = (28, 28, 1), 128
PAIRS = 11


def make_config(name: str) -> config_lib.Config:
  """A run with one epoch per pair, and one epoch to warm up."""
  return config_lib.from_config_dict(
    {
      "model": {
        "num_classes": 10,
        "image_shape": SHAPE,
        "mean": (0.13,),
        "std": (0.31,),
      },
      "objective": {"name": name},
      "train": {"num_epochs": PAIRS + 1, "batch_size": BATCH},
    }
  )


def make_split(num_steps: int) -> data.Split:
  """A split of random images."""
  rng = np.random.default_rng(0)
  size = num_steps * BATCH
  return data.Split(
    rng.integers(0, 256, (size, *SHAPE), dtype=np.uint8),
    rng.integers(0, 10, size).astype(np.int32),
  )


def make_batch(split: data.Split, *, step: int) -> data.Batch:
  """A batch that is already on the devices when it is used."""
  batch = data.train_batch(split, seed=0, step=step, batch_size=BATCH)
  return jax.device_put(batch, sharding.by_rows())


def make_step(config: config_lib.Config):
  """The compiled step and an initial training state."""
  model = models.from_config(config.model)
  optimizer = optax.adam(1e-3)
  step = train_step.make_train_step(
    model, optimizer, objectives.create(config.objective), num_steps=1000
  )
  state = train_step.create_state(model, optimizer, seed=0, image_shape=SHAPE)
  return step, state


def loop_overhead(name: str, steps_per_epoch: int) -> timing.Spread:
  """Ratio of an epoch of the loop to the bare steps, within pairs."""
  config, split = make_config(name), make_split(steps_per_epoch)
  step, state = make_step(config)
  batches = [make_batch(split, step=k) for k in range(steps_per_epoch)]
  loop, bare, since = [], [], [None]

  def epoch_of_bare_steps(state):
    for batch in batches:
      state, _ = step(state, batch)
    return jax.block_until_ready(state)

  def validate(variables):
    nonlocal state
    del variables
    if since[0] is not None:
      loop.append(time.perf_counter() - since[0])
    begin = time.perf_counter()
    state = epoch_of_bare_steps(state)
    bare.append(time.perf_counter() - begin)
    since[0] = time.perf_counter()
    return {"accuracy": 0.0, "robust_accuracy": 0.0}

  state = epoch_of_bare_steps(state)
  with tempfile.TemporaryDirectory() as directory:
    training.train(
      config, split, validate, workdir=directory, stream=io.StringIO()
    )
  # The first epoch of the loop compiles. Each other one lies between two bare
  # epochs: their mean cancels a drift of the machine.
  ratios = [2 * loop[k] / (bare[k] + bare[k + 1]) for k in range(1, len(loop))]
  print(
    f"{name}: loop {statistics.median(loop[1:]):.3f} s, bare steps "
    f"{statistics.median(bare):.3f} s for {steps_per_epoch} steps"
  )
  return timing.spread(ratios)


def pgd_step(batch: data.Batch) -> Callable[[], Any]:
  """A call of our PGD-10 step, which continues to train one state."""
  step, state = make_step(make_config("pgd"))

  def run():
    nonlocal state
    state, metrics = step(state, batch)
    return metrics

  return run


def bare_gradients(batch: data.Batch) -> Callable[[], Any]:
  """The same number of compiled gradients: 10 by images, 1 by parameters."""
  model = models.from_config(make_config("pgd").model)
  apply = models.apply_fn(model)

  def loss(params, x, y):
    logits = apply({"params": params}, x)
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

  by_images = jax.jit(jax.grad(loss, argnums=1))
  by_params = jax.jit(jax.grad(loss))
  x = data.to_float(batch.image)
  params = models.init(model, jax.random.key(0), SHAPE)["params"]
  params = jax.device_put(params, sharding.replicated())

  def run():
    for _ in range(10):
      gradient = by_images(params, x, batch.label)
    return gradient, by_params(params, x, batch.label)

  return run


def torch_step(batch: data.Batch) -> Callable[[], None]:
  """One PGD-10 step with Adam of the small CNN in PyTorch."""
  import torch
  from torch import nn

  network = nn.Sequential(
    nn.Conv2d(1, 16, 5, stride=2, padding=2),
    nn.ReLU(),
    nn.Conv2d(16, 32, 5, stride=2, padding=2),
    nn.ReLU(),
    nn.Flatten(),
    nn.Linear(7 * 7 * 32, 100),
    nn.ReLU(),
    nn.Linear(100, 10),
  ).to(small_networks.torch_device())
  is_gpu = small_networks.torch_device().type == "cuda"
  optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, capturable=is_gpu)
  images, labels = small_networks.torch_data(batch.image, batch.label)
  config = make_config("pgd").objective
  epsilon, num_steps = config.epsilon, config.num_steps
  step_size = config.step_size * epsilon

  def loss(x):
    return nn.functional.cross_entropy(network((x - 0.13) / 0.31), labels)

  def run():
    x = images.float() / 255
    point = x + torch.empty_like(x).uniform_(-epsilon, epsilon)
    point = point.clamp(0, 1)
    for _ in range(num_steps):
      point.requires_grad_(True)
      (gradient,) = torch.autograd.grad(loss(point), point)
      point = point.detach() + step_size * gradient.sign()
      point = torch.clamp(point, x - epsilon, x + epsilon).clamp(0, 1)
    optimizer.zero_grad()
    loss(point).backward()
    optimizer.step()

  return run


def main() -> None:
  """Prints one line per comparison."""
  parser = argparse.ArgumentParser(description=__doc__)
  # One epoch of MNIST has 422 steps.
  parser.add_argument("--steps", type=int, default=422)
  parser.add_argument("--pgd-steps", type=int, default=100)
  arguments = parser.parse_args()
  device = jax.devices()[0]
  print(f"{device.device_kind}, {os.cpu_count()} cores, jax {jax.__version__}")
  for name, steps in (
    ("standard", arguments.steps),
    ("pgd", arguments.pgd_steps),
  ):
    print(f"{name}: loop / bare steps: {loop_overhead(name, steps)}")
  batch = make_batch(make_split(1), step=0)
  ours = pgd_step(batch)
  pair = timing.paired(bare_gradients(batch), ours, runs=25)
  print(
    f"PGD-10 step {pair.second} s, 11 bare gradients {pair.first} s, "
    f"ratio {pair.ratio}"
  )
  if importlib.util.find_spec("torch") is None:
    print("PyTorch: not installed")
    return
  ways = {"eager": small_networks.eager}
  if jax.default_backend() == "gpu":
    ways["one CUDA graph"] = small_networks.captured
  for name, way in ways.items():
    pair = timing.paired(way(torch_step(batch)), ours, runs=25)
    print(
      f"PGD-10 step {pair.second} s, in PyTorch, {name}, {pair.first} s, "
      f"ratio {pair.ratio}"
    )


if __name__ == "__main__":
  main()
