"""Eager calls run one program for each architecture, and see what changes."""

import collections
import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np
import public_calls
import pytest

import robust_info as ri
from robust_info import _validate, attacks
from robust_info._xla import compiled

KEY = jax.random.key(0)
RUNS = collections.Counter()


def apply(weights, x):
  """A network that counts how often Python runs it."""
  RUNS["network"] += 1
  hidden = jnp.tanh(x.reshape(x.shape[0], -1) @ weights["first"])
  return hidden @ weights["second"]


def weights(scale=1.0):
  arrays = public_calls.arrays()
  return {k: jnp.asarray(scale * arrays[k]) for k in ("first", "second")}


def network(scale=1.0):
  return jax.tree_util.Partial(apply, weights(scale))


def images():
  return [jnp.asarray(public_calls.arrays()[k]) for k in ("x", "other")]


@contextlib.contextmanager
def nothing_new():
  """Asserts that no network is traced and no program compiled inside."""
  found = []

  def listen(event, duration, **_):
    del duration
    if event.endswith("backend_compile_duration"):
      found.append(event)

  RUNS.clear()
  jax.monitoring.register_event_duration_secs_listener(listen)
  yield
  jax.monitoring.unregister_event_duration_listener(listen)
  assert not found
  assert not RUNS


def attack(name, **options):
  def call(fn, x, other, size):
    del other
    labels = public_calls.LABELS
    keys = () if name == "fisher_pgd" else (KEY,)
    args = (x, KEY) if name == "kl_pgd" else (x, labels, *keys)
    return getattr(attacks, name)(fn, *args, epsilon=size, **options)

  return call


LANCZOS = {"method": "matrix_free", "num_steps": 2, "num_probes": 2}
CALLS = {
  "coarse_fisher_norms": lambda fn, x, other, size: ri.coarse_fisher_norms(
    fn, x, max_classes=2, batch_size=5
  ),
  "disentangle_local": lambda fn, x, other, size: ri.disentangle_local(
    fn, x, other
  ),
  "disentangle_path": lambda fn, x, other, size: ri.disentangle_path(
    fn, x, other, num_nodes=2, rtol=size, max_nodes=4
  ),
  "fisher_eigenvectors": lambda fn, x, other, size: ri.fisher_eigenvectors(
    fn, x, k=1
  ),
  "fisher_frobenius": lambda fn, x, other, size: ri.fisher_frobenius(fn, x),
  "fisher_gram": lambda fn, x, other, size: ri.fisher_gram(fn, x),
  "fisher_norms": lambda fn, x, other, size: ri.fisher_norms(fn, x, **LANCZOS),
  "fisher_quadratic": lambda fn, x, other, size: ri.fisher_quadratic(
    fn, x, other
  ),
  "fisher_spectral_norm": lambda fn, x, other, size: ri.fisher_spectral_norm(
    fn, x
  ),
  "fisher_trace": lambda fn, x, other, size: ri.fisher_trace(
    fn, x, batch_size=5
  ),
  "fisher_vector_product": lambda fn, x, other, size: ri.fisher_vector_product(
    fn, x, other
  ),
  "path_fisher_estimate": lambda fn, x, other, size: ri.path_fisher_estimate(
    fn, x, other, KEY
  ),
  "apgd": attack("apgd", num_steps=1),
  "apgd_targeted": attack("apgd_targeted", num_steps=1),
  "fab": attack("fab", num_steps=1),
  "fab_targeted": attack("fab_targeted", num_steps=1),
  "fgsm": attack("fgsm"),
  "fisher_pgd": attack("fisher_pgd", num_steps=1),
  "kl_pgd": attack("kl_pgd", num_steps=1),
  "pgd": attack("pgd", num_steps=2, momentum=0.5, random_start=False),
  "square": attack("square", num_queries=2),
}
# Functions of arrays that loop.
LOOPS = ("fit_temperature", "merge_groups", "pointwise_information")


@pytest.mark.parametrize("name", CALLS)
def test_other_weights_and_values_run_the_same_program(name):
  x, other = images()
  call = CALLS[name]
  first = call(network(), x, other, 0.1)
  fn = network(0.5)
  with nothing_new():
    second = call(fn, other, x, 0.2)
  for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
    assert a.shape == b.shape
  same = jax.tree.map(np.array_equal, first, second)
  assert not all(jax.tree.leaves(same))


@pytest.mark.parametrize("name", LOOPS)
def test_functions_of_arrays_compile_once(name):
  x, other = images()
  jax.block_until_ready(public_calls.calls(x, other)[name]())
  call = public_calls.calls(other, x)[name]
  with nothing_new():
    call()


def test_a_program_gives_the_numbers_of_the_function():
  """A half-precision row of the host, with a number among the leaves."""
  low = jax.tree.map(lambda v: v.astype(jnp.bfloat16), weights())

  def scaled(scale, weights, x):
    return scale * apply(weights, x.astype(jnp.bfloat16))

  x, other = (np.asarray(v[:1]) for v in images())
  for scale in (1, 2.0):
    fn = jax.tree_util.Partial(scaled, scale, low)
    np.testing.assert_allclose(
      ri.fisher_quadratic(fn, x, other),
      ri.fisher_quadratic(lambda x, fn=fn: fn(x), x, other),
      rtol=0.05,
    )


def test_what_may_change_is_never_kept():
  x, other = images()
  scale = 1.0

  def changing(x):
    return scale * apply(weights(), x)

  def loss(logits, labels):
    del labels
    return scale * logits[:, 0]

  def measure():
    attacked = attacks.fgsm(
      network(), x, public_calls.LABELS, epsilon=0.1, loss=loss
    )
    hidden = jax.tree_util.Partial(changing)
    return (
      *(ri.fisher_quadratic(fn, x, 0.01 * other) for fn in (changing, hidden)),
      attacked.loss,
    )

  small = measure()
  scale = 2.0
  for a, b in zip(small, measure(), strict=True):
    assert (np.abs(b) > 1.5 * np.abs(a)).all()


class Unhashable:
  __hash__ = None

  def __call__(self, weights, x):
    return apply(weights, x)


def with_a_number(weights, x):
  """Works with known weights only."""
  return apply(weights, x) * (np.sum(weights["first"]) > -np.inf)


@pytest.mark.parametrize("fn", [Unhashable(), with_a_number])
def test_what_has_no_program_runs_as_it_is(fn):
  x, other = images()
  found = ri.fisher_quadratic(jax.tree_util.Partial(fn, weights()), x, other)
  expected = ri.fisher_quadratic(network(), x, other)
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-7)


def test_traced_calls_hold_no_program():
  def square(x, power):
    return jnp.sum(x**power)

  kept = compiled.once(square)
  for transform in (jax.make_jaxpr, lambda fn: jax.make_jaxpr(jax.grad(fn))):
    programs = [
      str(transform(functools.partial(fn, power=2))(jnp.ones(3)))
      for fn in (square, kept)
    ]
    assert programs[0] == programs[1]


def test_results_of_shapes_are_remembered_per_architecture(monkeypatch):
  calls = []

  @compiled.remembered
  def width(logits_fn, x):
    calls.append(x.shape)
    return logits_fn(x).shape[1]

  x, _ = images()
  half = lambda weights, x: apply(weights, x)[:, :1]  # noqa: E731
  assert [width(network(scale), x) for scale in (1.0, 2.0)] == [4, 4]
  assert len(calls) == 1
  assert width(network(), x[:2]) == 4
  assert width(jax.tree_util.Partial(half, weights()), x) == 1
  assert len(calls) == 3
  # A plain function may change from call to call.
  plain = functools.partial(apply, weights())
  assert [width(plain, x) for _ in range(2)] == [4, 4]
  assert len(calls) == 5
  monkeypatch.setattr(compiled, "_MAX_REMEMBERED", 2)
  for rows in (3, 1):
    assert width(network(), x[:rows]) == 4
  assert width(jax.tree_util.Partial(half, weights()), x) == 1
  assert len(calls) == 8


def test_equal_constants_of_other_types_have_programs_of_their_own():
  @compiled.once
  def product(x, factor):
    return x * factor

  one = jnp.ones((), jnp.int32)
  dtypes = [product(one, factor).dtype for factor in (1, 1.0, True, 1.0)]
  assert dtypes == [jnp.int32, jnp.float32, jnp.int32, jnp.float32]


def soft(weights, x):
  return jax.nn.softmax(apply(weights, x))


def low(weights, x):
  return apply(weights, x.astype(jnp.bfloat16)).astype(jnp.float32)


def chord(fn, x, other, size):
  """A path without the loop over more and more nodes, quick to compile."""
  del size
  return ri.disentangle_path(fn, x, other, num_nodes=2)


@pytest.mark.parametrize(
  ("fn", "call", "warning"),
  [
    (soft, CALLS["fisher_quadratic"], _validate.ProbabilitiesAsLogits),
    (soft, CALLS["fisher_trace"], _validate.ProbabilitiesAsLogits),
    (low, chord, UserWarning),
  ],
  ids=["quadratic", "trace", "path"],
)
def test_a_program_warns_at_every_call(fn, call, warning):
  x, other = images()
  for scale in (1.0, 0.5):
    with pytest.warns(warning) as seen:
      call(jax.tree_util.Partial(fn, weights(scale)), x, other, 0.1)
    assert len(seen) == 1
    assert seen[0].filename == __file__


def test_a_program_refuses_what_the_function_refuses():
  x, _ = images()
  labels = public_calls.LABELS

  def attacked(x=x, labels=labels, epsilon=0.1):
    return attacks.fgsm(network(), x, labels, epsilon=epsilon)

  attacked()
  with pytest.raises(ValueError, match=r"y in \[0, 4\), .*got y\[3\]=4"):
    attacked(labels=labels + (labels == 3))
  with pytest.raises(ValueError, match="x in bounds"):
    attacked(x=3 * x)
  with pytest.raises(
    ValueError, match="epsilon >= 0 and finite, got epsilon=-"
  ):
    attacked(epsilon=-0.1)
