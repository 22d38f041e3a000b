"""PyTorch modules give the numbers of PyTorch's float64 autograd.

Needs the extra `torch`: pip install -e '.[dev,torch]', then pytest -m oracle
tests/adapters.
"""

import jax
import numpy as np
import pytest

import robust_info as ri
from robust_info import adapters

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]
torch = pytest.importorskip("torch")
nn = torch.nn

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
IMAGES = np.random.default_rng(0).uniform(size=(5, 8, 8, 3)).astype(np.float32)


class Attention(nn.Module):
  def __init__(self):
    super().__init__()
    self.attention = nn.MultiheadAttention(6, 2, batch_first=True)

  def forward(self, x):
    tokens = x.flatten(2).transpose(1, 2)
    mixed, _ = self.attention(tokens, tokens, tokens)
    return mixed.transpose(1, 2).reshape(x.shape)


# Layers on [N, 6, 8, 8].
LAYERS = {
  "adaptive pool": lambda: nn.AdaptiveAvgPool2d(2),
  "attention": Attention,
  "average pool": lambda: nn.AvgPool2d(2),
  "batch norm": lambda: nn.BatchNorm2d(6),
  "depthwise": lambda: nn.Conv2d(6, 6, 3, groups=6, padding="same"),
  "dilated": lambda: nn.Conv2d(6, 4, 3, dilation=2),
  "dropout": lambda: nn.Dropout(0.5),
  "elu": nn.ELU,
  "gelu": nn.GELU,
  "group norm": lambda: nn.GroupNorm(3, 6),
  "hard swish": nn.Hardswish,
  "layer norm": lambda: nn.LayerNorm([6, 8, 8]),
  "max pool": lambda: nn.MaxPool2d(3, 2, padding=1),
  "prelu": nn.PReLU,
  "silu": nn.SiLU,
  "transposed": lambda: nn.ConvTranspose2d(6, 4, 2, stride=2),
  "upsampled": lambda: nn.Upsample(scale_factor=2, mode="nearest"),
}


def make(name, seed=0):
  """A module in training mode, with running statistics."""
  torch.manual_seed(seed)
  body = [nn.Conv2d(3, 6, 3, padding=1), LAYERS[name](), nn.Tanh()]
  width = nn.Sequential(*body)(torch.zeros(2, 3, 8, 8)).flatten(1).shape[1]
  module = nn.Sequential(*body, nn.Flatten(), nn.Linear(width, 4))
  module(torch.from_numpy(np.moveaxis(IMAGES, -1, 1).copy()))
  return module


def adapt(module, **options):
  return adapters.from_torch(module, mean=MEAN, std=STD, **options)


def in_float64(module, images):
  """Logits, and tr F by reverse mode."""
  module = torch.nn.Sequential(*module).double().eval()
  mean, std = (torch.tensor(v, dtype=torch.float64) for v in (MEAN, STD))

  def logits_of(x):
    return module(((x - mean) / std).permute(2, 0, 1)[None])[0]

  logits, traces = [], []
  for x in torch.from_numpy(images).double():
    log_p = torch.log_softmax(logits_of(x), -1).detach()
    jacobian = torch.autograd.functional.jacobian(
      lambda x: torch.log_softmax(logits_of(x), -1), x
    )
    logits.append(logits_of(x).detach().numpy())
    traces.append(float((log_p.exp() * (jacobian**2).sum((1, 2, 3))).sum()))
  return np.array(logits), np.array(traces)


@pytest.mark.parametrize("name", LAYERS)
def test_logits_and_fisher_trace_are_those_of_autograd(name):
  module = make(name)
  logits_fn = adapt(module, images=IMAGES)
  assert module.training
  found = logits_fn(IMAGES)
  trace = jax.jit(ri.fisher_trace)(logits_fn, IMAGES)
  forward_mode = jax.jit(ri.fisher_quadratic)(logits_fn, IMAGES, IMAGES)
  assert np.isfinite(forward_mode).all()
  logits, expected = in_float64(module, IMAGES)
  np.testing.assert_allclose(found, logits, atol=1e-5)
  np.testing.assert_allclose(trace, expected, rtol=1e-4)


def test_weights_of_one_architecture_share_a_program():
  traces = []

  @jax.jit
  def trace_of(logits_fn, x):
    traces.append(None)
    return ri.fisher_trace(logits_fn, x)

  found = [trace_of(adapt(make("silu", seed)), IMAGES) for seed in range(2)]
  assert len(traces) == 1
  assert not np.allclose(*found)
  trace_of(adapt(make("gelu")), IMAGES)
  assert len(traces) == 2


class Own(nn.Module):
  """A module with tensors that are plain attributes, and with noise."""

  def __init__(self, noise=False):
    super().__init__()
    self.body, self.noise = make("silu"), noise
    self.scale = torch.tensor([1.0, 2.0, 3.0, 4.0])

  def forward(self, x):
    out = self.body(x) * self.scale
    return out + torch.randn_like(out) if self.noise else out


def test_plain_tensors_of_a_module_count():
  logits_fn = adapt(Own(), images=IMAGES)
  np.testing.assert_allclose(
    logits_fn(IMAGES),
    np.asarray(adapt(make("silu"))(IMAGES)) * np.arange(1.0, 5),
    rtol=1e-5,
  )


def test_half_precision_and_misuse():
  module = make("silu")
  half = adapt(make("silu").bfloat16(), images=IMAGES)
  assert half(IMAGES).dtype == "bfloat16"
  for _ in range(2):
    with pytest.raises(ValueError, match="network without randomness"):
      ri.fisher_trace(adapt(Own(noise=True)), IMAGES)
  with pytest.raises(TypeError, match="the network to be a pure function"):
    adapt(module, channels_first=False, images=IMAGES)
  with pytest.raises(TypeError, match="PyTorch module, got function"):
    adapters.from_torch(lambda x: x)
  with pytest.raises(TypeError, match=r"robust_info.adapters.from_torch"):
    ri.fisher_trace(module, IMAGES)
  with pytest.raises(TypeError, match="logits_fn") as caught:
    ri.fisher_trace(adapt(make("silu"), channels_first=False), IMAGES)
  assert "\n" not in str(caught.value)
