"""Baselines against closed forms for linear networks."""

import functools

import jax
import numpy as np
import pytest

from robust_info import config, data, evaluation, fisher
from robust_info.study import baselines

N, D = 12, 6


def apply(variables, x):
  return x.reshape(len(x), -1) @ variables["w"] + variables["b"][None]


def measured(num_classes, norm, *, labels, weights, epsilon=0.2, fn=apply):
  rng = np.random.default_rng(0)
  images = rng.integers(100, 156, (N, 2, 3, 1)).astype(np.uint8)
  settings = config.EvaluationConfig(norm=norm, epsilon=epsilon, batch_size=5)
  x = images.reshape(N, D) / 255
  bias = -(x.mean(0) @ weights)
  logits = x @ weights + bias
  labels = labels(logits).astype(np.int32)
  found = baselines.measure(
    evaluation.Evaluator(
      fn,
      data.Split(images, labels),
      num_classes=num_classes,
      settings=settings,
      seed=0,
    ),
    {"w": weights.astype(np.float32), "b": bias.astype(np.float32)},
  )
  return found, images / np.float32(255), logits, labels


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_two_classes_have_exact_distances(norm):
  weights = np.random.default_rng(1).normal(size=(D, 2))

  def labels(logits):
    right = logits.argmax(1)
    right[0] = 1 - right[0]  # One example is misclassified.
    return right

  found, _, logits, labels = measured(2, norm, labels=labels, weights=weights)
  w = weights[:, 0] - weights[:, 1]
  size = np.abs(w).sum() if norm == "linf" else np.sqrt(np.sum(w**2))
  sign = np.where(labels == 0, 1, -1)
  margin = sign * (logits[:, 0] - logits[:, 1])
  exact = np.maximum(margin, 0) / size
  assert exact.max() < 0.2
  prob = 1 / (1 + np.exp(-margin))
  for name, values in {
    "margin": margin,
    "gradient_norm": (1 - prob) * size,
    "first_order_distance": exact,
    # The gradient norm is the same everywhere in the ball.
    "clever": exact,
    # The matrix has rank one.
    "random_quotient": prob * (1 - prob) * np.sum(w**2),
    "distance": exact,
  }.items():
    rtol = 0.02 if name == "distance" else 1e-3
    for statistic in (np.mean, np.median):
      np.testing.assert_allclose(
        found[f"{name}_{statistic.__name__}"],
        statistic(values),
        rtol=rtol,
        atol=2e-3 if name == "distance" else 1e-5,
        err_msg=name,
      )


def test_the_random_quotient_is_below_the_largest_eigenvalue():
  weights = np.random.default_rng(2).normal(size=(D, 5))
  found, images, *_ = measured(
    5, "linf", labels=lambda z: z.argmax(1), weights=weights
  )
  bias = -(images.reshape(N, D).mean(0) @ weights)
  variables = {"w": weights.astype(np.float32), "b": bias.astype(np.float32)}
  norms = jax.jit(
    lambda x: fisher.fisher_norms(functools.partial(apply, variables), x)
  )(images)
  top = float(np.mean(norms.spectral_norm))
  assert 0.3 * top < found["random_quotient_mean"] < top * 1.0001


def test_no_distance_exceeds_its_ball():
  # Equal logits at a radius of 0, and a network that is never wrong.
  weights = np.zeros((D, 3))
  found, *_ = measured(
    3, "linf", labels=lambda z: 0 * z[:, 0], weights=weights, epsilon=0.0
  )
  assert found["clever_mean"] == 0.0
  assert found["random_quotient_mean"] == 0.0
  assert found["first_order_distance_mean"] == 0.0
  assert found["distance_mean"] == 1.0
