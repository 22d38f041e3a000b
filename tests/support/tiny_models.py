"""The deep networks, a few channels wide, with variables of no special form."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from robust_info import models
from robust_info.models import residual, vgg

SHAPE, NUM_CLASSES = (8, 8, 2), 3


def resnet(*, pre_activation=False, features=(3, 4), **changes):
  return residual.ResNet(NUM_CLASSES, pre_activation, 1, 3, features, **changes)


def vgg_net(*, variant="relu", depths=(1, 2), **changes):
  features = (4, 5)[: len(depths)]
  return vgg.VGG(NUM_CLASSES, depths, features, variant, **changes)


@functools.cache
def variables_of(model, shape=SHAPE):
  """NumPy draws of every leaf: nothing is compiled, nothing at its default."""
  abstract = jax.eval_shape(
    lambda key: models.init(model, key, shape), jax.random.key(0)
  )
  rng = np.random.default_rng(0)

  def draw(path, leaf):
    name = path[-1].key
    if name == "kernel":
      scale = np.sqrt(2 / np.prod(leaf.shape[:-1]))
      values = scale * rng.normal(size=leaf.shape)
    else:
      values = (name in ("scale", "var")) + rng.uniform(-0.5, 0.5, leaf.shape)
    return jnp.asarray(np.float32(values))

  return jax.tree_util.tree_map_with_path(draw, abstract)


@functools.cache
def evaluate(model):
  return jax.jit(models.apply_fn(model))


@functools.cache
def train(model):
  return jax.jit(models.train_fn(model))


def images(num=4, seed=1, shape=SHAPE):
  values = np.random.default_rng(seed).uniform(size=(num, *shape))
  return jnp.asarray(np.float32(values))
