"""Operations have the values and derivatives of PyTorch, at kinks too.

Needs the extra `torch`; see test_torch.py.
"""

import functools

import jax
import numpy as np
import pytest

from robust_info import adapters

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]
torch = pytest.importorskip("torch")
torch_comparison = pytest.importorskip("torch_comparison")
F = torch.nn.functional

# Many pixels are equal, 0 or 1, and one patch is even.
X = np.random.default_rng(0).integers(0, 5, (3, 2, 7, 6)).astype(np.float32) / 4
X[0, 0, :3] = 0.5


def pools(dimensions):
  """Settings of pooling: name -> (function, keywords)."""
  size = {1: 3, 2: (3, 2), 3: (2, 3, 2)}[dimensions]
  average = getattr(F, f"avg_pool{dimensions}d")
  largest = getattr(F, f"max_pool{dimensions}d")
  found = {}
  for stride in (1, 2, 4):
    for ceil in (False, True):
      name = f"{dimensions}d stride {stride}" + " ceil" * ceil
      given = {"kernel_size": size, "stride": stride, "ceil_mode": ceil}
      found[f"average {name}"] = average, given
      for inside in (False, True):
        more = {"padding": 1, "count_include_pad": inside}
        found[f"average {name} padded {inside}"] = average, given | more
      found[f"largest {name} padded"] = largest, given | {"padding": 1}
      more = {"dilation": 2, "padding": 1}
      found[f"largest {name} dilated"] = largest, given | more
  return found


def of_axes(function, x, dimensions, **keywords):
  """Applies a pooling to images as series, images or volumes."""
  if dimensions == 1:
    x = x.flatten(2)
  if dimensions == 3:
    x = torch.stack([x, x.flip(-1), x * x], 2)
  return function(x, **keywords)


POOLS = {
  name: functools.partial(of_axes, function, dimensions=dimensions, **keywords)
  for dimensions in (1, 2, 3)
  for name, (function, keywords) in pools(dimensions).items()
}
BODIES = {
  "abs": torch.abs,
  "abs_ in place": lambda x: (x - 0.5).abs_(),
  "clamp": lambda x: x.clamp(0, 0.5),
  "clamp to tensors": lambda x: x.clamp(x.new_zeros(6), x.flip(0)),
  "clamp_min": lambda x: x.clamp(min=0.25),
  "clamp_max": lambda x: x.clamp(max=0.25),
  "clip": lambda x: torch.clip(x, 0, 0.5),
  "clamp_max_ in place": lambda x: (2 * x).clamp_max_(1),
  "logit": lambda x: torch.logit(x, eps=0.25),
  "sinc": torch.sinc,
  "distances of rows": lambda x: torch.cdist(x[:, 0], x[:, 0]),
  "city-block distances": lambda x: torch.cdist(x[:, 0], x[:, 1], p=1),
  "distance": lambda x: x * torch.dist(x, x * 1),
  "largest and place": lambda x: (lambda y, i: y * i)(
    *F.max_pool2d(x, 2, dilation=2, return_indices=True)
  ),
  "clamp_ in place": lambda x: (2 * x).clamp_(0, 1),
  "fmax": lambda x: torch.fmax(x, x.flip(-1)),
  "fmin": lambda x: torch.fmin(x, x.flip(-1)),
  "hardsigmoid": lambda x: F.hardsigmoid(6 * x - 3),
  "hardswish": lambda x: F.hardswish(6 * x - 3),
  "hardtanh": lambda x: F.hardtanh(x, 0.25, 0.5),
  "relu6": lambda x: F.relu6(x * 6),
  "relu6 in place": torch.nn.Sequential(
    torch.nn.Conv2d(2, 2, 1, bias=False), torch.nn.ReLU6(inplace=True)
  ),
  "leaky_relu": F.leaky_relu,
  "leaky_relu in place": lambda x: F.leaky_relu(x - 0.5, 0.2, inplace=True),
  "logsigmoid": lambda x: F.logsigmoid(x - 0.5),
  "largest": lambda x: x.max(-1)[0],
  "least": lambda x: x.min(2, keepdim=True)[0],
  "place of the largest": lambda x: x * x.max(-1, keepdim=True)[1],
  "xlogy": lambda x: torch.xlogy(x, x.flip(-1) + 0.25),
  "deviation": lambda x: x.std(-1),
  "deviation over axes": lambda x: x.std((2, 3), unbiased=False),
  "deviation of all": lambda x: x * x.std(),
  "deviation and mean": lambda x: torch.cat(torch.std_mean(x, 3), 1),
  "deviation of an even patch": lambda x: x[:, :, :1, :1].expand_as(x).std(2),
  "normalize": lambda x: F.normalize(x * (x > 0.5), dim=-1),
  "cosine": lambda x: F.cosine_similarity(x * 0, x, -1) + x.sum(-1),
  **{
    f"norm {p:g}": functools.partial(
      lambda x, p: torch.linalg.vector_norm(x * (x > 0.5), p, -1), p=p
    )
    for p in (0.5, 1, 2, 3, float("inf"))
  },
  "norm of a dtype": lambda x: torch.linalg.vector_norm(
    x, dim=-1, dtype=torch.float64
  ).to(x.dtype),
  **{
    f"transposed convolution in {groups} groups": torch.nn.Sequential(
      torch.nn.Conv2d(2, 6, 1),
      torch.nn.ConvTranspose2d(
        6, 12, 3, 2, 1, output_padding=1, groups=groups, dilation=2
      ),
    )
    for groups in (1, 2, 3, 6)
  },
  "adaptive 1": lambda x: F.adaptive_max_pool2d(F.relu(x - 0.5), 1),
  "adaptive": lambda x: F.adaptive_max_pool2d(x, (3, 4)),
  "adaptive whole": lambda x: F.adaptive_max_pool2d(x, (None, 2)),
  "adaptive places": lambda x: (lambda y, i: y * i)(
    *F.adaptive_max_pool2d(x, 2, return_indices=True)
  ),
  "adaptive series": lambda x: F.adaptive_max_pool1d(x.flatten(2), 5),
  "adaptive volume": lambda x: F.adaptive_max_pool3d(x, (2, 3, 2)),
  "divisor": lambda x: F.avg_pool2d(x, 2, divisor_override=3),
  "one image": lambda x: torch.stack(
    [F.avg_pool2d(v, 3, 2, ceil_mode=True) for v in x]
  ),
  "attention": lambda x: F.scaled_dot_product_attention(x, x, 2 * x, scale=2),
  "attention, causal": lambda x: F.scaled_dot_product_attention(
    query=x, key=x, value=x, is_causal=True
  ),
  "attention with a mask": lambda x: F.scaled_dot_product_attention(
    x, x, x, attn_mask=(x.detach() @ x.detach().mT > 0.7)
  ),
  "attention with an empty row": lambda x: F.scaled_dot_product_attention(
    x,
    x,
    x,
    attn_mask=torch.tensor([True] * 6 + [False], device=x.device)[:, None],
  ),
  "attention with a bias": lambda x: F.scaled_dot_product_attention(
    x, x, x, attn_mask=x @ x.mT
  ),
  "attention with a bias per head": lambda x: F.scaled_dot_product_attention(
    x, x, x, attn_mask=(x @ x.mT)[:1]
  ),
  "attention of groups": lambda x: F.scaled_dot_product_attention(
    x, x[:, :1], x[:, :1], enable_gqa=True
  ),
  "linear by keywords": lambda x: F.linear(input=x, weight=x.new_ones(2, 6)),
  "einsum of a list": lambda x: torch.einsum(
    "nchw, nchw, ncwd -> nhd", [x, 2 * x, x.mT]
  ),
  "einsum by axes": lambda x: torch.einsum(x, [0, 1, 2, 3], [0, 3, 1]),
  "pad by keywords": lambda x: F.pad(input=x, pad=(1, 1), value=0.5),
  "pad and crop": lambda x: F.pad(x, (1, -1, -2, 1), value=0.5),
  "reflect and crop": lambda x: F.pad(x, (2, -1, -1, 1), "reflect"),
  "replicate and crop": lambda x: F.pad(x, (2, -1, -1, 1), "replicate"),
  "wrap and crop": lambda x: F.pad(x, (-1, 2, 1, -2), "circular"),
  "fold": lambda x: F.fold(
    F.unfold(x, 3, padding=1), x.shape[2:], 3, padding=1
  ),
  "take_along_dim": lambda x: torch.take_along_dim(
    x, x.argmax(-1, keepdim=True), -1
  ),
  "mT": lambda x: x.mT,
  "rrelu": lambda x: F.rrelu(x - 0.5),
  **POOLS,
}


@pytest.mark.parametrize("name", BODIES)
def test_values_and_derivatives_are_those_of_pytorch(name):
  torch_comparison.assert_as_in_torch(BODIES[name], X)


@pytest.mark.parametrize("name", [n for n in BODIES if n not in POOLS])
def test_half_precision_stays_half(name):
  module = torch_comparison.Network(BODIES[name], X).bfloat16()
  logits_fn = adapters.from_torch(module, channels_first=False)
  assert jax.eval_shape(logits_fn, X).dtype == "bfloat16"


def test_averages_of_many_pixels_are_precise_in_half_precision():
  module = torch.nn.Sequential(torch.nn.AvgPool2d(40), torch.nn.Flatten())
  module.register_parameter(
    "unused", torch.nn.Parameter(torch.zeros(1, dtype=torch.bfloat16))
  )
  logits_fn = adapters.from_torch(module, channels_first=False)
  np.testing.assert_array_equal(logits_fn(np.full((2, 3, 40, 40), 0.5)), 0.5)


@pytest.mark.parametrize(
  "body",
  [
    lambda x: F.rrelu(x - 0.5, training=True),
    lambda x: F.scaled_dot_product_attention(x, x, x, dropout_p=0.5),
  ],
)
def test_random_operations_are_refused(body):
  module = torch_comparison.Network(body, X)
  with pytest.raises(ValueError, match="random"):
    adapters.from_torch(module, channels_first=False)(X)


def test_other_users_of_torchax_keep_its_operations():
  import torchax

  adapters.from_torch(torch_comparison.Network(torch.abs, X))(X)
  environment = torchax.default_env()
  found = environment._ops[torch.ops.aten.clamp.default]
  assert not found.is_user_defined
