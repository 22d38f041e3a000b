"""Training and evaluation whose numbers must not depend on the devices.

Usage: python sharded_problem.py OUTPUT.npz WORKDIR

Tests call `measure` themselves and compare with a process of other devices.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tiny_problem
import training_process
from flax import linen as nn

from robust_info import (
  data,
  evaluation,
  objectives,
  sharding,
  train_step,
  training,
)


class Normalised(nn.Module):
  """Two dense layers with batch statistics between them."""

  mean: tuple[float, ...] = ()

  @nn.compact
  def __call__(self, x, *, train=False, where=None):
    x = nn.Dense(6)(x.reshape(x.shape[0], -1))
    mask = None if where is None else where[:, None]
    x = nn.BatchNorm(use_running_average=not train)(x, mask=mask)
    return nn.Dense(tiny_problem.NUM_CLASSES)(nn.relu(x))


class Interrupted(Exception):
  """Ends a training in the middle."""


def measure(workdir):
  """Arrays by name: two trainings and an evaluation."""
  arrays = {}

  def note(name, tree):
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
      arrays[f"{name}{jax.tree_util.keystr(path)}"] = np.asarray(leaf)

  note("resumed", _train_with_a_pause(workdir).params)
  note("normalised", _train_normalised())
  note("evaluation", _evaluate())
  return arrays


def _train_with_a_pause(workdir):
  """PGD training, ended after an epoch and resumed from its checkpoint."""
  validate, calls = training_process.make_validate(), []

  def interrupt(variables):
    calls.append(None)
    if len(calls) == 3:
      raise Interrupted
    return validate(variables)

  def train(validate):
    with open("/dev/null", "w") as silence:
      return training.train(
        training_process.run_config(),
        training_process.split(),
        validate,
        workdir=workdir,
        stream=silence,
      )

  try:
    train(interrupt)
  except Interrupted:
    pass
  return train(validate)


def _train_normalised():
  """Ragged masked batches, with sums over the global batch as metrics."""
  model, optimizer, traces = Normalised(), optax.sgd(0.1), []

  def objective(*args, **kwargs):
    traces.append(None)
    return objectives.standard(*args, **kwargs)

  step = train_step.make_train_step(model, optimizer, objective, num_steps=6)
  state = train_step.create_state(
    model, optimizer, seed=0, image_shape=(4, 4, 1)
  )
  split, found = tiny_problem.make_split(), []
  for number in range(6):
    batch = data.train_batch(split, seed=0, step=number, batch_size=16)
    state, metrics = step(state, sharding.split_rows(batch))
    found.append(metrics["sums"])
  assert len(traces) == 1
  for leaf in jax.tree.leaves(state):
    assert leaf.sharding == sharding.replicated()
  return state.variables, found


def _evaluate():
  evaluator = evaluation.Evaluator(
    tiny_problem.apply_mlp,
    tiny_problem.make_split(),
    num_classes=tiny_problem.NUM_CLASSES,
    settings=tiny_problem.make_settings(batch_size=20),
    seed=0,
  )
  variables = jax.tree.map(jnp.asarray, tiny_problem.mlp())
  clean = evaluator.predict(variables)
  attacked = evaluator.attack(variables, epsilon=0.05)
  return {
    "summary": vars(clean.summary),
    "correct": clean.correct,
    "attacked": vars(attacked.summary),
    "fisher": evaluator.fisher_norms(variables),
    "path": evaluator.path_lens(variables),
  }


if __name__ == "__main__":
  np.savez(sys.argv[1], **measure(sys.argv[2]))
