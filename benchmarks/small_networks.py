"""Two small classifiers from plain arrays, in JAX and in PyTorch.

The same weights give the same logits on both sides, which parity needs. Images
are [N, H, W, C]; a network is a list of (weight, bias) pairs. The CNN is conv
16 and conv 32, 5x5, stride 2, then dense 100.
"""

import itertools
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Params = list[tuple[Any, Any]]

KINDS = ("mlp", "cnn")


def init(kind: str, image: tuple[int, int, int], classes: int, seed: int):
  """He-normal weights and zero biases."""
  height, width, channels = image
  if kind == "mlp":
    sizes = (height * width * channels, 128, 128, classes)
    shapes = list(itertools.pairwise(sizes))
  else:
    flat = 32 * -(-height // 4) * -(-width // 4)
    shapes = [(5, 5, channels, 16), (5, 5, 16, 32), (flat, 100), (100, classes)]
  rng = np.random.default_rng(seed)
  params = []
  for shape in shapes:
    scale = np.sqrt(2 / np.prod(shape[:-1]))
    weight = scale * rng.normal(size=shape)
    params.append((weight.astype(np.float32), np.zeros(shape[-1:], np.float32)))
  return params


def apply(params: Params, x: jax.Array) -> jax.Array:
  """Logits [N, C]; the shapes of the weights select the network."""
  hidden = x
  for number, (weight, bias) in enumerate(params):
    if weight.ndim == 4:
      hidden = jax.lax.conv_general_dilated(
        hidden,
        weight,
        (2, 2),
        ((2, 2), (2, 2)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
      )
      hidden = jax.nn.relu(hidden + bias[None, None, None])
      continue
    hidden = hidden.reshape(hidden.shape[0], -1) @ weight + bias[None]
    if number < len(params) - 1:
      hidden = jax.nn.relu(hidden)
  return hidden


def torch_device():
  """The device of PyTorch that JAX computes on: the GPU, or the CPU.

  On GPUs, PyTorch then rounds matrix products as JAX does by default.
  """
  import torch

  if jax.default_backend() != "gpu":
    return torch.device("cpu")
  torch.set_float32_matmul_precision("high")
  return torch.device("cuda")


def torch_data(x, y):
  """Images [N, C, H, W] and labels as tensors on that device."""
  import torch

  images = torch.from_numpy(np.moveaxis(np.array(x), -1, 1).copy())
  labels = torch.from_numpy(np.array(y).astype(np.int64))
  return images.to(torch_device()), labels.to(torch_device())


def captured(step) -> Callable[[], None]:
  """A step of PyTorch as one CUDA graph, which is launched at once.

  Args:
    step: function of nothing that reads nothing back from the GPU.
  """
  import torch

  side = torch.cuda.Stream()
  side.wait_stream(torch.cuda.current_stream())
  with torch.cuda.stream(side):
    for _ in range(3):
      step()
  torch.cuda.current_stream().wait_stream(side)
  graph = torch.cuda.CUDAGraph()
  with torch.cuda.graph(graph):
    step()

  def run():
    graph.replay()
    torch.cuda.synchronize()

  return run


def eager(step) -> Callable[[], None]:
  """A step of PyTorch, until the GPU is done with it."""
  import torch

  def run():
    step()
    if torch_device().type == "cuda":
      torch.cuda.synchronize()

  return run


def torch_module(params: Params):
  """The same network as a torch module from [N, C, H, W] to logits."""
  import torch

  device = torch_device()

  class Network(torch.nn.Module):
    def __init__(self):
      super().__init__()
      self.layers = [
        (
          torch.from_numpy(np.array(w)).to(device),
          torch.from_numpy(np.array(b)).to(device),
        )
        for w, b in params
      ]
      self.kernels = [
        w.permute(3, 2, 0, 1).contiguous() if w.ndim == 4 else w
        for w, _ in self.layers
      ]

    def forward(self, x):
      functional = torch.nn.functional
      for number, (weight, bias) in enumerate(self.layers):
        if weight.ndim == 4:
          x = functional.conv2d(
            x, self.kernels[number], bias, stride=2, padding=2
          )
          x = functional.relu(x)
          continue
        if x.ndim == 4:
          x = x.permute(0, 2, 3, 1).reshape(x.shape[0], -1)
        x = x @ weight + bias
        if number < len(self.layers) - 1:
          x = functional.relu(x)
      return x

  return Network().eval()


def save(path: pathlib.Path, params: Params, x, y) -> None:
  """Stores weights and test data in one .npz."""
  arrays = {"x": np.asarray(x), "y": np.asarray(y)}
  for number, (weight, bias) in enumerate(params):
    arrays[f"w{number}"] = np.asarray(weight)
    arrays[f"b{number}"] = np.asarray(bias)
  np.savez(path, **arrays)


def load(path: pathlib.Path) -> tuple[Params, np.ndarray, np.ndarray]:
  """The inverse of `save`: params, x, y."""
  with np.load(path) as arrays:
    count = sum(name.startswith("w") for name in arrays.files)
    params = [
      (jnp.asarray(arrays[f"w{n}"]), jnp.asarray(arrays[f"b{n}"]))
      for n in range(count)
    ]
    return params, arrays["x"], arrays["y"]
