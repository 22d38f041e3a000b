"""Rolled, unrolled and batched loops compute the same values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import robust_info as ri
from robust_info._xla import loops


@pytest.fixture(scope="module")
def network():
  rng = np.random.default_rng(0)
  kernel = jnp.asarray(np.float32(rng.normal(size=(3, 3, 1, 4))))
  weights = jnp.asarray(np.float32(rng.normal(size=(64, 5))))

  def logits_fn(x):
    hidden = jax.lax.conv_general_dilated(
      x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return jnp.tanh(hidden).reshape(len(x), -1) @ weights

  x = jnp.asarray(np.float32(rng.uniform(size=(6, 4, 4, 1))))
  return logits_fn, x


def measures(logits_fn, x):
  y = jnp.arange(len(x)) % 5
  attacked = ri.attacks.pgd(
    logits_fn, x, y, jax.random.key(0), epsilon=0.1, num_steps=4
  )
  path = ri.disentangle_path(logits_fn, x, x[::-1], num_nodes=8, method="jvp")
  return {
    "attacked": attacked.x_adv,
    "path": path.non_robust,
    "gram": ri.fisher_gram(logits_fn, x),
  }


def estimates(logits_fn, x):
  key = jax.random.key(0)
  free = ri.fisher_norms(logits_fn, x, method="matrix_free", key=key)
  coarse = ri.coarse_fisher_norms(logits_fn, x, max_classes=2, key=key)
  return {
    "trace": free.trace,
    "frobenius": free.frobenius,
    "coarse": coarse.trace_error,
  }


def climbs(logits_fn, x):
  y = jnp.arange(len(x)) % 5
  attacked = ri.attacks.apgd(
    logits_fn, x, y, jax.random.key(1), epsilon=0.1, num_steps=5
  )
  return {
    "apgd": attacked.x_adv,
    "lanczos": ri.fisher_spectral_norm(logits_fn, x, method="matrix_free"),
  }


def compiled(network, *parts):
  """The numbers of these parts from a program of their own."""
  logits_fn, x = network

  # A new function object, so that `jit` does not reuse another program.
  @jax.jit
  def program(x):
    found = {}
    for part in parts:
      found.update(part(logits_fn, x))
    return found

  return program(x)


@pytest.fixture(scope="module")
def rolled(network):
  """All numbers from rolled loops over whole batches, one call at a time."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(jax, "default_backend", lambda: "cpu")
    patch.setattr(loops, "_MIN_VALUES", 10**9)
    assert loops.unroll_length(4) == 1
    return compiled(network, measures, estimates, climbs)


def assert_equals_rolled(found, rolled):
  for name, number in found.items():
    np.testing.assert_allclose(
      rolled[name], number, rtol=1e-4, atol=1e-6, err_msg=name
    )


@pytest.mark.usefixtures("on_cpu")
def test_unrolled_loops_equal_rolled_ones(network, rolled, monkeypatch):
  monkeypatch.setattr(loops, "MAX_UNROLL_ON_CPU", 128)
  assert loops.unroll_length(4) == 4
  assert_equals_rolled(compiled(network, measures), rolled)


@pytest.mark.parametrize("at_once", [10**9, 3 * 96])
def test_vectorised_calls_equal_loops(network, rolled, monkeypatch, at_once):
  monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
  monkeypatch.setattr(loops, "MAX_VALUES_AT_ONCE", at_once)
  assert_equals_rolled(compiled(network, measures, estimates), rolled)


@pytest.mark.usefixtures("on_cpu")
def test_long_loops_stay_rolled(monkeypatch):
  monkeypatch.setattr(loops, "MAX_UNROLL_ON_CPU", 128)
  assert loops.unroll_length(128) == 128
  assert loops.unroll_length(129) == 1
  assert loops.unroll_length(0) == 1


def test_a_single_step_is_no_loop(network):
  logits_fn, x = network

  def attack(x):
    y = jnp.zeros(len(x), jnp.int32)
    key = jax.random.key(0)
    return ri.attacks.pgd(logits_fn, x, y, key, epsilon=0.1, num_steps=1).x_adv

  program = str(jax.make_jaxpr(attack)(x))
  assert "conv_general_dilated" in program
  assert "scan" not in program
  assert "while" not in program


def test_only_loops_to_be_differentiated_are_unrolled(network):
  logits_fn, x = network
  y = jnp.zeros(len(x), jnp.int32)

  def attack(x, key):
    return ri.attacks.pgd(logits_fn, x, y, key, epsilon=0.1, num_steps=6).x_adv

  program = str(jax.make_jaxpr(attack)(x, jax.random.key(0)))
  assert "unroll=1\n" in program
  assert "unroll=6\n" not in program
  program = str(jax.make_jaxpr(lambda x: ri.fisher_gram(logits_fn, x))(x))
  assert f"unroll={loops.unroll_length(4)}\n" in program


@pytest.mark.parametrize("xs", [None, (jnp.arange(2.0)[None], jnp.ones(1))])
def test_a_single_step_returns_what_the_loop_returns(xs):
  def step(carry, x):
    return 2 * carry, {"sum": carry + 1, "x": x, "constant": 3}

  start = jnp.arange(3.0)
  found = loops.scan(step, start, xs, length=1)
  wanted = jax.lax.scan(step, start, xs, length=1)
  assert jax.tree.structure(found) == jax.tree.structure(wanted)
  jax.tree.map(np.testing.assert_array_equal, found, wanted)


def test_batches_give_what_one_call_gives(network):
  logits_fn, x = network
  whole = logits_fn(x)
  # Logits reach 17: 1e-5 is five units in their last place.
  for size in (1, 4, 6, 9):
    np.testing.assert_allclose(
      loops.in_batches(
        lambda x, _: logits_fn(x), x, jax.random.key(0), batch_size=size
      ),
      whole,
      atol=1e-5,
    )


@pytest.mark.usefixtures("on_cpu", "one_device")
def test_a_batch_side_by_side_gives_the_same(network, rolled, monkeypatch):
  logits_fn, x = network
  monkeypatch.setattr(loops, "_MAX_PARTS", 2)
  programs = []
  for values in (10**9, 1):
    monkeypatch.setattr(loops, "_MIN_VALUES", values)
    gram = jax.make_jaxpr(lambda x: ri.fisher_gram(logits_fn, x))(x)
    programs.append(str(gram).count("conv_general_dilated["))
  assert programs[1] == 2 * programs[0]
  assert_equals_rolled(compiled(network, measures, climbs), rolled)


def test_an_uneven_batch_keeps_its_order(network, monkeypatch):
  logits_fn, x = network
  monkeypatch.setattr(loops, "_MIN_VALUES", 1)
  monkeypatch.setattr(loops, "_MAX_PARTS", 4)
  found = loops.side_by_side(logits_fn)(x)
  np.testing.assert_allclose(found, logits_fn(x), rtol=1e-5)


@pytest.mark.usefixtures("on_cpu", "one_device")
def test_what_gains_nothing_stays_whole(network, monkeypatch):
  logits_fn, x = network

  def sizes(fn, x):
    seen = []
    loops.side_by_side(lambda x: (seen.append(len(x)), fn(x))[1])(x)
    return set(seen)

  monkeypatch.setattr(loops, "_MAX_PARTS", 2)
  dense = lambda x: jnp.tanh(x.reshape(len(x), -1))  # noqa: E731
  assert sizes(logits_fn, x) == {6}  # small
  monkeypatch.setattr(loops, "_MIN_VALUES", 1)
  # A traced call with one more row shows which kind of function it is.
  assert sizes(logits_fn, x) == {7, 3}
  assert sizes(logits_fn, x[:1]) == {1}
  assert sizes(dense, x) == {7, 6}
  monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
  assert sizes(logits_fn, x) == {6}


def test_a_function_that_holds_rows_stays_whole(network, monkeypatch):
  # Parts are single rows, which would broadcast against the held arrays.
  logits_fn, x = network
  monkeypatch.setattr(loops, "_MIN_VALUES", 1)
  monkeypatch.setattr(loops, "_MAX_PARTS", len(x))
  mask = jnp.arange(6 * 5).reshape(6, 5) % 2 == 0
  offset = jnp.arange(6.0)
  for fn in (
    lambda x: jnp.where(mask, 0.0, logits_fn(x)),
    lambda x: logits_fn(x) + offset[: len(x), None],
    lambda x: jax.vmap(lambda z, o: z * o)(logits_fn(x), offset),
    lambda x: logits_fn(x) + jnp.sum(jnp.where(mask, logits_fn(x), 0.0)),
  ):
    np.testing.assert_allclose(loops.side_by_side(fn)(x), fn(x), rtol=1e-5)
