"""Fisher information and information against other people's implementations.

Runs if they are installed (extra `oracle`). kfac-jax, the most similar library,
does not run on this JAX: see tests/fisher/test_golden.py.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import robust_info as ri

pytestmark = [
  pytest.mark.oracle,
  pytest.mark.filterwarnings("ignore"),
]
SIZE, HIDDEN, CLASSES = 6, 9, 4


@pytest.fixture(scope="module")
def weights():
  rng = np.random.default_rng(0)
  return (
    rng.normal(size=(SIZE, HIDDEN)).astype(np.float32),
    rng.normal(size=(HIDDEN, CLASSES)).astype(np.float32),
  )


@pytest.fixture(scope="module")
def points():
  rng = np.random.default_rng(1)
  return rng.normal(size=(2, 5, SIZE)).astype(np.float32)


def make_logits_fn(weights):
  first, second = map(jnp.asarray, weights)
  return lambda x: jnp.tanh(x @ first) @ second


def test_matrices_equal_the_generalised_gauss_newton_of_curvlinops(
  weights, points
):
  """With cross-entropy the GGN with respect to a shift of the input is F."""
  torch = pytest.importorskip("torch")
  curvlinops = pytest.importorskip("curvlinops")
  x, _ = points
  first, second = map(torch.from_numpy, weights)

  class Shifted(torch.nn.Module):
    def __init__(self):
      super().__init__()
      self.shift = torch.nn.Parameter(torch.zeros(SIZE))

    def forward(self, row):
      return torch.tanh((row + self.shift) @ first) @ second

  logits_fn = make_logits_fn(weights)
  traces = ri.fisher_trace(logits_fn, x)
  norms = ri.fisher_frobenius(logits_fn, x)
  for row, trace, norm in zip(x, traces, norms, strict=True):
    module = Shifted()
    data = [(torch.from_numpy(row[None]), torch.zeros(1, dtype=torch.long))]
    operator = curvlinops.GGNLinearOperator(
      module,
      torch.nn.CrossEntropyLoss(reduction="sum"),
      list(module.parameters()),
      data,
      check_deterministic=False,
    )
    dense = (operator @ torch.eye(SIZE)).detach().numpy()
    np.testing.assert_allclose(trace, np.trace(dense), rtol=1e-4)
    np.testing.assert_allclose(norm, np.linalg.norm(dense), rtol=1e-4)
    columns = ri.fisher_vector_product(
      logits_fn, np.tile(row, (SIZE, 1)), np.eye(SIZE, dtype=np.float32)
    )
    np.testing.assert_allclose(columns, dense, rtol=1e-3, atol=1e-5)


def test_information_equals_that_of_dit(points):
  """I(X;Y^) as a Jensen-Shannon divergence, I(K;Y^) from the joint table."""
  dit = pytest.importorskip("dit")
  logits = points.reshape(10, SIZE)[:, :CLASSES]
  labels = np.arange(10) % 3
  p = np.asarray(jax.nn.softmax(logits.astype(np.float64), axis=-1), float)
  p /= p.sum(axis=-1, keepdims=True)
  classes = [(y,) for y in range(CLASSES)]
  rows = [dit.Distribution(classes, row.tolist()) for row in p]
  divergence = dit.divergences.jensen_shannon_divergence(rows)
  np.testing.assert_allclose(
    ri.mutual_information(logits), divergence * np.log(2), rtol=1e-5
  )
  joint = np.stack([p[labels == k].sum(axis=0) for k in range(3)]) / 10
  outcomes = [(k, y) for k in range(3) for y in range(CLASSES)]
  table = dit.Distribution(outcomes, joint.reshape(-1).tolist())
  np.testing.assert_allclose(
    ri.label_information(logits, labels),
    dit.shannon.mutual_information(table, [0], [1]) * np.log(2),
    rtol=1e-5,
  )
