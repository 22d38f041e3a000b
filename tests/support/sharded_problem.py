"""Training and evaluation whose numbers must not depend on the devices.

Usage: python sharded_problem.py OUTPUT.npz

Tests call `measure` themselves and compare with a process of other devices.
"""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import short_process
import tiny_problem
from flax import linen as nn

from robust_info import data, evaluation, objectives
from robust_info.evaluation.metrics import attacked as attacked_lib
from robust_info.evaluation.metrics import fisher as fisher_metric
from robust_info.evaluation.metrics import lenses as lenses_metric
from robust_info.runtime import sharding
from robust_info.training import step as train_step

PGD = {"epsilon": 0.1, "num_steps": 2}


class Normalised(nn.Module):
  """Two dense layers with batch statistics between them."""

  mean: tuple[float, ...] = ()

  @nn.compact
  def __call__(self, x, *, train=False, where=None):
    x = nn.Dense(6)(x.reshape(x.shape[0], -1))
    mask = None if where is None else where[:, None]
    x = nn.BatchNorm(use_running_average=not train)(x, mask=mask)
    return nn.Dense(tiny_problem.NUM_CLASSES)(nn.relu(x))


def measure():
  """Arrays by name: a training, an evaluation and an attack."""
  arrays = {}

  def note(name, tree):
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
      arrays[f"{name}{jax.tree_util.keystr(path)}"] = np.asarray(leaf)

  note("pgd", _train(functools.partial(objectives.pgd, **PGD)))
  note("evaluation", evaluate())
  note("attack", attack())
  return arrays


def _train(objective):
  """Ragged masked batches, with sums over the global batch as metrics."""
  model, optimizer, traces = Normalised(), optax.sgd(0.1), []

  def counted(*args, **kwargs):
    traces.append(None)
    return objective(*args, **kwargs)

  step = train_step.make_train_step(model, optimizer, counted, num_steps=6)
  state = train_step.create_state(
    model, optimizer, seed=0, image_shape=(4, 4, 1)
  )
  split, found = tiny_problem.make_split(), []
  for number in range(6):
    batch = data.train_batch(split, seed=0, step=number, batch_size=16)
    state, metrics = step(state, sharding.split_rows(batch))
    found.append(metrics.read())
  assert len(traces) == 1
  for leaf in jax.tree.leaves(state):
    assert leaf.sharding == sharding.replicated()
  return state.variables, found


def evaluate():
  """Fisher norms and a lens."""
  evaluator, variables = _evaluator()
  return {
    "fisher": fisher_metric.norms(evaluator, variables),
    "local": lenses_metric.local(evaluator, variables),
  }


def attack():
  """Predictions at attacked inputs."""
  evaluator, variables = _evaluator()
  return vars(attacked_lib.predictions(evaluator, variables, epsilon=0.05))


def _evaluator():
  evaluator = evaluation.Evaluator(
    tiny_problem.apply_mlp,
    tiny_problem.make_split(),
    num_classes=tiny_problem.NUM_CLASSES,
    settings=tiny_problem.make_settings(batch_size=20, num_steps=1),
    seed=0,
  )
  return evaluator, jax.tree.map(jnp.asarray, tiny_problem.mlp())


if __name__ == "__main__":
  short_process.collect_no_garbage()
  np.savez(sys.argv[1], **measure())
