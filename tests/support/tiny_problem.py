"""A split, two networks and settings, small enough to measure many times."""

import jax.numpy as jnp
import numpy as np

from robust_info import config, data

NUM_CLASSES = 4
NUM_EXAMPLES = 45
SIZE = 16


def make_split(num_examples=NUM_EXAMPLES, seed=0):
  """Noisy 4x4 images of four classes of different sizes."""
  rng = np.random.default_rng(seed)
  labels = np.minimum(np.arange(num_examples) % 7 % 5, 3).astype(np.int32)
  centres = np.random.default_rng(7).integers(60, 195, (NUM_CLASSES, 4, 4, 1))
  noise = rng.integers(-60, 60, (num_examples, 4, 4, 1))
  return data.Split((centres[labels] + noise).astype(np.uint8), labels)


def make_settings(**changes):
  defaults = {
    "batch_size": 16,
    "epsilon": 0.05,
    "epsilon_grid": (0.0, 0.02, 0.1),
    "num_steps": 4,
    "num_pairs": 37,
    "num_coarse_pairs": 90,
    "num_nodes": 4,
    "validation_examples": 0,
  }
  return config.EvaluationConfig(**{**defaults, **changes})


def _contrasts():
  """[16, 4], directions that distinguish the classes."""
  split = make_split()
  x = split.images.reshape(len(split), -1) / 255.0
  means = np.stack([x[split.labels == k].mean(0) for k in range(NUM_CLASSES)])
  return (means - means.mean(0)).T


def logistic(seed=0):
  noise = np.random.default_rng(seed).normal(size=(SIZE, NUM_CLASSES))
  weights = 8 * _contrasts() + 0.3 * noise
  return {
    "weights": jnp.asarray(np.float32(weights)),
    "bias": jnp.asarray(np.float32(-weights.sum(0) / 2)),
  }


def apply_logistic(variables, x):
  flat = x.reshape(x.shape[0], -1)
  return flat @ variables["weights"] + variables["bias"][None]


def mlp(seed=0):
  rng = np.random.default_rng(seed)
  hidden = [4 * _contrasts(), 0.5 * rng.normal(size=(SIZE, 4))]
  out = [2 * np.eye(NUM_CLASSES), 0.5 * rng.normal(size=(4, NUM_CLASSES))]
  return {
    "hidden": jnp.asarray(np.float32(np.concatenate(hidden, axis=1))),
    "out": jnp.asarray(np.float32(np.concatenate(out))),
  }


def apply_mlp(variables, x):
  flat = x.reshape(x.shape[0], -1) - 0.5
  return jnp.tanh(flat @ variables["hidden"]) @ variables["out"]


def logits_of(apply_fn, variables, split):
  """Logits of all rows, in one pass."""
  x = split.images / np.float32(255)
  return np.asarray(apply_fn(variables, x))


class Counting:
  """An `apply_fn` that counts its traces."""

  def __init__(self, apply_fn):
    self.traces = 0
    self._apply = apply_fn

  def __call__(self, variables, x):
    self.traces += 1
    return self._apply(variables, x)
