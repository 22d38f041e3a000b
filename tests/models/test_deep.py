"""VGG and residual networks: counts, outputs, the two modes, precision."""

import functools

import jax
import jax.numpy as jnp
import model_reference
import numpy as np
import oracles
import pytest
import tiny_models
from tiny_models import SHAPE

from robust_info import fisher, models
from robust_info.lenses import local as local_lib
from robust_info.lenses import path

VARIANTS = pytest.mark.parametrize("variant", models.VARIANTS)
ORDERS = pytest.mark.parametrize(
  "pre_activation", [False, True], ids=["post", "pre"]
)
NUMPY = model_reference.NumPy()


def all_models():
  yield from (tiny_models.resnet(pre_activation=p) for p in (False, True))
  yield from (tiny_models.vgg_net(variant=v) for v in models.VARIANTS)


EVERY = pytest.mark.parametrize(
  "model", list(all_models()), ids=["post", "pre", *models.VARIANTS]
)


def shapes_of(name, shape=(32, 32, 3), **kwargs):
  model = models.create(name, num_classes=10, **kwargs)
  return jax.eval_shape(
    lambda key: models.init(model, key, shape), jax.random.key(0)
  )


def num_parameters(variables):
  return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


def vgg_count(channels):
  convolutions = sum(
    9 * a * b + b for a, b in zip([3, *channels], channels, strict=False)
  )
  return convolutions + channels[-1] * 10 + 10


def resnet_count(num_blocks, width):
  """Option B: 1x1 convolution and BatchNorm where the shape changes."""
  total, last = 27 * 16 + 2 * 16, 16
  for stage, features in enumerate(int(k * width) for k in (16, 32, 64)):
    changes = stage > 0 or features != last
    total += 9 * last * features + 9 * features**2 + 4 * features
    total += changes * (last * features + 2 * features)
    total += (num_blocks - 1) * (18 * features**2 + 4 * features)
    last = features
  return total + last * 10 + 10


@pytest.mark.parametrize(
  ("name", "kwargs", "count"),
  [
    ("vgg11", {}, vgg_count([64, 128, 256, 256, *[512] * 4])),
    ("vgg13", {}, vgg_count([64, 64, 128, 128, 256, 256, *[512] * 4])),
    ("vgg13", {"width": 0.25}, vgg_count(np.repeat([16, 32, 64, 128, 128], 2))),
    # 0.64, 1.28, 2.56, 5.12 and 5.12 channels are rounded to 1, 1, 3, 5 and 5.
    ("vgg11", {"width": 0.01}, vgg_count([1, 1, 3, 3, 5, 5, 5, 5])),
    ("vgg11", {"width": 0.001}, vgg_count([1] * 8)),
    ("vgg16", {}, 14_719_818),
    ("vgg16", {"variant": "half_linear"}, 14_719_818),
    ("vgg16", {"variant": "pure_linear"}, 14_719_818),
    ("resnet20", {}, 272_474),
    ("resnet20", {"width": 5}, resnet_count(3, 5)),
    ("resnet20", {"width": 10}, resnet_count(3, 10)),
    ("resnet32", {}, resnet_count(5, 1)),
    ("resnet20", {"width": 0.25}, resnet_count(3, 0.25)),
    ("resnet32", {"width": 5}, resnet_count(5, 5)),
    ("resnet32", {"width": 10}, resnet_count(5, 10)),
    # Published: 11.17, 36.5 and 46.2 million.
    ("preact_resnet18", {}, 11_172_170),
    ("wide_resnet28", {"width": 10}, 36_479_194),
    ("wide_resnet34", {"width": 10}, 46_160_474),
  ],
)
def test_parameter_count_is_the_published_one(name, kwargs, count):
  assert num_parameters(shapes_of(name, **kwargs)) == count


def test_residual_networks_take_any_size_and_vgg_any_from_32():
  for name in ("resnet20", "preact_resnet18"):
    counts = {num_parameters(shapes_of(name, (s, s + 1, 3))) for s in (1, 33)}
    assert len(counts) == 1
  head = shapes_of("vgg11", (33, 64, 1))["params"]["head"]["kernel"]
  assert head.shape == (2 * 512, 10)


@pytest.mark.parametrize(
  ("name", "shape"), [("vgg11", (32, 31, 3)), ("madry_cnn", (3, 8, 1))]
)
def test_too_small_an_image_is_one_line_that_says_what_is_needed(name, shape):
  size = {"vgg11": "32x32", "madry_cnn": "4x4"}[name]
  with pytest.raises(ValueError, match=f"of at least {size} pixels") as error:
    shapes_of(name, shape)
  assert "\n" not in str(error.value)


@pytest.mark.parametrize(
  ("name", "argument", "value"),
  [
    ("resnet20", "variant", "half_linear"),
    ("cnn", "width", 2),
    ("cnn", "remat", True),
  ],
)
def test_an_argument_without_effect_is_refused(name, argument, value):
  with pytest.raises(ValueError, match=f"Expected {argument} = .* '{name}'"):
    models.create(name, num_classes=10, **{argument: value})


@pytest.mark.parametrize(
  ("kwargs", "message"),
  [
    ({"variant": "linear"}, "variant to be one of 'relu', 'half_linear'"),
    ({"dtype": "float16"}, "dtype to be one of 'float32', 'bfloat16'"),
    ({"width": 0}, "width > 0 and finite, got width=0"),
    ({"width": np.inf}, "width > 0 and finite, got width=inf"),
    ({"width": "5"}, "width > 0 and finite, got width='5'"),
    (
      {"name": "vgg11", "variant": "half_linear", "activation": "silu"},
      "activation = 'relu' with variant = 'half_linear', .* got 'silu'; use",
    ),
  ],
)
def test_bad_arguments_are_named(kwargs, message):
  with pytest.raises(ValueError, match=message):
    models.create(**{"name": "resnet20", "num_classes": 10, **kwargs})


@ORDERS
def test_resnet_equals_the_reference_in_evaluation_mode(pre_activation):
  model = tiny_models.resnet(pre_activation=pre_activation)
  variables, x = tiny_models.variables_of(model), tiny_models.images()
  expected, _ = model_reference.resnet(
    NUMPY, variables, x, pre_activation=pre_activation
  )
  found = tiny_models.evaluate(model)(variables, x)
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@VARIANTS
def test_vgg_equals_the_reference(variant):
  model = tiny_models.vgg_net(variant=variant)
  variables, x = tiny_models.variables_of(model), tiny_models.images()
  expected = model_reference.vgg(NUMPY, variables, x, variant=variant)
  found = tiny_models.evaluate(model)(variables, x)
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_vgg_applies_its_activation_after_each_convolution():
  model = tiny_models.vgg_net(activation="silu")
  variables, x = tiny_models.variables_of(model), tiny_models.images()
  expected = model_reference.vgg(
    NUMPY,
    variables,
    x,
    variant="relu",
    activate=lambda z: z / (1 + np.exp(-z)),
  )
  found = tiny_models.evaluate(model)(variables, x)
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_madry_s_network_equals_the_reference():
  model, shape = models.create("madry_cnn", num_classes=3), (5, 4, 1)
  variables = tiny_models.variables_of(model, shape)
  x = tiny_models.images(shape=shape)
  expected = model_reference.madry_cnn(NUMPY, variables, x)
  found = tiny_models.evaluate(model)(variables, x)
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@ORDERS
def test_training_mode_is_the_reference_on_the_unmasked_rows(pre_activation):
  model = tiny_models.resnet(pre_activation=pre_activation)
  variables, x = tiny_models.variables_of(model), tiny_models.images()
  where = jnp.array([True, False, True, True])
  expected, moments = model_reference.resnet(
    NUMPY, variables, x[where], pre_activation=pre_activation, train=True
  )
  logits, stats = tiny_models.train(model)(variables, x, where)
  np.testing.assert_allclose(logits[where], expected, rtol=1e-3, atol=1e-4)
  moved = jax.tree.map(
    lambda old, new: 0.9 * old + 0.1 * new,
    variables["batch_stats"],
    jax.tree.map(
      lambda pair: dict(zip(("mean", "var"), pair, strict=True)),
      moments,
      is_leaf=lambda node: isinstance(node, tuple),
    ),
  )
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5),
    stats,
    moved,
  )


def test_a_batch_without_an_unmasked_row_leaves_the_statistics():
  model = tiny_models.resnet()
  variables = tiny_models.variables_of(model)
  logits, stats = tiny_models.train(model)(
    variables, tiny_models.images(), jnp.zeros(4, bool)
  )
  assert np.isfinite(logits).all()
  jax.tree.map(np.testing.assert_array_equal, stats, variables["batch_stats"])


@ORDERS
def test_rows_depend_on_each_other_in_training_mode_only(pre_activation):
  model = tiny_models.resnet(pre_activation=pre_activation)
  variables, x = tiny_models.variables_of(model), tiny_models.images()
  other = x.at[3].set(1.0 - x[3])
  found, changed = (
    tiny_models.evaluate(model)(variables, z) for z in (x, other)
  )
  np.testing.assert_array_equal(found[:3], changed[:3])
  where = jnp.ones(4, bool)
  found, changed = (
    tiny_models.train(model)(variables, z, where)[0] for z in (x, other)
  )
  assert np.abs(found - changed)[:3].max() > 1e-3


@EVERY
def test_rows_are_independent_in_evaluation_mode(model):
  variables, x = tiny_models.variables_of(model), tiny_models.images()
  apply = tiny_models.evaluate(model)
  np.testing.assert_allclose(
    apply(variables, x[jnp.array([3, 3, 0, 2])])[0],
    apply(variables, x)[3],
    rtol=1e-5,
    atol=1e-6,
  )


@VARIANTS
def test_only_the_pure_linear_network_is_affine(variant):
  model = tiny_models.vgg_net(variant=variant)
  apply = functools.partial(
    tiny_models.evaluate(model), tiny_models.variables_of(model)
  )
  a, b = tiny_models.images(), tiny_models.images(seed=2)
  error = np.abs(apply(0.3 * a + 0.7 * b) - 0.3 * apply(a) - 0.7 * apply(b))
  assert (error.max() < 1e-4) == (variant == "pure_linear")


@pytest.mark.parametrize("variant", ["relu", "pure_linear"])
def test_path_lens_of_a_vgg_has_a_robust_part_unless_it_is_pure_linear(variant):
  model, shape, n = (
    tiny_models.vgg_net(variant=variant, depths=(1,)),
    (4, 4, 2),
    4,
  )
  variables = tiny_models.variables_of(model, shape)

  @jax.jit
  def lens(variables, x, x_other):
    return path.disentangle_path(
      lambda x: models.apply_fn(model)(variables, x), x, x_other, num_nodes=n
    )

  x, x_other = (tiny_models.images(seed=seed, shape=shape) for seed in (1, 2))
  found = lens(variables, x, x_other)
  z = [
    model_reference.vgg(
      NUMPY, variables, x + i / n * (x_other - x), variant=variant
    )
    for i in range(n + 1)
  ]
  expected = 0.0
  for i in range(n):
    forth = oracles.kl_divergence(z[i], z[i + 1])
    back = oracles.kl_divergence(z[i + 1], z[i])
    expected = expected + (n - 1 - i) * (forth + back) + forth
  np.testing.assert_allclose(
    found.non_robust, expected.astype(np.float64), rtol=1e-3
  )
  share = np.abs(found.robust / found.total).max()
  assert (share < 1e-3) == (variant == "pure_linear")


@pytest.mark.parametrize(
  "model",
  [
    tiny_models.resnet(),
    tiny_models.vgg_net(variant="half_linear", depths=(1,)),
  ],
  ids=["resnet", "vgg"],
)
def test_fisher_information_of_a_deep_network_is_that_of_its_jacobian(model):
  variables, x = tiny_models.variables_of(model), tiny_models.images(2)

  @jax.jit
  def both(variables, x):
    def logits_fn(x):
      return models.apply_fn(model)(variables, x)

    jacobian = jax.jacrev(lambda x: jnp.sum(logits_fn(x), axis=0))(x)
    local = local_lib.disentangle_local(logits_fn, x, x[::-1])
    return (
      fisher.fisher_trace(logits_fn, x, method="gram"),
      local.non_robust,
      jnp.moveaxis(jacobian, 0, 1).reshape(x.shape[0], 3, -1),
      jax.nn.softmax(logits_fn(x)),
    )

  trace, local, jacobian, p = (
    np.asarray(a, np.float64) for a in both(variables, x)
  )
  mean = np.einsum("nk,nkd->nd", p, jacobian)
  centred = jacobian - mean[:, None]
  expected = np.einsum("nk,nkd,nkd->n", p, centred, centred)
  np.testing.assert_allclose(trace, expected, rtol=1e-3)
  step = np.asarray(x[::-1] - x, np.float64).reshape(x.shape[0], -1)
  slopes = np.einsum("nkd,nd->nk", centred, step)
  expected = 0.5 * np.einsum("nk,nk->n", p, slopes**2)
  np.testing.assert_allclose(local, expected, rtol=1e-3)


@pytest.mark.parametrize(
  "make", [tiny_models.resnet, tiny_models.vgg_net], ids=["resnet", "vgg"]
)
def test_bfloat16_computes_in_it_and_keeps_the_rest_in_float32(make):
  model, half = make(), make(dtype="bfloat16")
  variables, x = tiny_models.variables_of(model), tiny_models.images()
  found = jax.eval_shape(models.train_fn(half), variables, x, jnp.ones(4, bool))
  created = jax.eval_shape(
    lambda key: models.init(half, key, SHAPE), jax.random.key(0)
  )
  for leaf in jax.tree.leaves((found, created)):
    assert leaf.dtype == jnp.float32
  jaxpr = str(jax.make_jaxpr(models.apply_fn(half))(variables, x))
  convolutions = [
    line for line in jaxpr.splitlines() if "= conv_general_dilated" in line
  ]
  assert convolutions
  assert all(":bf16[" in line for line in convolutions)
  exact = tiny_models.evaluate(model)(variables, x)
  error = tiny_models.evaluate(half)(variables, x) - exact
  assert 0 < np.abs(error).max() < 0.05 * np.abs(exact).max()


@pytest.mark.parametrize(
  "make",
  [
    functools.partial(tiny_models.resnet, features=(3,)),
    functools.partial(tiny_models.vgg_net, depths=(1,)),
  ],
  ids=["resnet", "vgg"],
)
def test_rematerialisation_changes_no_variable_and_no_gradient(make):
  variables, x = tiny_models.variables_of(make()), tiny_models.images()

  def gradient(model, variables, x):
    def loss(params):
      logits, stats = models.train_fn(model)(
        {**variables, "params": params}, x, jnp.ones(4, bool)
      )
      return jnp.sum(jax.nn.logsumexp(logits, axis=-1)), stats

    return jax.grad(loss, has_aux=True)(variables["params"])

  kept, anew = (
    functools.partial(gradient, make(remat=r)) for r in (False, True)
  )
  assert "remat" not in str(jax.make_jaxpr(kept)(variables, x))
  assert "remat" in str(jax.make_jaxpr(anew)(variables, x))
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5),
    jax.jit(kept)(variables, x),
    jax.jit(anew)(variables, x),
  )


@pytest.mark.oracle
@pytest.mark.parametrize(
  ("name", "kwargs"),
  [
    ("resnet20", {"width": 5}),
    ("resnet32", {}),
    ("preact_resnet18", {}),
    ("wide_resnet28", {"width": 2}),
    *(("vgg13", {"variant": v}) for v in models.VARIANTS),
  ],
)
def test_whole_network_equals_pytorch_s_layers(name, kwargs):
  torch = pytest.importorskip("torch")
  ops = model_reference.Torch(torch)
  model = models.create(name, num_classes=10, **kwargs)
  variables = models.init(model, jax.random.key(0), (32, 32, 3))
  x = jax.random.uniform(jax.random.key(1), (2, 32, 32, 3))
  found = jax.jit(models.apply_fn(model))(variables, x)
  if name.startswith("vgg"):
    expected = model_reference.vgg(ops, variables, x, **kwargs)
  else:
    expected, _ = model_reference.resnet(
      ops,
      variables,
      x,
      pre_activation=not name.startswith("resnet"),
    )
  scale = np.abs(expected).max()
  np.testing.assert_allclose(found / scale, expected / scale, atol=1e-4)
