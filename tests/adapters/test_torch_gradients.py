"""Adapters of PyTorch modules have the gradients of PyTorch's autograd.

Needs the extra `torch`; see test_torch.py.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import robust_info as ri
from robust_info import adapters, attacks
from robust_info.adapters.pytorch import comparison

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]
torch = pytest.importorskip("torch")
nn = torch.nn
Function = torch.autograd.Function

X = np.random.default_rng(0).uniform(size=(5, 6)).astype(np.float32)
WEIGHTS = np.array([1.0, -0.5, 0.25], np.float32)


class Rounded(Function):
  """A straight-through estimator."""

  @staticmethod
  def forward(ctx, x):
    return torch.round(x * 16) / 16

  @staticmethod
  def backward(ctx, gradient):
    return gradient


class Clipped(Function):
  """A rule with a saved input and arguments that are no tensors."""

  @staticmethod
  def forward(ctx, x, low, high):
    assert ctx.needs_input_grad[1:] == (False, False)
    ctx.save_for_backward(x)
    ctx.low = low
    return x.clamp(low, high)

  @staticmethod
  def backward(ctx, gradient):
    (x,) = ctx.saved_tensors
    return 2 * gradient * (x > ctx.low), None, None


class Exponential(Function):
  """A rule with `setup_context`, a saved output, and two outputs."""

  @staticmethod
  def forward(x, rate=2.0):
    return torch.exp(rate * x), x > 0.5

  @staticmethod
  def setup_context(ctx, inputs, output):
    ctx.save_for_backward(output[0])
    ctx.rate = inputs[1]
    ctx.mark_non_differentiable(output[1])

  @staticmethod
  def backward(ctx, gradient, _):
    return 0.5 * ctx.rate * gradient * ctx.saved_tensors[0], None


class InPlace(Function):
  """A rule of a function that changes its input."""

  @staticmethod
  def forward(ctx, x):
    ctx.mark_dirty(x.mul_(2))
    return x

  @staticmethod
  def backward(ctx, gradient):
    return 3 * gradient


class InPlaceSetUp(InPlace):
  """The same with `setup_context`."""

  @staticmethod
  def forward(x):
    return x.mul_(2)

  @staticmethod
  def setup_context(ctx, inputs, output):
    ctx.mark_dirty(output)


class Dense(Function):
  """A rule that PyTorch differentiates once, with gradients of weights."""

  @staticmethod
  def forward(ctx, x, weight):
    ctx.save_for_backward(x, weight)
    return x @ weight.t()

  @staticmethod
  @torch.autograd.function.once_differentiable
  def backward(ctx, gradient):
    x, weight = ctx.saved_tensors
    return gradient.data @ weight * 2, gradient.t() @ x


def under_no_grad(x):
  with torch.no_grad():
    shift = torch.round(4 * x) / 4 - x
  return x + shift


def clamped_under_no_grad(x):
  y = 2 * x
  with torch.no_grad():
    y.clamp_(0.3, 1.0)
  return y


def clamped_data(x):
  y = 2 * x
  y.data.clamp_(0.3, 1.0)
  y.detach()[:, :2].mul_(3)
  return y


def set_data(x):
  y = 2 * x
  y.data = y.round()
  return y


def checkpointed(reentrant):
  return lambda x: torch.utils.checkpoint.checkpoint(
    torch.sin, x, use_reentrant=reentrant
  )


# As modules hold it; in C since PyTorch 2.14.
rounded, clipped, exponential = Rounded.apply, Clipped.apply, Exponential.apply
in_place, in_place_set_up = InPlace.apply, InPlaceSetUp.apply


def held_under_no_grad(x):
  with torch.no_grad():
    shift = rounded(x)
  # Without a tensor of the network it is PyTorch's own.
  return x * shift + rounded(torch.tensor(0.3))


# Functions [N, 6] -> [N, 6] before a dense layer.
PARTS = {
  "straight-through": rounded,
  "saved input": lambda x: Clipped.apply(x, 0.2, 0.7),
  "setup_context": lambda x: torch.mul(*Exponential.apply(x)),
  "argument": lambda x: Exponential.apply(x, 1.5)[0],
  "in place": lambda x: InPlace.apply(2 * x) + x,
  "inside no_grad": lambda x: x * Rounded.apply(x).detach(),
  "no_grad": under_no_grad,
  "in place under no_grad": clamped_under_no_grad,
  "data": lambda x: x * x.data,
  "data in place": clamped_data,
  "data set": set_data,
  "detach of a view": lambda x: x * x[:, :1].detach(),
  "apply at each call": lambda x: Rounded.apply(x),
  "held, saved input": lambda x: clipped(x, 0.2, 0.7),
  "held, setup_context": lambda x: torch.mul(*exponential(rounded(x))),
  "held, argument": lambda x: exponential(x, 1.5)[0],
  "held, in place": lambda x: in_place(2 * x) + x,
  "held, in place, setup_context": lambda x: in_place_set_up(2 * x) + x,
  "held, under no_grad": held_under_no_grad,
  "checkpoint": checkpointed(False),
  "re-entrant checkpoint": checkpointed(True),
}


def takes_keywords():
  """Whether this PyTorch does so where a function has a `setup_context`."""
  try:
    Exponential.apply(torch.zeros(1), rate=1.0)
  except TypeError:
    return False
  return True


if takes_keywords():
  PARTS |= {
    "keyword": lambda x: Exponential.apply(x, rate=1.5)[0],
    "held, keyword": lambda x: exponential(x, rate=1.5)[0],
  }


class Net(nn.Module):
  def __init__(self, part):
    super().__init__()
    torch.manual_seed(0)
    self.part, self.dense = part, nn.Linear(6, 3)

  def forward(self, x):
    return self.dense(self.part(x))


class OwnDense(Net):
  def forward(self, x):
    return Dense.apply(x, self.dense.weight)


def gradient(logits_fn, x=X):
  return jax.jit(jax.grad(lambda x: jnp.sum(logits_fn(x) @ WEIGHTS)))(x)


def gradient_of_torch(module):
  x = torch.tensor(X, requires_grad=True)
  (module(x) @ torch.tensor(WEIGHTS)).sum().backward()
  return x.grad.numpy()


@pytest.mark.parametrize("name", PARTS)
def test_gradients_are_those_of_torch(name):
  module = Net(PARTS[name])
  with torch.no_grad():  # The caller's own mode does not matter.
    logits_fn = adapters.from_torch(module, images=X)
  expected = gradient_of_torch(module)
  assert np.abs(expected).max() > 0.1
  np.testing.assert_allclose(gradient(logits_fn), expected, atol=1e-6)


def test_derivatives_along_a_direction_follow_backward_rules():
  module = Net(PARTS["saved input"])
  weight, bias = (p.detach().numpy() for p in module.dense.parameters())

  @jax.custom_jvp
  def clipped(x):
    return jnp.clip(x, 0.2, 0.7)

  @clipped.defjvp
  def _(primals, tangents):
    return clipped(*primals), 2 * tangents[0] * (primals[0] > 0.2)

  def by_hand(x):
    return clipped(x) @ weight.T + jnp.broadcast_to(bias, (len(x), 3))

  logits_fn = adapters.from_torch(module)
  v = np.random.default_rng(1).normal(size=X.shape).astype(np.float32)
  for measure in (
    lambda fn: ri.fisher_vector_product(fn, X, v),
    lambda fn: ri.disentangle_local(fn, X, 0.1 * v),
    lambda fn: ri.fisher_trace(fn, X),
  ):
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
      jax.jit(measure)(logits_fn),
      jax.jit(measure)(jax.tree_util.Partial(by_hand)),
    )


def test_rules_are_linear_where_torch_differentiates_once():
  module = OwnDense(nn.Identity())
  logits_fn = adapters.from_torch(module, images=X)
  twice = adapters.from_torch(nn.Linear(6, 3, bias=False))
  twice.args[0]["weight"] = 2 * logits_fn.args[0]["dense.weight"]
  product = ri.fisher_vector_product(logits_fn, X, X)
  log_p = jax.nn.log_softmax(logits_fn(X))
  jacobian_v = twice(X)
  centred = jacobian_v - (jnp.exp(log_p) * jacobian_v).sum(1, keepdims=True)
  expected = (jnp.exp(log_p) * centred) @ twice.args[0]["weight"]
  np.testing.assert_allclose(product, expected, rtol=1e-5, atol=1e-6)


def test_attacks_see_straight_through_estimators():
  """PGD finds adversarial examples as it does in PyTorch."""
  module = Net(Rounded.apply)
  labels = module(torch.tensor(X)).argmax(1).numpy()
  found = attacks.pgd(
    adapters.from_torch(module, images=X),
    X,
    labels,
    jax.random.key(0),
    epsilon=0.4,
    num_steps=20,
  )
  assert not found.zero_gradients.any()
  assert found.robust_accuracy() < 1


def test_images_tell_gradients_that_differ():
  module = Net(torch.sin)
  logits_fn = adapters.from_torch(module)
  # Values of one module, derivatives of another.
  other = Net(lambda x: torch.sin(x) + 0.1 * (x - x.detach()))
  with pytest.raises(ValueError, match="gradient of the adapter") as caught:
    comparison.compare(logits_fn, other, X)
  assert "\n" not in str(caught.value)
  comparison.compare(logits_fn, module, X)


@pytest.mark.parametrize(
  "dtype", [torch.float32, torch.float16, torch.bfloat16]
)
def test_deep_networks_at_constant_images_raise_no_alarm(dtype):
  torch.manual_seed(0)
  layers = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
  for _ in range(12):
    layers += [nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()]
  module = nn.Sequential(*layers, nn.Flatten(), nn.Linear(8 * 16, 4))
  module(torch.rand(8, 3, 8, 8))
  images = np.zeros((4, 8, 8, 3), np.float32)
  images[:, 3:5, 3:5] = np.random.default_rng(0).uniform(size=(4, 2, 2, 3))
  adapters.from_torch(module.to(dtype), images=images)


class Argmax(Net):
  def forward(self, x):
    return super().forward(x).argmax(1, keepdim=True).float() * torch.ones(3)


def test_modules_without_derivatives_in_torch_are_compared_in_logits():
  logits_fn = adapters.from_torch(Argmax(nn.Identity()), images=X)
  assert not gradient(logits_fn).any()
