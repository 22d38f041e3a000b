"""What public functions accept, and the one line that they answer with."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import robust_info as ri
from robust_info import _validate, data, objectives
from robust_info.attacks import inputs, losses

WIDTHS = ("int8", "uint8", "int16", "uint16", "uint32", "int64", "uint64")
# More pairs of classes than the narrow integers count.
EXAMPLES, CLASSES = 200, 20


def linear(x):
  """Logits from four inputs, the same on every call."""
  weights = np.random.default_rng(3).normal(size=(4, CLASSES))
  return x @ jnp.asarray(weights, x.dtype)


@functools.cache
def examples():
  """Labels that fit every width, of more classes than their squares do."""
  rng = np.random.default_rng(0)
  logits = rng.normal(size=(EXAMPLES, CLASSES)).astype(np.float32)
  labels = rng.integers(0, CLASSES, EXAMPLES)
  logits[np.arange(EXAMPLES), labels] += 2
  x = rng.uniform(size=(EXAMPLES, 4)).astype(np.float32)
  return logits, labels, x


def information(labels):
  return ri.information_stats(examples()[0], labels)


def by_group(labels):
  logits, fixed, _ = examples()
  stats = ri.grouped_information_stats(
    logits[:, :10], fixed % 10, labels, num_groups=CLASSES
  )
  return stats.confusion


def drawn(labels):
  return ri.sample_cross_pairs(jax.random.key(0), labels, num_pairs=50)


@functools.cache
def components():
  values = np.random.default_rng(1).uniform(size=(2, EXAMPLES))
  total, part = values.astype(np.float32)
  return ri.Components(total, part, total - part)


def of_lenses(labels):
  return ri.lens_matrices(
    components(),
    labels,
    labels[::-1],
    np.ones((CLASSES, CLASSES), np.float32),
  ).count


def attacked(labels):
  x = examples()[2]
  checked = inputs.check(linear, x, labels, bounds=(0.0, 1.0), where=None)
  keys = inputs.example_keys(jax.random.key(0), labels, EXAMPLES)
  return checked.y, jax.random.key_data(keys)


CALLS = [
  information,
  by_group,
  drawn,
  of_lenses,
  attacked,
  lambda labels: ri.fit_temperature(examples()[0], labels),
]


@pytest.mark.parametrize("call", CALLS)
def test_narrow_integers_give_the_numbers_of_int32(call):
  _, labels, _ = examples()
  expected = call(labels.astype(np.int32))
  for given in (labels.tolist(), labels.astype(np.int8)):
    jax.tree.map(np.testing.assert_array_equal, call(given), expected)


@pytest.mark.parametrize("width", [*WIDTHS, "int4", "uint4"])
def test_labels_become_int32_and_nothing_wraps_around(width):
  values = np.array([0, 3, 7])
  given = values.astype(jnp.dtype(width))
  for labels in (
    _validate.labels("labels", given, 3),
    jax.jit(lambda labels: _validate.labels("labels", labels, 3))(given),
  ):
    assert labels.dtype == jnp.int32
    np.testing.assert_array_equal(labels, values)


@pytest.mark.parametrize(
  "far", [[1, 2**40], np.array([1, 2**32 + 3]), np.array([1, 2**63], "uint64")]
)
def test_labels_beyond_int32_are_refused_unless_masked(far):
  with pytest.raises(ValueError, match=r"fit 32-bit integers, got y\[1\]="):
    _validate.labels("y", far, 2)
  counted = np.array([True, False])
  assert _validate.labels("y", far, 2, counted).tolist() == [1, 2**31 - 1]


def test_traced_labels_beyond_int32_stay_out_of_range(x64):
  convert = jax.jit(lambda labels: _validate.labels("y", labels, 2))
  far = convert(jnp.array([2**32 + 3, -(2**32) + 3]))
  assert far.tolist() == [2**31 - 1, -(2**31)]


def test_objectives_of_many_classes_take_narrow_labels():
  network = objectives.from_logits_fn(lambda x: jnp.tile(linear(x), 10))
  _, labels, x = examples()
  options = {"epsilon": 0.1, "num_steps": 1}

  def loss(objective, label, **options):
    batch = data.Batch(image=x[:8], label=label, mask=np.ones(8, bool))
    return objective(network, batch, jax.random.key(0), **options).loss

  for objective in (objectives.mart, objectives.epsilon_lens):
    shape = jax.eval_shape(
      functools.partial(loss, objective, **options), labels[:8].astype(np.int8)
    )
    assert shape.shape == (8,)
  np.testing.assert_array_equal(
    loss(objectives.standard, jnp.asarray(labels[:8], jnp.int8)),
    loss(objectives.standard, jnp.asarray(labels[:8], jnp.int32)),
  )


def test_losses_of_many_classes_take_narrow_labels():
  logits = jnp.tile(examples()[0], 10)
  labels = examples()[1]
  for loss in (losses.margin, losses.cross_entropy, losses.dlr):
    np.testing.assert_array_equal(
      loss(logits, jnp.asarray(labels, jnp.int8)),
      loss(logits, jnp.asarray(labels, jnp.int32)),
    )
