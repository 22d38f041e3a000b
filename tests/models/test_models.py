import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models

from robust_info import models
from robust_info.models import layers

SHAPE = (8, 8, 1)
SMALL = pytest.mark.parametrize("name", ["logistic", "mlp", "cnn"])


def num_parameters(variables):
  return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


def build(name, shape=SHAPE, **kwargs):
  model = models.create(name, num_classes=10, **kwargs)
  return model, tiny_models.variables_of(model, shape)


def images(num, shape=SHAPE, seed=1):
  return tiny_models.images(num, seed=seed, shape=shape)


@pytest.mark.parametrize(
  ("name", "shape", "count"),
  [
    ("logistic", (28, 28, 1), 784 * 10 + 10),
    ("mlp", (8, 8, 1), 64 * 100 + 100 + 100 * 10 + 10),
    # 25*1*16+16, 25*16*32+32, 7*7*32*100+100, 100*10+10 by hand.
    ("cnn", (28, 28, 1), 416 + 12832 + 156900 + 1010),
    ("cnn", (8, 8, 1), 416 + 12832 + 12900 + 1010),
    ("cnn", (32, 32, 3), 1216 + 12832 + 204900 + 1010),
    # 25*1*32+32, 25*32*64+64, 7*7*64*1024+1024, 1024*10+10.
    ("madry_cnn", (28, 28, 1), 832 + 51264 + 3212288 + 10250),
  ],
)
def test_parameter_count_by_hand(name, shape, count):
  model = models.create(name, num_classes=10)
  variables = jax.eval_shape(
    lambda key: models.init(model, key, shape), jax.random.key(0)
  )
  assert num_parameters(variables) == count


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 2), (8, 8, 1)])
@SMALL
def test_any_image_size_gives_float32_logits(name, shape):
  model = models.create(name, num_classes=10)

  def logits_at(key):
    x = jax.random.uniform(key, (4, *shape))
    return models.apply_fn(model)(models.init(model, key, shape), x)

  logits = jax.eval_shape(logits_at, jax.random.key(0))
  assert logits.shape == (4, 10)
  assert logits.dtype == jnp.float32


@pytest.mark.parametrize("activation", models.ACTIVATIONS)
@SMALL
def test_rows_are_independent_in_evaluation_mode(name, activation):
  model, variables = build(name, activation=activation)
  x = np.asarray(images(5))
  apply = tiny_models.evaluate(model)
  np.testing.assert_allclose(
    apply(variables, x)[2], apply(variables, x[[2, 2, 0, 1, 3]])[0], atol=1e-5
  )


@SMALL
def test_a_row_alone_has_the_logits_it_has_in_a_batch(name):
  model, variables = build(name)
  x = np.asarray(images(5))
  apply = tiny_models.evaluate(model)
  np.testing.assert_allclose(
    apply(variables, x)[2:3], apply(variables, x[2:3]), atol=1e-5
  )


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_identity_activation_makes_logits_affine_in_the_input(name):
  model, variables = build(name, activation="identity", mean=(0.3,), std=(0.2,))
  a, b = np.split(np.asarray(images(2)), 2)
  f = functools.partial(tiny_models.evaluate(model), variables)

  np.testing.assert_allclose(
    f(0.3 * a + 0.7 * b), 0.3 * f(a) + 0.7 * f(b), atol=1e-5
  )


@pytest.mark.parametrize(
  ("activation", "numpy_fn"),
  [
    ("relu", lambda z: np.maximum(z, 0)),
    ("softplus", lambda z: np.log1p(np.exp(z))),
    ("silu", lambda z: z / (1 + np.exp(-z))),
    ("gelu", lambda z: z * 0.5 * (1 + np.vectorize(math.erf)(z / 2**0.5))),
    ("tanh", np.tanh),
    ("identity", lambda z: z),
  ],
)
def test_mlp_equals_the_formula(activation, numpy_fn):
  model, variables = build(
    "mlp", activation=activation, hidden_sizes=(7,), mean=(0.4,), std=(0.5,)
  )
  x = np.asarray(images(3))
  head = jax.tree.map(np.asarray, variables["params"]["Head_0"])
  z = (x.reshape(3, -1).astype(np.float64) - 0.4) / 0.5
  z = numpy_fn(z @ head["Dense_0"]["kernel"] + head["Dense_0"]["bias"])
  z = z @ head["Dense_1"]["kernel"] + head["Dense_1"]["bias"]
  found = tiny_models.evaluate(model)(variables, x)
  np.testing.assert_allclose(found, z, atol=1e-5)


@pytest.mark.parametrize("activation", models.ACTIVATIONS)
def test_first_two_derivatives_of_an_activation_are_finite_everywhere(
  activation,
):
  sizes = np.geomspace(1e-30, 3e38, 300, dtype=np.float32)
  function = layers.ACTIVATIONS[activation]
  slope = jax.grad(function)
  z = jnp.concatenate([-sizes, jnp.zeros(1), sizes])
  for derivative in (slope, jax.grad(slope), jax.jacfwd(slope)):
    assert np.isfinite(jax.jit(jax.vmap(derivative))(z)).all()


@SMALL
def test_normalisation_inside_equals_normalised_input_outside(name):
  mean, std = (0.2, 0.4, 0.6), (0.1, 0.2, 0.3)
  inside, variables = build(name, (8, 8, 3), mean=mean, std=std)
  outside, _ = build(name, (8, 8, 3))
  x = np.asarray(images(4, (8, 8, 3)))
  normalised = (x - np.float32(mean)) / np.float32(std)
  np.testing.assert_allclose(
    tiny_models.evaluate(inside)(variables, x),
    tiny_models.evaluate(outside)(variables, normalised),
    rtol=1e-4,
    atol=1e-4,
  )


@SMALL
def test_models_without_batch_norm_are_the_same_in_both_modes(name):
  model, variables = build(name)

  @jax.jit
  def both(variables, x):
    return models.train_fn(model)(
      variables, x, np.ones(len(x), bool)
    ), models.apply_fn(model)(variables, x)

  (logits, stats), evaluated = both(variables, images(5))
  np.testing.assert_array_equal(logits, evaluated)
  assert stats == {}


def test_equal_models_share_one_function():
  def make():
    return models.create("cnn", num_classes=3, mean=(0.1,), std=(1.0,))

  assert models.apply_fn(make()) is models.apply_fn(make())
  assert models.train_fn(make()) is models.train_fn(make())


def test_initialisation_is_a_function_of_the_key():
  model = models.create("mlp", num_classes=10)
  init = jax.jit(functools.partial(models.init, model, image_shape=SHAPE))
  first, again, other = (init(jax.random.key(seed)) for seed in (0, 0, 1))
  jax.tree.map(np.testing.assert_array_equal, first, again)
  assert not np.array_equal(
    first["params"]["Head_0"]["Dense_0"]["kernel"],
    other["params"]["Head_0"]["Dense_0"]["kernel"],
  )


@pytest.mark.parametrize(
  ("kwargs", "message"),
  [
    ({"name": "vit"}, "Expected name to be one of 'logistic'"),
    ({"activation": "swish"}, "Expected activation to be one of 'relu'"),
    ({"num_classes": 0}, "Expected num_classes >= 1"),
    ({"hidden_sizes": (3, 0)}, "hidden_sizes >= 1"),
    ({"mean": (0.1,)}, "mean and std of one length"),
  ],
)
def test_bad_arguments_are_named(kwargs, message):
  with pytest.raises(ValueError, match=message):
    models.create(**{"name": "cnn", "num_classes": 10, **kwargs})


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 3)])
def test_bad_image_shape_is_named(shape):
  model = models.create("cnn", num_classes=10, mean=(0.1,), std=(1.0,))
  with pytest.raises(ValueError, match="image_shape"):
    models.init(model, jax.random.key(0), shape)


@pytest.mark.parametrize("name", ["logistic", "mlp", "vgg11", "resnet20"])
def test_bytes_are_refused_instead_of_read_as_large_numbers(name):
  model = models.create(name, num_classes=10, mean=(0.5,) * 3, std=(0.2,) * 3)
  shape = (32, 32, 3)

  def logits(key, x):
    return models.apply_fn(model)(models.init(model, key, shape), x)

  with pytest.raises(
    TypeError, match="dtype=uint8; convert images with x / 25"
  ):
    jax.eval_shape(logits, jax.random.key(0), np.zeros((2, *shape), np.uint8))
