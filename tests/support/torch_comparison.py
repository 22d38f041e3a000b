"""A function of PyTorch tensors in a network, beside the same in PyTorch.

Import it after `pytest.importorskip("torch")`.
"""

import jax
import numpy as np
import torch

from robust_info import adapters


class Network(torch.nn.Module):
  """A function of images [N, ...], and a dense layer on all that it gives."""

  def __init__(self, body, x):
    super().__init__()
    torch.manual_seed(0)
    self.body = body
    features = body(torch.tensor(x)).flatten(1).shape[1]
    self.head = torch.nn.Linear(features, 3)

  def forward(self, x):
    return self.head(self.body(x).flatten(1))


def assert_as_in_torch(body, x):
  """Compares logits and an input gradient at x, an array."""
  module = Network(body, x).eval()
  inputs = torch.tensor(x, requires_grad=True)
  weights = torch.arange(1.0, 4.0)
  expected = module(inputs)
  (expected * weights).sum().backward()
  logits_fn = adapters.from_torch(module, channels_first=False)

  def objective(x):
    logits = logits_fn(x)
    return (logits @ weights.numpy()).sum(), logits

  gradient, logits = jax.jit(jax.grad(objective, has_aux=True))(x)
  np.testing.assert_allclose(
    logits, expected.detach().numpy(), rtol=1e-4, atol=1e-5
  )
  np.testing.assert_allclose(
    gradient, inputs.grad.numpy(), rtol=1e-4, atol=1e-5
  )
