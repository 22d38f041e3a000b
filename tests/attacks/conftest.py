"""Small networks and data for the attack tests."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

NUM_CLASSES = 5
SHAPE = (4, 4, 1)
SIZE = 16


def _mlp(params, x):
  hidden = jnp.tanh(x.reshape(x.shape[0], -1) @ params[0] + params[1][None])
  return hidden @ params[2]


@pytest.fixture(scope="session")
def mlp():
  """A fixed random two-layer network as a Partial: parameters are leaves."""
  rng = np.random.default_rng(0)
  params = (
    jnp.asarray(np.float32(rng.normal(size=(SIZE, 32)))),
    jnp.asarray(np.float32(rng.normal(size=(32,)))),
    jnp.asarray(np.float32(rng.normal(size=(32, NUM_CLASSES)))),
  )
  return jax.tree_util.Partial(_mlp, params)


@pytest.fixture(scope="session")
def linear():
  """A network with linear logits, for which every attack has a closed form."""
  weights = np.random.default_rng(1).normal(size=(SIZE, NUM_CLASSES))
  weights = jnp.asarray(np.float32(weights))
  return jax.tree_util.Partial(
    lambda w, x: x.reshape(x.shape[0], -1) @ w, weights
  )


@pytest.fixture(scope="session")
def batch(mlp):
  """64 inputs in [0, 1]; labels are the network's, one in eight shifted.

  NumPy arrays, because slicing those compiles nothing.
  """
  x = np.random.default_rng(2).uniform(size=(64, *SHAPE)).astype(np.float32)
  y = np.argmax(mlp(x), axis=-1).astype(np.int32)
  wrong = np.arange(64) % 8 == 7
  return x, np.where(wrong, (y + 1) % NUM_CLASSES, y).astype(np.int32)


@pytest.fixture(scope="session")
def rounding(mlp, batch):
  """Largest difference between losses of one point in two programs.

  Bounds the rounding of sums of some fifty terms, in any order, twice over.
  """
  largest = np.abs(mlp(batch[0])).max()
  return 128 * np.finfo(np.float32).eps * largest
