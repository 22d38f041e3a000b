"""Tiny networks and batches for the tests of objectives."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from flax import linen as nn

from robust_info import data, objectives

N, C, SHAPE = 6, 4, (3, 3, 1)


class BatchNormNet(nn.Module):
  """A model whose two modes differ."""

  @nn.compact
  def __call__(self, x, *, train=False, where=None):
    x = nn.Dense(5)(x.reshape(x.shape[0], -1))
    mask = None if where is None else jnp.broadcast_to(where[:, None], x.shape)
    x = nn.BatchNorm(use_running_average=not train, momentum=0.5)(x, mask=mask)
    return nn.Dense(C)(nn.softplus(x))


def network_of(model, variables):
  def train_fn(variables, x, where):
    logits, changed = model.apply(
      variables, x, train=True, where=where, mutable=["batch_stats"]
    )
    return logits, changed["batch_stats"]

  return objectives.Network(variables, model.apply, train_fn)


@functools.cache
def batch_norm_network():
  model = BatchNormNet()
  variables = model.init(jax.random.key(3), jnp.zeros((1, *SHAPE)))
  stats = jax.tree.map(lambda s: s + 0.7, variables["batch_stats"])
  return network_of(model, {**variables, "batch_stats": stats})


def linear_network(dtype=jnp.float32):
  weights = jax.random.normal(jax.random.key(1), (9, C), dtype)
  return objectives.Network(
    {"params": weights},
    lambda v, x: x.reshape(x.shape[0], -1) @ v["params"],
    lambda v, x, where: (x.reshape(x.shape[0], -1) @ v["params"], {}),
  )


def examples(mask=None, dtype=jnp.float32):
  image = jax.random.uniform(jax.random.key(0), (N, *SHAPE), dtype)
  label = jnp.arange(N, dtype=jnp.int32) % C
  mask = jnp.ones(N, bool) if mask is None else jnp.asarray(mask)
  return data.Batch(image=image, label=label, mask=mask)


def recording(network, inputs):
  """The network, noting what its training mode is given."""

  def train_fn(variables, x, where):
    inputs.append(x)
    return network.train_fn(variables, x, where)

  return dataclasses.replace(network, train_fn=train_fn)
