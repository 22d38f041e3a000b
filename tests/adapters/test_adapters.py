"""Networks of other libraries give the numbers of those libraries."""

import dataclasses
import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

import robust_info as ri
from robust_info import adapters
from robust_info.adapters import base
from robust_info.adapters.pytorch import adapter

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
N, C, SHAPE = 6, 4, (6, 6, 3)
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


@functools.cache
def images():
  return np.random.default_rng(0).uniform(size=(N, *SHAPE)).astype(np.float32)


def inputs(x, channels_first):
  """The inputs that a network gets for images."""
  mean, std = (np.float32(v).reshape(1, 1, 1, 3) for v in (MEAN, STD))
  x = (x - mean) / std
  return jnp.moveaxis(x, -1, 1) if channels_first else x


@dataclasses.dataclass
class Case:
  """A library: networks of one architecture with other weights, by seed.

  Attributes:
    make: seed -> network, in training mode where it has modes.
    adapt: (network, **options) -> adapter.
    call: (network, inputs) -> logits in evaluation mode, by the library.
    channels_first: layout of the inputs.
  """

  make: object
  adapt: object
  call: object
  channels_first: bool = False


def linen():
  from flax import linen as nn

  class Net(nn.Module):
    sizes: tuple[int, ...] = (5,)

    @nn.compact
    def __call__(self, x, train=True):
      x = nn.Conv(self.sizes[0], (3, 3))(x)
      x = nn.BatchNorm(use_running_average=not train)(x)
      x = nn.Dropout(0.5, deterministic=not train)(nn.tanh(x))
      return nn.Dense(C)(x.reshape(len(x), -1))

  module = Net()

  @jax.jit
  def make(seed):
    variables = module.init(jax.random.key(seed), images()[:1], train=False)
    return jax.tree.map(lambda leaf: leaf + 0.01, variables)

  return Case(
    make,
    lambda variables, **options: adapters.from_linen(
      Net(), variables, **options
    ),
    lambda variables, x: module.apply(variables, x, train=False),
  )


def nnx():
  from flax import nnx

  class Net(nnx.Module):
    def __init__(self, rngs):
      self.conv = nnx.Conv(3, 5, (3, 3), rngs=rngs)
      self.norm = nnx.BatchNorm(5, rngs=rngs)
      self.dropout = nnx.Dropout(0.5, rngs=rngs)
      self.dense = nnx.Linear(180, C, rngs=rngs)

    def __call__(self, x):
      x = self.dropout(nnx.tanh(self.norm(self.conv(x))))
      return self.dense(x.reshape(len(x), -1))

  def make(seed):
    model = Net(nnx.Rngs(seed))
    model(images())  # In training mode: it updates the running statistics.
    return model

  def call(model, x):
    return nnx.view(model, deterministic=True, use_running_average=True)(x)

  return Case(make, adapters.from_nnx, call)


def equinox():
  eqx = pytest.importorskip("equinox")

  class Net(eqx.Module):
    conv: eqx.nn.Conv2d
    norm: eqx.nn.BatchNorm
    dropout: eqx.nn.Dropout
    dense: eqx.nn.Linear
    activation: object

    def __init__(self, key):
      first, second = jax.random.split(key)
      self.conv = eqx.nn.Conv2d(3, 5, 3, padding=1, key=first)
      self.norm = eqx.nn.BatchNorm(5, "batch", mode="batch")
      self.dropout = eqx.nn.Dropout(0.5)
      self.dense = eqx.nn.Linear(180, C, key=second)
      self.activation = jnp.tanh

    def __call__(self, x, state, key=None):
      x, state = self.norm(self.conv(x), state)
      x = self.dropout(self.activation(x), key=key)
      return self.dense(x.reshape(-1)), state

  @eqx.filter_jit
  def batch(model, state, x, key=None):
    run = jax.vmap(model, axis_name="batch", in_axes=(0, None, 0 if key is
      not None else None), out_axes=(0, None))  # fmt: skip
    return run(x, state, key)

  def make(seed):
    model, state = eqx.nn.make_with_state(Net)(jax.random.key(seed))
    keys = jax.random.split(jax.random.key(1), N)
    _, state = batch(model, state, inputs(images(), True), keys)
    return model, state

  def call(network, x):
    model, state = network
    return batch(eqx.nn.inference_mode(model), state, x)[0]

  return Case(
    make,
    lambda network, **options: adapters.from_equinox(*network, **options),
    call,
    channels_first=True,
  )


def haiku():
  hk = pytest.importorskip("haiku")

  def forward(x, is_training):
    x = hk.Conv2D(5, 3)(x)
    x = hk.BatchNorm(True, True, 0.9)(x, is_training)
    return hk.Linear(C)(jnp.tanh(x).reshape(len(x), -1))

  net = hk.without_apply_rng(hk.transform_with_state(forward))

  def make(seed):
    params, state = net.init(jax.random.key(seed), images(), True)
    return params, net.apply(params, state, images(), True)[1]

  return Case(
    make,
    lambda network, **options: adapters.from_haiku(
      net.apply, *network, arguments={"is_training": False}, **options
    ),
    lambda network, x: net.apply(*network, x, False)[0],
  )


def keras():
  library = pytest.importorskip("keras")
  if library.backend.backend() != "jax":
    pytest.skip("needs KERAS_BACKEND=jax")
  layers = library.layers
  model = library.Sequential(
    [
      layers.Input(SHAPE),
      layers.Conv2D(5, 3, padding="same"),
      layers.BatchNormalization(),
      layers.Activation("tanh"),
      layers.Dropout(0.5),
      layers.Flatten(),
      layers.Dense(C),
    ]
  )
  shapes = [weight.shape for weight in model.get_weights()]

  def make(seed):
    rng = np.random.default_rng(seed)
    return [rng.uniform(0.1, 0.3, shape) for shape in shapes]

  def adapt(weights, **options):
    model.set_weights(weights)
    return adapters.from_keras(model, **options)

  def call(weights, x):
    model.set_weights(weights)
    return model(x, training=False)

  return Case(make, adapt, call)


@pytest.fixture(autouse=True)
def promotions():
  """The libraries themselves rely on the promotions of NumPy."""
  with jax.numpy_rank_promotion("allow"):
    yield


@pytest.fixture(
  scope="module",
  params=[linen, nnx, equinox, haiku, keras],
  ids=lambda make: make.__name__,
)
def case(request):
  return request.param()


def adapted(case, network, **options):
  options = {"mean": MEAN, "std": STD, **options}
  if case.channels_first:
    options["channels_first"] = True
  return case.adapt(network, **options)


def test_logits_and_fisher_norms_are_those_of_the_library(case):
  network = case.make(0)
  before = case.call(network, inputs(images(), case.channels_first))
  logits_fn = adapted(case, network, images=images())
  np.testing.assert_allclose(logits_fn(images()), before, atol=1e-5)

  def one(x):
    return case.call(network, inputs(x[None], case.channels_first))[0]

  # trace F = sum_k p_k |grad log p_k|^2, by the library's own derivatives.
  jacobian = jax.jit(jax.vmap(jax.jacrev(lambda x: jax.nn.log_softmax(one(x)))))
  p = scipy.special.softmax(np.asarray(before), axis=1)
  squares = np.sum(np.asarray(jacobian(images())) ** 2, axis=(2, 3, 4))
  np.testing.assert_allclose(
    jax.jit(ri.fisher_trace)(logits_fn, images()),
    np.sum(p * squares, axis=1),
    rtol=1e-4,
  )
  # The network is as it was.
  np.testing.assert_array_equal(
    case.call(network, inputs(images(), case.channels_first)), before
  )


def test_other_weights_of_an_architecture_compile_nothing(case):
  traces = []

  @jax.jit
  def trace_of(logits_fn, x):
    traces.append(None)
    return ri.fisher_trace(logits_fn, x)

  found = [trace_of(adapted(case, case.make(k)), images()) for k in range(2)]
  assert len(traces) == 1
  assert not np.allclose(*found)


def test_randomness_of_training_is_off(case):
  logits_fn = adapted(case, case.make(0))
  np.testing.assert_array_equal(logits_fn(images()), logits_fn(images()))
  # Rows do not depend on each other.
  np.testing.assert_allclose(
    logits_fn(images())[:2], jax.jit(logits_fn)(images()[:2]), atol=1e-5
  )


def test_an_ensemble_runs_and_its_state_knows_the_weights(tmp_path):
  case = nnx()
  options = {"epsilon": 0.1, "attacks": ("pgd",), "num_steps": 2,
             "state_dir": str(tmp_path)}  # fmt: skip
  labels, key = np.arange(N) % C, jax.random.key(0)
  first = ri.attacks.auto_attack(
    adapted(case, case.make(0)), images(), labels, key, **options
  )
  assert first.logits.shape == (N, C)
  with pytest.raises(ValueError, match="another"):
    ri.attacks.auto_attack(
      adapted(case, case.make(1)), images(), labels, key, **options
    )


def linear(weights):
  """A Linen network with any outputs."""
  from flax import linen as nn

  class Net(nn.Module):
    outputs: object

    @nn.compact
    def __call__(self, x):
      out = x.reshape(len(x), -1) @ self.param("w", lambda key: weights)
      return self.outputs(out)

  return lambda outputs, **options: adapters.from_linen(
    Net(outputs), {"params": {"w": weights}}, **options
  )


def test_logits_among_several_outputs_and_a_single_output():
  weights = np.ones((108, 1), np.float32) * np.float32([1, 2])
  make = linear(weights)
  flat = images().reshape(N, -1) @ weights
  pair = make(lambda out: (out[:, :1], out), output=1)
  named = make(lambda out: {"a": out, "b": out}, output="b")
  for logits_fn in (pair, named):
    np.testing.assert_allclose(logits_fn(images()), flat, rtol=1e-5)
  for single in (make(lambda out: out[:, :1]), make(lambda out: out[:, 0])):
    two = np.asarray(single(images()))
    np.testing.assert_allclose(two, flat[:, :1] * [0, 1], rtol=1e-5)
    assert adapters.num_classes(single, SHAPE) == 2


@functools.cache
def errors():
  """Name -> (call, part of its one line)."""
  from flax import linen, nnx

  make = linear(np.ones((108, 2), np.float32))
  model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))

  class Noisy(linen.Module):
    @linen.compact
    def __call__(self, x):
      return linen.Dropout(0.5, deterministic=False)(x.reshape(len(x), -1))

  class Drawing(nnx.Module):
    def __init__(self):
      self.streams = nnx.Rngs(0)

    def __call__(self, x):
      return x.reshape(len(x), -1) + jax.random.normal(self.streams(), (1, 108))

  noisy = adapters.from_linen(Noisy(), {"params": {}})
  return {
    "no logits": (lambda: make(lambda o: (o, o))(images()), "output=..."),
    "no such output": (
      lambda: make(lambda o: {"a": o}, output="b")(images()),
      "output='b' to be among .* keys \\['a'\\]",
    ),
    "another library": (
      lambda: adapters.from_linen(model, {"params": {}}),
      "module to be a Flax Linen module, got Linear",
    ),
    "no module": (lambda: adapters.from_nnx(lambda x: x), "Flax NNX module"),
    "no variables": (
      lambda: adapters.from_linen(Noisy(), model),
      "result of module.init",
    ),
    "lengths": (lambda: make(None, mean=(0.5,)), "mean and std of one length"),
    "mean": (lambda: make(None, mean=(np.nan,), std=(1,)), "mean=\\(nan,\\)"),
    "std": (lambda: make(None, mean=(0.5,), std=(0.0,)), "std > 0"),
    "channels": (
      lambda: make(lambda o: o, mean=(0.5,), std=(1.0,))(images()),
      "1 channels on the last axis",
    ),
    "training mode": (
      lambda: ri.fisher_trace(noisy, images()),
      "network without randomness in evaluation mode",
    ),
    "random output": (
      lambda: ri.fisher_trace(adapters.from_nnx(Drawing()), images()),
      "network without randomness in evaluation mode",
    ),
    "bytes": (
      lambda: make(lambda o: o)((255 * images()).astype(np.uint8)),
      "x to be floating point, got dtype=uint8; convert images with x / 255",
    ),
    "another size": (
      lambda: make(lambda o: o, images=images()[:, :5]),
      "the network to be a pure function",
    ),
    "another layout": (
      lambda: ri.fisher_trace(
        adapters.from_nnx(nnx.Conv(3, 2, (3, 3), rngs=nnx.Rngs(0))),
        np.moveaxis(images(), -1, 1),
      ),
      "logits_fn",
    ),
  }


@pytest.mark.parametrize("name", [*errors()])
def test_misuse_is_one_line(name):
  call, message = errors()[name]
  with pytest.raises((TypeError, ValueError), match=message) as caught:
    call()
  assert "\n" not in str(caught.value)
  # That is no advice where an adapter has made the network.
  assert "robust_info.adapters makes" not in str(caught.value)


def test_a_difference_from_the_library_is_stated_and_refused():
  make = linear(np.ones((108, 2), np.float32))
  logits_fn = make(lambda out: out)

  def original(x):
    return x.reshape(N, -1) @ np.ones((108, 2), np.float32) + 0.5

  found = adapters.difference(logits_fn, original, images())
  np.testing.assert_allclose(found, 0.5, rtol=1e-3)
  with pytest.raises(ValueError, match=r"largest difference of 0\.5"):
    base.adapted(
      logits_fn.func.run,
      *logits_fn.args,
      base.Conversion(),
      images=images(),
      original=original,
    )


def test_a_pytorch_that_torchax_does_not_know_is_one_line(monkeypatch):
  class Operators:
    def __getattr__(self, name):
      raise AttributeError(f"no operator {name}")

  def library(name, extra):
    return {"torch": torch}.get(name) or Operators().dropped

  torch = types.SimpleNamespace(
    __version__="9.9",
    _ops=types.SimpleNamespace(
      _OpNamespace=Operators, OpOverloadPacket=Operators
    ),
  )
  plain = Operators.__getattr__
  monkeypatch.setattr(base, "library", library)
  with pytest.raises(
    ImportError, match=r"got 9\.9 \(no operator dropped\); run pip install"
  ):
    adapter._mode()
  assert Operators.__getattr__ is plain


def test_arguments_and_parts_that_cannot_be_hashed_are_static_too():
  from flax import linen as nn

  class Net(nn.Module):
    @nn.compact
    def __call__(self, x, sizes):
      return nn.Dense(sizes[0])(x.reshape(len(x), -1))

  module, sizes = Net(), [C]
  variables = module.init(jax.random.key(0), images(), sizes)
  logits_fn = adapters.from_linen(
    module, variables, arguments={"sizes": sizes}, images=images()
  )
  assert jax.jit(ri.fisher_trace)(logits_fn, images()).shape == (N,)


def test_a_keras_layer_that_draws_numbers_is_refused():
  library = pytest.importorskip("keras")
  if library.backend.backend() != "jax":
    pytest.skip("needs KERAS_BACKEND=jax")

  class Noise(library.layers.Layer):
    def __init__(self):
      super().__init__()
      self.seeds = library.random.SeedGenerator(0)

    def call(self, x, training=None):
      return x + library.random.normal(x.shape[1:], seed=self.seeds)

  model = library.Sequential(
    [library.layers.Input((4,)), library.layers.Dense(3), Noise()]
  )
  logits_fn = adapters.from_keras(model)
  for call in (logits_fn, jax.jit(logits_fn)):
    with pytest.raises(ValueError, match="network without randomness"):
      call(np.zeros((2, 4), np.float32))


def assert_program_is_current(logits_fn):
  """A compiled program is found by the key; a plain function has none."""
  np.testing.assert_allclose(
    ri.fisher_trace(logits_fn, images()),
    jax.jit(lambda x: ri.fisher_trace(lambda x: logits_fn(x), x))(images()),
    rtol=1e-4,
  )


class Settings:
  """An object of the user's own, equal to itself only."""

  scale = 1.0


def linen_with(settings):
  from flax import linen as nn

  class Net(nn.Module):
    settings: object

    @nn.compact
    def __call__(self, x):
      return self.settings.scale * nn.Dense(C)(x.reshape(len(x), -1))

  net = Net(settings)
  variables = net.init(jax.random.key(0), images())
  return lambda: adapters.from_linen(net, variables)


def nnx_with(settings):
  nnx_ = pytest.importorskip("flax.nnx")

  class Net(nnx_.Module):
    def __init__(self):
      self.dense = nnx_.Linear(36 * 3, C, rngs=nnx_.Rngs(0))
      self.settings = settings

    def __call__(self, x):
      return self.settings.scale * self.dense(x.reshape(len(x), -1))

  net = Net()
  return lambda: adapters.from_nnx(net)


def equinox_with(settings):
  eqx = pytest.importorskip("equinox")

  class Net(eqx.Module):
    dense: eqx.nn.Linear
    settings: object = eqx.field(static=True)

    def __call__(self, x):
      return self.settings.scale * self.dense(x.reshape(-1))

  net = Net(eqx.nn.Linear(36 * 3, C, key=jax.random.key(0)), settings)
  return lambda: adapters.from_equinox(net)


@pytest.mark.parametrize("make", [linen_with, nnx_with, equinox_with])
def test_objects_that_change_make_other_networks(make):
  settings = Settings()
  adapt = make(settings)
  first = adapt()
  before = first(images())
  ri.fisher_trace(first, images())
  settings.scale = 2.0
  second = adapt()
  assert_program_is_current(second)
  np.testing.assert_array_equal(first(images()), before)
  np.testing.assert_allclose(second(images()), 2 * before, rtol=1e-6)


def test_a_part_that_is_used_twice_stays_one():
  nnx_ = pytest.importorskip("flax.nnx")

  class Block(nnx_.Module):
    def __init__(self, rngs):
      self.dense = nnx_.Linear(C, C, rngs=rngs)

    def __call__(self, x):
      return jnp.tanh(self.dense(x))

  class Net(nnx_.Module):
    def __init__(self):
      self.first = self.again = Block(nnx_.Rngs(0))

    def __call__(self, x):
      return self.again(self.first(x[:, 0, 0, :1] * jnp.ones((1, C))))

  assert len(jax.tree.leaves(adapters.from_nnx(Net()))) == 2


@pytest.mark.oracle
def test_a_changed_keras_model_is_another_network():
  case = keras()
  case.make(0)
  library = pytest.importorskip("keras")
  layers = library.layers
  model = library.Sequential(
    [
      layers.Input(SHAPE),
      layers.Flatten(),
      *(layers.Dense(4, activation="relu") for _ in range(2)),
      layers.Dense(C),
    ]
  )
  first = adapters.from_keras(model)
  before = first(images())
  ri.fisher_trace(first, images())
  # Other variables are trainable: the weights keep their places.
  for frozen in ([1], [2], [1, 2]):
    for number, layer in enumerate(model.layers):
      layer.trainable = number not in frozen
    np.testing.assert_array_equal(first(images()), before)
    assert_program_is_current(adapters.from_keras(model))
  model.layers[1].activation = library.activations.tanh
  second = adapters.from_keras(model, images=images())
  assert_program_is_current(second)
