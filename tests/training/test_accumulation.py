"""Gradients of micro-batches add up to those of the batch."""

import dataclasses
import functools

import jax
import numpy as np
import optax
import pytest
import sharded_problem
import tiny_problem

from robust_info import data, models, objectives
from robust_info.training import step as train_step

pytestmark = pytest.mark.usefixtures("one_device")

PGD = functools.partial(
  objectives.pgd, epsilon=0.1, num_steps=1, random_start=False
)


@functools.cache
def model():
  return models.create(
    "mlp", num_classes=tiny_problem.NUM_CLASSES, hidden_sizes=(5,)
  )


def ragged_batch():
  """12 rows of which the last four are padding."""
  split = tiny_problem.make_split(20)
  return data.train_batch(split, seed=0, step=1, batch_size=12)


def step_of(accumulate, model, objective=objectives.standard, **kwargs):
  optimizer = optax.sgd(0.5)
  state = train_step.create_state(
    model, optimizer, seed=0, image_shape=(4, 4, 1)
  )
  step = train_step.make_train_step(
    model,
    optimizer,
    objective,
    num_steps=10,
    accumulate=accumulate,
    **kwargs,
  )
  return step, state


def assert_close(a, b):
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), a, b
  )


def test_micro_batches_make_the_step_of_a_whole_ragged_batch():
  # Weight perturbation makes a second pass, at the points of the first.
  kwargs = {"objective": PGD, "awp_gamma": 0.01}
  batch = ragged_batch()
  assert batch.mask.sum() == 8
  # Uneven: four micro-batches of three rows hold 3, 2, 2 and 1 examples.
  batch = dataclasses.replace(batch, mask=np.arange(12) % 5 % 3 != 2)
  step, state = step_of(1, model(), **kwargs)
  whole, whole_metrics = step(state, batch)
  step, state = step_of(4, model(), **kwargs)
  parts, parts_metrics = step(state, batch)
  assert_close(parts.params, whole.params)
  assert_close(parts_metrics, whole_metrics)


def test_batch_norm_sees_each_micro_batch_and_remembers_all():
  network = sharded_problem.Normalised()
  batch = ragged_batch()
  step, state = step_of(2, network)
  variables = jax.tree.map(np.array, state.variables)
  found, _ = step(state, batch)
  stats, train = variables["batch_stats"], jax.jit(models.train_fn(network))
  for part in (slice(0, None, 2), slice(1, None, 2)):
    _, stats = train(
      {"params": variables["params"], "batch_stats": stats},
      data.to_float(batch.image[part]),
      batch.mask[part],
    )
  assert_close(found.batch_stats, stats)
