"""The objectives on a residual network with BatchNorm.

`kl` is `trades`, and `fgsm_rs` is `pgd`, with one step: not compiled again.
"""

import dataclasses
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
  "name",
  [n for n in config_lib.OBJECTIVES if n not in ("kl", "fgsm_rs")],
)
MODEL = tiny_models.resnet(features=(3,))
SHAPE = (4, 4, 2)


def make_batch(mask):
  image = tiny_models.images(len(mask), shape=SHAPE)
  label = jnp.arange(len(mask), dtype=jnp.int32) % tiny_models.NUM_CLASSES
  return data.Batch(image=image, label=label, mask=jnp.asarray(mask))


@functools.cache
def compiled(name):
  """Mean loss, its gradient, the statistics, and those of its passes alone."""
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
    for x in inputs:
      variables = {**network.variables, "batch_stats": batch_stats}
      _, batch_stats = network.train_fn(variables, x, batch.mask)
    loss = jnp.mean(outcome.loss, where=batch.mask)
    return loss, (outcome.batch_stats, batch_stats)

  return jax.jit(jax.value_and_grad(mean_loss, has_aux=True))


def run(name, batch):
  variables = tiny_models.variables_of(MODEL, SHAPE)
  return compiled(name)(variables["params"], variables["batch_stats"], batch)


@OBJECTIVES
def test_statistics_move_by_the_passes_of_the_loss_alone(name):
  (loss, (found, expected)), gradient = run(name, make_batch([True] * 4))
  for leaf in jax.tree.leaves((loss, gradient)):
    assert np.isfinite(leaf).all()
  before = tiny_models.variables_of(MODEL, SHAPE)["batch_stats"]
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
  other = dataclasses.replace(
    batch,
    image=batch.image.at[3].set(0.9),
    label=batch.label.at[3].set(2),
  )
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6),
    run(name, batch),
    run(name, other),
  )
