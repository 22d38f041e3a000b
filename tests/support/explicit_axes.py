"""Public functions of arrays on explicit mesh axes; needs four devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import public_calls
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import robust_info as ri

KEY = jax.random.key(0)
LABELS = public_calls.LABELS


def place(mesh, array, *spec):
  return jax.device_put(array, NamedSharding(mesh, P(*spec)))


def apply(weights, x):
  hidden = jnp.tanh(x.reshape(x.shape[0], -1) @ weights["first"])
  return hidden @ weights["second"]


def measure(weights, x, labels):
  """One result of each kind: statistics, rows, attacked images."""
  network = functools.partial(apply, weights)
  return {
    "stats": ri.information_stats(network(x), labels),
    "trace": ri.fisher_trace(network, x),
    "attacked": ri.attacks.fgsm(network, x, labels, KEY, epsilon=0.1),
  }


def penalty(wrap, weights, x):
  return jnp.mean(ri.fisher_trace(wrap(apply, weights), x))


def same(found, wanted):
  for (path, a), b in zip(
    jax.tree.leaves_with_path(found), jax.tree.leaves(wanted), strict=True
  ):
    name = jax.tree_util.keystr(path)
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5, err_msg=name)


def check():
  """Asserts that values do not depend on the kind of the axes."""
  mesh = jax.make_mesh(
    (4,),
    ("data",),
    axis_types=(jax.sharding.AxisType.Explicit,),
    devices=jax.devices()[:4],
  )
  arrays = public_calls.arrays()
  plain = {name: arrays[name] for name in ("first", "second")}
  weights = {name: place(mesh, array) for name, array in plain.items()}
  x, other = (place(mesh, arrays[name], "data") for name in ("x", "other"))
  labels = place(mesh, LABELS, "data")

  wanted = jax.jit(measure)(plain, arrays["x"], LABELS)
  found = jax.jit(lambda x, y: measure(weights, x, y))(x, labels)
  same(found, wanted)
  assert jax.typeof(found["trace"]).sharding.spec == P("data")
  assert found["attacked"].x_adv.sharding.shard_shape(x.shape)[0] == 3
  for leaf in jax.tree.leaves(found["stats"]):
    assert leaf.is_fully_replicated
  # From the host, with an array on devices and a mesh in the context.
  logits = apply(weights, x)
  with jax.set_mesh(mesh):
    same(ri.information_stats(logits, labels), wanted["stats"])
  network = jax.tree_util.Partial(apply, weights)
  attacked = ri.attacks.fgsm(network, x, labels, KEY, epsilon=0.1)
  same(attacked, wanted["attacked"])
  assert attacked.x_adv.sharding.shard_shape(x.shape)[0] == 3

  check_refusals(weights, arrays["x"], x)
  check_every_function(arrays, mesh, x, other)


def check_refusals(weights, plain_x, x):
  partial = functools.partial(penalty, jax.tree_util.Partial)
  gradient = jax.eval_shape(jax.grad(partial), weights, x)
  assert jax.tree.map(np.shape, gradient) == jax.tree.map(np.shape, weights)
  held = functools.partial(penalty, functools.partial)
  with pytest.raises(ValueError, match=r"pass jax\.tree_util\.Partial"):
    jax.eval_shape(jax.grad(held), weights, x)
  other = jax.make_mesh((2,), ("rows",), devices=jax.devices()[:2])
  with pytest.raises(ValueError, match="all arguments on one mesh"):
    ri.kl_divergence(x, place(other, plain_x, "rows"))


def check_every_function(arrays, mesh, x, other):
  """Traces every function: types alone show errors, so nothing is compiled."""
  held = {name: place(mesh, arrays[name]) for name in ("first", "second")}
  # `public_calls` then has its network and labels on the mesh.
  public_calls.arrays = lambda: held
  public_calls.LABELS = place(mesh, LABELS, "data")
  public_calls.GROUPS = place(mesh, public_calls.GROUPS, "data")

  def call(name, x, other):
    return public_calls.calls(x, other)[name]()

  for name in public_calls.calls(x, other):
    jax.eval_shape(functools.partial(call, name), x, other)
