"""Networks with transformed layers, and with keys that layers ignore."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

import robust_info as ri
from robust_info import adapters

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
N, C, WIDTH = 3, 3, 4


def images():
  return np.random.default_rng(0).uniform(size=(N, 2, 2, 1)).astype(np.float32)


def nnx(draws=False):
  """A network adapted, and the function of the library for its logits."""
  from flax import nnx

  class Block(nnx.Module):
    def __init__(self, rngs):
      self.dense = nnx.Linear(WIDTH, WIDTH, rngs=rngs)
      self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
      return self.dropout(jnp.tanh(self.dense(x)))

  class Net(nnx.Module):
    def __init__(self, rngs):
      @nnx.split_rngs(splits=2)
      @nnx.vmap(in_axes=(0,), out_axes=0)
      def stack(rngs):
        return Block(rngs)

      self.stacked, self.block = stack(rngs), Block(rngs)
      self.last, self.streams = nnx.Linear(WIDTH, C, rngs=rngs), rngs

    def __call__(self, x):
      x = x.reshape(len(x), -1)
      key, _ = jax.random.split(self.streams.dropout())
      x = x + jax.random.normal(key, x.shape) if draws else x
      x = nnx.scan(
        lambda x, layer: layer(x),
        in_axes=(nnx.Carry, 0),
        out_axes=nnx.Carry,
      )(x, self.stacked)
      x = nnx.remat(lambda layer, x: layer(x))(self.block, x)
      x = nnx.jit(lambda layer, x: layer(x))(self.block, x)
      return self.last(x)

  net = Net(nnx.Rngs(0, dropout=1))
  copy = nnx.merge(*nnx.split(net))
  copy.eval()
  graph, state = nnx.split(copy)
  call = jax.jit(lambda state, x: nnx.merge(graph, state)(x))
  return adapters.from_nnx(net), lambda x: call(state, x)


def linen(draws=False):
  from flax import linen as nn

  class Block(nn.Module):
    @nn.compact
    def __call__(self, x, _=None):
      key = self.make_rng("dropout")
      x = x + jax.random.normal(key, x.shape) if draws else x
      x = nn.Dropout(0.5)(jnp.tanh(nn.Dense(WIDTH)(x)), True, rng=key)
      return x, None

  class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
      x = x.reshape(len(x), -1)
      x, _ = nn.scan(
        Block,
        variable_axes={"params": 0},
        split_rngs={"params": True, "dropout": True},
        length=2,
      )()(x, None)
      return nn.Dense(C)(nn.jit(nn.remat(Block))()(x)[0])

  net, keys = Net(), {"params": jax.random.key(0), "dropout": jax.random.key(1)}
  variables = jax.jit(net.init)(keys, images())
  return (
    adapters.from_linen(net, variables),
    jax.jit(lambda x: net.apply(variables, x, rngs=keys)),
  )


def equinox(draws=False):
  eqx = pytest.importorskip("equinox")

  class Block(eqx.Module):
    dense: eqx.nn.Linear
    dropout: eqx.nn.Dropout

    def __init__(self, key):
      self.dense = eqx.nn.Linear(WIDTH, WIDTH, key=key)
      self.dropout = eqx.nn.Dropout(0.5)

    def __call__(self, x, *, key):
      first, second = jax.random.split(key)
      x = x + jax.random.normal(second, x.shape) if draws else x
      return self.dropout(jnp.tanh(self.dense(x)), key=first)

  class Net(eqx.Module):
    stacked: Block
    block: Block
    last: eqx.nn.Linear

    def __init__(self, key):
      keys = jax.random.split(key, 4)
      self.stacked = eqx.filter_vmap(Block)(keys[:2])
      self.block = Block(keys[2])
      self.last = eqx.nn.Linear(WIDTH, C, key=keys[3])

    def __call__(self, x, *, key):
      arrays, rest = eqx.partition(self.stacked, eqx.is_array)
      keys = jax.random.split(key, 2)
      x, _ = jax.lax.scan(
        lambda x, layer: (eqx.combine(layer[0], rest)(x, key=layer[1]), None),
        x.reshape(-1),
        (arrays, keys),
      )
      block = eqx.filter_jit(eqx.filter_checkpoint(self.block))
      return self.last(block(x, key=jax.random.fold_in(key, 2)))

  net = Net(jax.random.key(0))
  evaluated = eqx.nn.inference_mode(net)
  return (
    adapters.from_equinox(net),
    jax.jit(jax.vmap(lambda x: evaluated(x, key=jax.random.key(1)))),
  )


def haiku(draws=False):
  hk = pytest.importorskip("haiku")

  def block(x):
    key, _ = hk.next_rng_keys(2)
    x = x + jax.random.normal(key, x.shape) if draws else x
    return hk.dropout(key, 0.0, jnp.tanh(hk.Linear(WIDTH)(x)))

  def forward(x):
    x = hk.experimental.layer_stack(2)(block)(x.reshape(len(x), -1))
    return hk.Linear(C)(hk.remat(block)(x))

  net = hk.transform(forward)
  params = net.init(jax.random.key(0), images())
  return (
    adapters.from_haiku(net.apply, params),
    lambda x: net.apply(params, jax.random.key(1), x),
  )


@pytest.fixture(
  scope="module",
  params=[nnx, linen, equinox, haiku],
  ids=lambda make: make.__name__,
)
def library(request):
  return request.param


@pytest.fixture(autouse=True)
def promotions():
  """The libraries themselves rely on the promotions of NumPy."""
  with jax.numpy_rank_promotion("allow"):
    yield


def test_logits_are_those_of_the_library_wherever_the_network_is(library):
  logits_fn, call = library()
  x = jnp.asarray(images())
  expected = call(x)
  for found in (
    logits_fn(x),
    jax.jit(lambda x: logits_fn(x))(x),  # The network is a constant,
    jax.jit(lambda fn, x: fn(x))(logits_fn, x),  # or an argument.
    jax.vmap(lambda x: logits_fn(x[None])[0])(x),
  ):
    np.testing.assert_allclose(found, expected, atol=1e-5)
  # trace F = sum_k p_k |grad log p_k|^2, by the library's own derivatives.
  jacobian = jax.jacrev(lambda x: jax.nn.log_softmax(call(x[None])[0]))
  squares = np.asarray(jax.jit(jax.vmap(jacobian))(x)) ** 2
  p = scipy.special.softmax(np.asarray(expected), axis=1)
  trace = np.sum(p * np.sum(squares, axis=(2, 3, 4)), axis=1)
  np.testing.assert_allclose(ri.fisher_trace(logits_fn, x), trace, rtol=1e-4)


def test_numbers_that_the_logits_depend_on_are_refused(library):
  logits_fn, _ = library(draws=True)
  for run in (
    lambda: logits_fn(images()),
    lambda: jax.jit(logits_fn)(images()),
    lambda: ri.fisher_trace(logits_fn, images()),
  ):
    with pytest.raises(ValueError, match="network without randomness in eval"):
      run()


def test_keys_of_ones_own_belong_to_the_network():
  from flax import linen as nn

  class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
      return nn.Dropout(0.5, deterministic=False)(x.reshape(len(x), -1))

  rngs = {"dropout": jax.random.key(0)}
  logits_fn = adapters.from_linen(
    Net(), {"params": {}}, arguments={"rngs": rngs}
  )
  np.testing.assert_array_equal(
    logits_fn(images()), Net().apply({}, images(), rngs=rngs)
  )
