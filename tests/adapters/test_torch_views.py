"""Writes into views, and views of what is written to, are those of PyTorch.

Needs the extra `torch`; see test_torch.py.
"""

import numpy as np
import pytest

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]
torch = pytest.importorskip("torch")
torch_comparison = pytest.importorskip("torch_comparison")

X = np.random.default_rng(0).uniform(size=(2, 6, 6, 4)).astype(np.float32)

# Each changes y in place, or gives what it has read.
WRITES = {
  "slice zero_": lambda y: y[:, 1:3].zero_(),
  "slice fill_": lambda y: y[:, 1:3].fill_(3.0),
  "slice add_": lambda y: y[:, 1:3].add_(y[:, :2] * 1),
  "slice copy_": lambda y: y[:, 1:3].copy_(y[:, 3:5] * 2),
  "slice clamp_": lambda y: y[:, 1:3].clamp_(0.2, 0.8),
  "slice exp_": lambda y: y[:, 1:3].exp_(),
  "slice neg_": lambda y: y[:, 1:3].neg_(),
  "slice lerp_": lambda y: y[:, 1:3].lerp_(y[:, :2] * 2, 0.5),
  "slice masked_fill_": lambda y: y[:, 1:3].masked_fill_(y[:, :2] > 1, 0.0),
  "slice index_fill_": lambda y: y[:, 1:5].index_fill_(
    1, torch.tensor([0, 2]), 0.0
  ),
  "slice +=": lambda y: y[:, 1:3].__iadd__(1.0),
  "select": lambda y: y.select(1, 2).zero_(),
  "narrow": lambda y: y.narrow(1, 2, 2).mul_(3.0),
  "view": lambda y: y.view(2, -1)[:, 3:7].zero_(),
  "reshape": lambda y: y.reshape(2, -1).mul_(2.0),
  "flatten": lambda y: y.flatten(1)[:, ::3].mul_(2.0),
  "transpose": lambda y: y.transpose(1, 2)[:, 0].zero_(),
  "permute": lambda y: y.permute(0, 2, 3, 1).mul_(torch.arange(6.0)),
  "mT": lambda y: y.mT[..., 0].zero_(),
  "diagonal": lambda y: y.diagonal(dim1=1, dim2=2).zero_(),
  "unsqueeze": lambda y: y.unsqueeze(1)[:, :, 2:].mul_(2.0),
  "squeeze": lambda y: y[:, 1:2].squeeze(1).mul_(2.0),
  "a chain": lambda y: (
    y.view(2, 6, 24)[:, 1:3].transpose(1, 2)[:, ::2].add_(1.0)
  ),
  "set": lambda y: y.transpose(1, 2).__setitem__((slice(None), 1), 0.0),
  "set by tensors": lambda y: y.view(2, -1).__setitem__(
    (slice(None), torch.tensor([1, 2])), 1.0
  ),
  "set by a list": lambda y: y.__setitem__((slice(None), [1, 2]), 0.0),
  "set by a mask": lambda y: y[:, 1:4].__setitem__(y[:, 1:4] > 1, 0.0),
  "copy_ broadcasts": lambda y: y.copy_(torch.arange(4.0) * y[:, :1, :1]),
}
NO_GRAD = {
  "unbind": lambda y: [t.mul_(i) for i, t in enumerate(y.unbind(1))],
  "split": lambda y: y.split([1, 3], -1)[1].add_(1.0),
  "chunk": lambda y: y.chunk(2, -1)[1].add_(1.0),
}


def stale(x):
  y = 2 * x
  view = y.view(2, -1)
  y.mul_(3)
  return view


def both_ways(x):
  y = 2 * x
  one, two = y[:, 0], y[:, 1]
  one.add_(two)
  two.sub_(one)
  return y


def copies(copy):
  def body(x):
    y = 2 * x
    other = copy(y)
    other.mul_(3)
    return torch.cat([y.flatten(1), other.flatten(1)], 1)

  return body


def masks(x):
  mask = torch.zeros(6, 4, dtype=torch.bool, device=x.device)
  mask.view(-1)[::3] = True
  mask.t()[0] = True
  counts = torch.zeros(24, dtype=torch.long, device=x.device)
  counts.view(6, 4).select(1, 2).fill_(2)
  counts.view(4, 6).diagonal().add_(1)
  return x.masked_fill(mask, 0.0) * counts.view(6, 4)


def parts_of_a_mask(x):
  mask = x > 0.2
  mask &= x < 0.8
  mask[:, 0] |= x[:, 0] > 0.9
  return x * mask


BODIES = {
  "a view of what changes": stale,
  "two views": both_ways,
  "contiguous copies": copies(lambda y: y.transpose(1, 2).contiguous()),
  "contiguous is the same": copies(lambda y: y.contiguous()),
  "reshape copies": copies(lambda y: y.transpose(1, 2).reshape(2, -1)),
  "flatten of a slice copies": copies(lambda y: y[:, 1:3].flatten(1)),
  "clone copies": copies(lambda y: y[:, 1:3].clone()),
  "an index of tensors copies": copies(lambda y: y[:, torch.tensor([0, 2])]),
  "of a slice, by a list": lambda x: (2 * x)[:, 1:5][:, [0, 2]],
  "by None, dots and a list": lambda x: x[:, None, ..., [0, 2]][:, 0, 1:, None],
  "by a mask": lambda x: x[:, torch.tensor([True, False] * 3)],
  "by a NumPy array": lambda x: x[:, np.array([0, 3])],
  "unfold": lambda x: x.unfold(1, 3, 1).sum(-1),
  "masks and counts": masks,
  "parts of a mask": parts_of_a_mask,
  "mean of channels last": lambda x: torch.nn.functional.adaptive_avg_pool2d(
    x.permute(0, 3, 1, 2), 1
  ),
  "averages of channels last": lambda x: (
    torch.nn.functional.adaptive_avg_pool2d(x.permute(0, 3, 1, 2), (3, 2))
  ),
  "convolution of channels last": lambda x: torch.nn.functional.conv2d(
    x.permute(0, 3, 1, 2), x.new_ones(3, 4, 3, 3)
  ),
  "enlarged, channels last": lambda x: torch.nn.functional.interpolate(
    x.permute(0, 3, 1, 2), scale_factor=2, mode="bilinear"
  ),
  "pixels, channels last": lambda x: torch.nn.functional.pixel_shuffle(
    x.permute(0, 3, 1, 2), 2
  ),
  "largest, channels last": lambda x: torch.nn.functional.max_pool2d(
    x.permute(0, 3, 1, 2), 2
  ),
  "norms, channels last": lambda x: torch.nn.functional.group_norm(
    x.permute(0, 3, 1, 2), 2
  ),
  "to channels last": lambda x: (
    x.to(memory_format=torch.channels_last).permute(0, 2, 3, 1).flatten(1)
  ),
  "reshaped in place": lambda x: (2 * x).unsqueeze_(1).transpose_(1, 2),
}


def written(write, gradients):
  def body(x):
    y = 2 * x
    with torch.set_grad_enabled(gradients):
      write(y)
    return y * x

  return body


@pytest.mark.parametrize("name", WRITES)
def test_a_write_reaches_the_tensor(name):
  torch_comparison.assert_as_in_torch(written(WRITES[name], True), X)


@pytest.mark.parametrize("name", NO_GRAD)
def test_a_write_without_gradients_reaches_the_tensor(name):
  torch_comparison.assert_as_in_torch(written(NO_GRAD[name], False), X)


@pytest.mark.parametrize("name", BODIES)
def test_views_and_copies_are_those_of_pytorch(name):
  torch_comparison.assert_as_in_torch(BODIES[name], X)


class Clone(torch.nn.Module):
  """As Swin v2 in torchvision, sets a part of a bias to 0."""

  def __init__(self):
    super().__init__()
    self.bias = torch.nn.Parameter(torch.linspace(-1, 1, 12))

  def forward(self, x):
    bias = self.bias.clone()
    bias[4:8].zero_()
    return x * bias[:4] + x * bias[4:8] + x * bias[8:]


def test_a_write_into_a_clone_leaves_the_parameter():
  torch_comparison.assert_as_in_torch(Clone(), X)


def test_a_view_that_is_reshaped_in_place_is_one_line():
  from robust_info import adapters

  module = torch_comparison.Network(lambda x: (2 * x)[:, :1].squeeze_(1), X)
  with pytest.raises(ValueError, match=r"write x = x\.squeeze\(\.\.\.\)"):
    adapters.from_torch(module, channels_first=False)(X)
