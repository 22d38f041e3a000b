"""The deep networks again, in NumPy (float64) or PyTorch, from Flax variables.

Each architecture is written once, over the few operations of a backend, so that
the CI tests in NumPy and the full-size PyTorch comparison cover the same code.
Images are [N, H, W, channels] on both sides.
"""

import numpy as np


class NumPy:
  """Operations on float64 arrays [N, H, W, channels]."""

  def array(self, x):
    return np.asarray(x, np.float64)

  def numpy(self, x):
    return x

  def conv(self, x, kernel, stride=1):
    """Zero padding of half the kernel's size, as PyTorch's `padding`."""
    kernel = np.asarray(kernel, np.float64)
    size = kernel.shape[0]
    half = size // 2
    padded = np.pad(x, ((0, 0), (half, half), (half, half), (0, 0)))
    height, width = (-(-side // stride) for side in x.shape[1:3])
    total = 0.0
    for i in range(size):
      for j in range(size):
        rows = slice(i, i + stride * (height - 1) + 1, stride)
        columns = slice(j, j + stride * (width - 1) + 1, stride)
        total = total + padded[:, rows, columns] @ kernel[i, j]
    return total

  def norm(self, x, params, stats, train):
    if train:
      mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    else:
      mean, var = (np.asarray(stats[k], np.float64) for k in ("mean", "var"))
    scale, offset = (self.array(params[k]) for k in ("scale", "bias"))
    return (x - mean) / np.sqrt(var + 1e-5) * scale + offset, (mean, var)

  def pool(self, x, kind):
    n, h, w, c = x.shape
    blocks = x[:, : h // 2 * 2, : w // 2 * 2].reshape(
      n, h // 2, 2, w // 2, 2, c
    )
    return blocks.max((2, 4)) if kind == "max" else blocks.mean((2, 4))

  def relu(self, x):
    return np.maximum(x, 0)

  def mean(self, x):
    return x.mean((1, 2))


class Torch(NumPy):
  """The same by PyTorch's own layers, in float64; evaluation mode only."""

  def __init__(self, torch):
    self.torch, self.functional = torch, torch.nn.functional

  def array(self, x):
    return self.torch.from_numpy(np.asarray(x, np.float64))

  def numpy(self, x):
    return x.numpy()

  def _first(self, x):
    return x.permute(0, 3, 1, 2)

  def _last(self, x):
    return x.permute(0, 2, 3, 1)

  def conv(self, x, kernel, stride=1):
    weight = self.array(kernel).permute(3, 2, 0, 1)
    half = weight.shape[-1] // 2
    return self._last(
      self.functional.conv2d(
        self._first(x), weight, stride=stride, padding=half
      )
    )

  def norm(self, x, params, stats, train):
    assert not train
    arrays = [stats["mean"], stats["var"], params["scale"], params["bias"]]
    out = self.functional.batch_norm(
      self._first(x), *map(self.array, arrays), eps=1e-5
    )
    return self._last(out), (None, None)

  def pool(self, x, kind):
    pools = {"max": "max_pool2d", "mean": "avg_pool2d"}
    return self._last(getattr(self.functional, pools[kind])(self._first(x), 2))

  def relu(self, x):
    return self.functional.relu(x)


def head(ops, x, params):
  weight, bias = (ops.array(params[k]) for k in ("kernel", "bias"))
  return x.reshape(x.shape[0], -1) @ weight + bias


def madry_cnn(ops, variables, x):
  """Logits [N, C] of `models.small.MadryCNN` with ReLU."""
  params, x = variables["params"], ops.array(x)
  for name in ("Conv_0", "Conv_1"):
    layer = params[name]
    x = ops.relu(ops.conv(x, layer["kernel"]) + ops.array(layer["bias"]))
    x = ops.pool(x, "max")
  dense = params["Head_0"]
  hidden = ops.relu(head(ops, x, dense["Dense_0"]))
  return ops.numpy(head(ops, hidden, dense["Dense_1"]))


def vgg(ops, variables, x, *, variant, activate=None):
  """Logits [N, C] of `models.vgg.VGG` without input normalisation.

  `activate` is the activation of the variant `relu`, ReLU unless given.
  """
  activate = activate or ops.relu
  params, x = variables["params"], ops.array(x)
  for stage in sorted(k for k in params if k.startswith("stage")):
    for name in sorted(params[stage]):
      layer = params[stage][name]
      x = ops.conv(x, layer["kernel"]) + ops.array(layer["bias"])
      if variant == "relu":
        x = activate(x)
    x = ops.pool(x, "mean" if variant == "pure_linear" else "max")
  return ops.numpy(head(ops, x, params["head"]))


def resnet(ops, variables, x, *, pre_activation, train=False):
  """Logits and the moments of each norm, of `models.residual.ResNet`.

  Returns:
    Logits [N, C], and a nested dict of (mean, variance), those of the batch
    when training, with the names of `batch_stats`.
  """
  params, stats = variables["params"], variables["batch_stats"]
  moments = {}

  def norm(x, scope, name):
    inner, inner_stats = (
      (tree[scope] if scope else tree)[name] for tree in (params, stats)
    )
    x, found = ops.norm(x, inner, inner_stats, train)
    (moments.setdefault(scope, {}) if scope else moments)[name] = found
    return x

  x = ops.conv(ops.array(x), params["stem"]["kernel"])
  if not pre_activation:
    x = ops.relu(norm(x, None, "norm"))
  for scope in sorted(k for k in params if "block" in k):
    block = params[scope]
    first = scope.endswith("block1") and not scope.startswith("stage1")
    stride = 2 if first else 1
    if pre_activation:
      active = ops.relu(norm(x, scope, "norm1"))
      out = ops.conv(active, block["conv1"]["kernel"], stride)
      out = ops.relu(norm(out, scope, "norm2"))
      out = ops.conv(out, block["conv2"]["kernel"])
      if "shortcut" in block:
        x = ops.conv(active, block["shortcut"]["kernel"], stride)
      x = x + out
    else:
      out = ops.conv(x, block["conv1"]["kernel"], stride)
      out = ops.relu(norm(out, scope, "norm1"))
      out = norm(ops.conv(out, block["conv2"]["kernel"]), scope, "norm2")
      if "shortcut" in block:
        x = ops.conv(x, block["shortcut"]["kernel"], stride)
        x = norm(x, scope, "shortcut_norm")
      x = ops.relu(x + out)
  if pre_activation:
    x = ops.relu(norm(x, None, "norm"))
  return ops.numpy(head(ops, ops.mean(x), params["head"])), moments
