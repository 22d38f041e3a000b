"""Tiny networks and batches for the tests of objectives, drawn by NumPy."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
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
  abstract = jax.eval_shape(
    model.init, jax.random.key(3), np.zeros((1, *SHAPE), np.float32)
  )
  rng = np.random.default_rng(3)

  def draw(path, leaf):
    if path[0].key == "batch_stats":
      values = 0.7 + (path[-1].key == "var") * np.ones(leaf.shape)
    elif path[-1].key == "kernel":
      values = rng.normal(size=leaf.shape) / leaf.shape[0] ** 0.5
    else:
      values = np.full(leaf.shape, path[-1].key == "scale")
    return values.astype(np.float32)

  return network_of(model, jax.tree_util.tree_map_with_path(draw, abstract))


def linear_network(dtype=np.float32):
  weights = np.random.default_rng(1).normal(size=(9, C)).astype(dtype)
  return objectives.Network(
    {"params": weights},
    lambda v, x: x.reshape(x.shape[0], -1) @ v["params"],
    lambda v, x, where: (x.reshape(x.shape[0], -1) @ v["params"], {}),
  )


def examples(mask=None, dtype=np.float32):
  image = np.random.default_rng(0).uniform(size=(N, *SHAPE)).astype(dtype)
  label = np.arange(N, dtype=np.int32) % C
  mask = np.ones(N, bool) if mask is None else mask
  return data.Batch(*map(jnp.asarray, (image, label, mask)))


def with_other_padding(batch, label=0):
  """The batch with other numbers in its masked rows."""
  image, labels, mask = map(np.array, (batch.image, batch.label, batch.mask))
  image[~mask], labels[~mask] = 0.9, label
  return dataclasses.replace(batch, image=image, label=labels)


def with_params(network, params):
  return dataclasses.replace(
    network, variables={**network.variables, "params": params}
  )


def slope_and_difference(objective, dtype=np.float64):
  """Slope of the summed loss along one direction: by gradient, by differences.

  The differences hold the points of the attack fixed, as the gradient must.
  """
  network, batch = linear_network(dtype), examples(dtype=dtype)
  key = jax.random.key(5)
  params = network.variables["params"] / 2
  direction = np.random.default_rng(8).normal(size=params.shape)
  h = 1e-5

  @jax.jit
  def both(params):
    def loss(params, points=None):
      at = dataclasses.replace(with_params(network, params), points=points)
      outcome = objective(at, batch, key)
      return jnp.sum(outcome.loss), outcome.points

    gradient, points = jax.grad(loss, has_aux=True)(params)
    ends = params[None] + h * np.stack([direction, -direction])
    up, down = jax.vmap(lambda params: loss(params, points)[0])(ends)
    return jnp.sum(gradient * direction), (up - down) / (2 * h)

  return both(params)


def recording(network, inputs):
  """The network, which appends the inputs of its training mode to `inputs`."""

  def train_fn(variables, x, where):
    inputs.append(x)
    return network.train_fn(variables, x, where)

  return dataclasses.replace(network, train_fn=train_fn)
