"""The objectives on a residual network with BatchNorm.

One objective per way to use the two modes: `fgsm_rs` makes the passes of `pgd`;
`kl` and `mart` make those of `trades`.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import objective_networks
import pytest
import tiny_models

from robust_info import config as config_lib
from robust_info import data, models, objectives

OBJECTIVES = pytest.mark.parametrize(
  "name", ["standard", "pgd", "trades", "fisher"]
)
MODEL = tiny_models.resnet(features=(3,))
SHAPE = (4, 4, 2)


def make_batch(mask):
  image = tiny_models.images(len(mask), shape=SHAPE)
  label = np.arange(len(mask), dtype=np.int32) % tiny_models.NUM_CLASSES
  return data.Batch(image=image, label=label, mask=np.array(mask))


@functools.cache
def compiled(name):
  """Mean loss and its gradient; statistics; inputs of the training mode."""
  objective = objectives.create(
    config_lib.ObjectiveConfig(name=name, num_steps=1, random_start=False)
  )

  def mean_loss(params, batch_stats, batch):
    inputs = []
    network = objectives.Network(
      {"params": params, "batch_stats": batch_stats},
      models.apply_fn(MODEL),
      models.train_fn(MODEL),
    )
    outcome = objective(
      objective_networks.recording(network, inputs),
      batch,
      jax.random.key(0),
      progress=1.0,
    )
    loss = jnp.mean(outcome.loss, where=batch.mask)
    return loss, (outcome.batch_stats, inputs)

  return jax.jit(jax.value_and_grad(mean_loss, has_aux=True))


def run(name, batch):
  variables = tiny_models.variables_of(MODEL, SHAPE)
  return compiled(name)(variables["params"], variables["batch_stats"], batch)


@OBJECTIVES
def test_statistics_move_by_the_passes_of_the_loss_alone(name):
  batch = make_batch([True] * 4)
  (loss, (found, inputs)), gradient = run(name, batch)
  for leaf in jax.tree.leaves((loss, gradient)):
    assert np.isfinite(leaf).all()
  variables = tiny_models.variables_of(MODEL, SHAPE)
  before = expected = variables["batch_stats"]
  for x in inputs:
    _, expected = tiny_models.train(MODEL)(
      {**variables, "batch_stats": expected}, x, batch.mask
    )
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6),
    found,
    expected,
  )
  for old, new in zip(
    jax.tree.leaves(before), jax.tree.leaves(found), strict=True
  ):
    assert np.abs(old - new).max() > 1e-3


@OBJECTIVES
def test_masked_rows_change_neither_loss_nor_gradient_nor_statistics(name):
  batch = make_batch([True, True, True, False])
  other = objective_networks.with_other_padding(batch, label=2)
  (loss, (stats, _)), gradient = run(name, batch)
  (other_loss, (other_stats, _)), other_gradient = run(name, other)
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6),
    (loss, stats, gradient),
    (other_loss, other_stats, other_gradient),
  )
