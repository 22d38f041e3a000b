"""Convolutions and training have programs for GPUs and TPUs: made, not run.

For every public function, see test_strict_numerics.py.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import robust_info as ri
from robust_info import data, models, objectives
from robust_info.training import step as train_step

PLATFORMS = ("cuda", "tpu")
N, C = 4, 3
KEY = jax.random.key(0)
X = jnp.asarray(np.random.default_rng(0).uniform(size=(N, 4, 4, 1)), "f")
Y = jnp.arange(N) % C
KERNEL = jnp.ones((3, 3, 1, 2))
WEIGHTS = jnp.asarray(np.random.default_rng(2).normal(size=(32, C)), "f")


def network(x):
  hidden = jax.lax.conv_general_dilated(
    x, KERNEL, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
  )
  return jnp.tanh(hidden).reshape(len(x), -1) @ WEIGHTS


def lowers(fn, *args):
  return jax.jit(fn).trace(*args).lower(lowering_platforms=PLATFORMS)


def test_metrics_of_a_convolutional_network_lower():
  assert lowers(
    lambda x: (
      ri.fisher_norms(network, x, num_eigenvectors=1),
      ri.disentangle_path(network, x, x[::-1], num_nodes=4),
      jax.grad(lambda x: ri.fisher_spectral_norm(network, x).sum())(x),
    ),
    X,
  )


@pytest.mark.parametrize("name", ["apgd", "fab", "square"])
def test_attacks_on_a_convolutional_network_lower(name):
  steps = {"num_queries" if name == "square" else "num_steps": 2}
  attack = getattr(ri.attacks, name)
  assert lowers(
    lambda x: attack(network, x, Y, KEY, epsilon=0.1, norm="l2", **steps), X
  )


@pytest.mark.usefixtures("one_device")
def test_a_training_step_lowers():
  model = models.create(
    "mlp", num_classes=C, hidden_sizes=(5,), activation="gelu"
  )
  optimizer = optax.sgd(0.1, momentum=0.9)
  state = train_step.create_state(
    model, optimizer, seed=0, image_shape=X.shape[1:]
  )
  batch = data.Batch(
    image=np.zeros(X.shape, np.uint8),
    label=np.asarray(Y, np.int32),
    mask=np.ones(N, bool),
  )
  objective = functools.partial(objectives.fire, epsilon=0.1, num_steps=2)
  step = train_step.make_train_step(model, optimizer, objective, num_steps=3)
  assert step.trace(state, batch).lower(lowering_platforms=PLATFORMS)
