"""Networks of a report that are not of a run."""

import jax
import numpy as np
import pytest
import tiny_problem as tiny

from robust_info import data, evaluation, models
from robust_info.config import file as file_lib
from robust_info.report import _build, networks

WEIGHTS = """
import jax, jax.numpy as jnp, numpy as np
from flax import linen, nnx

rng = np.random.default_rng(0)
W = rng.normal(size=(16, 4)).astype("f4")

def flat(x):
  return x.reshape(x.shape[0], -1)

def apply(w, x):
  return flat(x) @ w

def partial():
  return jax.tree_util.Partial(apply, jnp.asarray(W))

def heavier():
  return jax.tree_util.Partial(apply, jnp.asarray(2 * W))

def masked():
  return jax.tree_util.Partial(
    lambda w, x: apply(w, jax.lax.stop_gradient(x)), jnp.asarray(W)
  )

@jax.custom_vjp
def same(x):
  return 1.0 * x

same.defvjp(lambda x: (1.0 * x, None), lambda _, g: (jnp.sign(g),))

def times_one():
  return jax.tree_util.Partial(lambda w, x: apply(w, 1.0 * x), jnp.asarray(W))

def signed():
  return jax.tree_util.Partial(lambda w, x: apply(w, same(x)), jnp.asarray(W))

def without_a_rule():
  out = jax.ShapeDtypeStruct((2, 4), "f4")
  return lambda x: jax.pure_callback(
    lambda x: np.asarray(flat(x)) @ W, out.update(shape=(len(x), 4)), x
  )

def on_host(factor=1.0):
  out = jax.ShapeDtypeStruct((), "f4")

  @jax.custom_jvp
  def scaled(x):
    scale = jax.pure_callback(lambda: np.float32(factor), out)
    return scale * x

  scaled.defjvps(lambda x_dot, _, x: scaled(x_dot))
  return jax.tree_util.Partial(lambda w, x: apply(w, scaled(x)), jnp.asarray(W))

def doubled_on_host():
  return on_host(2.0)

def own_rule():
  rule = jax.custom_vjp(lambda x: flat(x) @ W)
  rule.defvjp(
    lambda x: (rule(x), x.shape), lambda s, g: ((g @ W.T).reshape(s),)
  )
  return rule

def of_two(number=0):
  return jax.tree_util.Partial(
    lambda v, w, x, *, bias: flat(x) @ (v, w)[number] + bias,
    jnp.asarray(W), jnp.asarray(2 * W), bias=jnp.ones((1, 4)),
  )

def of_the_other():
  return of_two(1)

def closure():
  return lambda x: flat(x) @ W

def other_closure():
  return lambda x: flat(x) @ (2 * W)

def of_five():
  return lambda x: flat(x) @ np.eye(16, 5, dtype="f4")

def of_three():
  return lambda x: flat(x) @ W[:, :3]

def wrong_number():
  return partial(), {"num_classes": 5}

def wrong_shape():
  return partial(), {"image_shape": (8, 8, 1)}

def odd_number():
  return partial(), {"num_classes": "4"}

def odd_shape():
  return partial(), {"image_shape": 4}

def described():
  return partial(), {"num_classes": 4, "image_shape": [4, 4, 1]}

class Net(nnx.Module):
  def __init__(self):
    self.dense = nnx.Linear(16, 4, rngs=nnx.Rngs(0))
  def __call__(self, x):
    return self.dense(flat(x))

class Linen(linen.Module):
  @linen.compact
  def __call__(self, x):
    return linen.Dense(4)(flat(x))

def of_nnx():
  return Net()

def also_of_nnx():
  return Net()

def of_linen():
  module = Linen()
  return module, module.init(jax.random.key(0), jnp.zeros((1, 4, 4, 1)))

def unbound():
  return Linen()

def nothing():
  return None

def fails():
  return 1 / 0

def eight_by_eight():
  return lambda x: x.reshape(len(x), 64) @ np.ones((64, 4))
"""


@pytest.fixture(scope="module")
def source():
  split = tiny.make_split()
  return data.DataSource(
    "noise", "1", None, None, split, 4, (4, 4, 1), tuple("abcd")
  )


@pytest.fixture(scope="module")
def load(source, tmp_path_factory):
  path = tmp_path_factory.mktemp("networks") / "own.py"
  path.write_text(WEIGHTS)
  return lambda name: networks.from_file(f"{path}:{name}", source)


@pytest.mark.parametrize(
  ("name", "model"),
  [
    ("partial", "apply"),
    ("closure", "function"),
    ("described", "apply"),
    ("of_nnx", "Net"),
    ("of_linen", "Linen"),
  ],
)
def test_a_function_returns_a_network_of_any_kind(load, source, name, model):
  found = load(name)
  assert found.about["model"] == model
  assert (found.num_classes, found.image_shape) == (4, (4, 4, 1))
  assert str(found.place).endswith(f"own.py:{name}")
  evaluator = evaluation.Evaluator(
    found.apply_fn,
    source.test,
    num_classes=4,
    settings=tiny.make_settings(),
    seed=0,
  )
  logits = evaluator.logits(found.variables)
  assert logits.shape == (len(source.test), 4)
  if name in ("partial", "closure"):
    weights = np.random.default_rng(0).normal(size=(16, 4))
    x = source.test.images.reshape(-1, 16) / 255
    np.testing.assert_allclose(logits, x @ weights, rtol=1e-4, atol=1e-5)


def test_a_network_is_identified_by_what_it_computes(load):
  def parts(name):
    found = load(name)
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(found.variables)]
    return found.identity, leaves

  program, (weights,) = parts("partial")
  assert parts("partial")[0] == program  # Also of another object.
  heavier, (doubled,) = parts("heavier")
  assert heavier == program
  np.testing.assert_allclose(doubled, 2 * weights)
  assert parts("closure")[0] == parts("closure")[0]
  assert parts("closure")[0] != parts("other_closure")[0]
  # Gradients tell networks apart whose logits are the same.
  assert parts("masked")[0] != program
  assert parts("signed")[0] != parts("times_one")[0]
  assert parts("signed")[0] == parts("signed")[0]


def test_stored_measurements_are_found_again_and_never_mixed(load, source):
  def mark(found):
    return _build._fingerprint(found, source.test, tiny.make_settings(), 0)

  # Each call makes another object, as another process does.
  names = ("partial", "heavier", "closure", "other_closure", "own_rule")
  names += ("of_two", "of_the_other", "of_nnx", "of_linen")
  marks = {name: mark(load(name)) for name in names}
  assert marks == {name: mark(load(name)) for name in names}
  assert len({*marks.values()}) == len(names)
  # A program does not show the code of the host: known is the object alone.
  own = [load(name) for name in ("on_host", "doubled_on_host", "on_host")]
  assert len({*map(mark, own)}) == 3
  assert mark(own[0]) == mark(own[0])


def test_a_network_of_a_run_shares_programs_with_it(source):
  model = models.create("logistic", num_classes=4)
  variables = models.init(model, jax.random.key(0), (4, 4, 1))
  logits_fn = jax.tree_util.Partial(models.apply_fn(model), variables)
  found = networks.from_logits_fn(logits_fn, source, place="own")
  assert found.apply_fn is models.apply_fn(model)
  assert found.variables is variables


def test_networks_of_one_file_share_the_programs_of_their_class(load):
  one, other = load("of_nnx"), load("also_of_nnx")
  assert one.apply_fn == other.apply_fn
  assert jax.tree.structure(one.variables) == jax.tree.structure(
    other.variables
  )


def test_more_classes_than_the_data_have_are_fine(load):
  assert load("of_five").num_classes == 5


@pytest.mark.parametrize(
  ("name", "message"),
  [
    ("of_three", "to have the 4 classes of noise, got logits of 3"),
    ("wrong_number", "to have num_classes=5, got logits of 4 classes"),
    ("wrong_shape", r"images \(8, 8, 1\), got noise with images \(4, 4, 1\)"),
    ("odd_number", "own.py:odd_number to return num_classes as an integer and"),
    ("odd_shape", r"image_shape as \(height, .*, got {'image_shape': 4}"),
    ("unbound", r"or \(Linen module, variables\), got Linen"),
    ("nothing", "got NoneType"),
    ("fails", "line .*: ZeroDivisionError: division by zero"),
    ("missing", "a function 'missing' in .*own.py, got none; it has flat"),
    ("eight_by_eight", "to be a pure function of JAX arrays"),
    ("without_a_rule", "to be differentiable in its images, got ValueError"),
    ("not a name", "to be FILE.py:FUNCTION"),
  ],
)
def test_what_is_no_network_of_these_data_is_one_line(load, name, message):
  with pytest.raises(
    (ValueError, TypeError, file_lib.FileError), match=message
  ) as error:
    load(name)
  assert "\n" not in str(error.value)
