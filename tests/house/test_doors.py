"""Arguments that public functions accept, and their one-line refusals."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from flax import linen as nn

import robust_info as ri
from robust_info import _validate, data, objectives
from robust_info.attacks import inputs, losses

WIDTHS = ("int8", "uint8", "int16", "uint16", "uint32", "int64", "uint64")
# More pairs of classes than the narrow integer types can count.
EXAMPLES, CLASSES = 200, 20


def linear(x):
  """Logits from four inputs, the same on every call."""
  weights = np.random.default_rng(3).normal(size=(4, CLASSES))
  return x @ jnp.asarray(weights, x.dtype)


@functools.cache
def examples():
  """Labels that fit every integer type; the number of class pairs does not."""
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


# On GPUs, sums by class add in any order.
@pytest.mark.usefixtures("on_cpu")
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
  standard = jax.jit(functools.partial(loss, objectives.standard))
  np.testing.assert_array_equal(
    standard(labels[:8].astype(np.int8)),
    standard(labels[:8].astype(np.int32)),
  )


# Two programs, which other compilers may round differently.
@pytest.mark.usefixtures("on_cpu")
def test_losses_of_many_classes_take_narrow_labels():
  logits = np.tile(examples()[0], 10)
  labels = examples()[1]

  @jax.jit
  def of_labels(logits, labels):
    by_name = (losses.margin, losses.cross_entropy, losses.dlr)
    return [loss(logits, labels) for loss in by_name]

  np.testing.assert_array_equal(
    *(of_labels(logits, labels.astype(dtype)) for dtype in (np.int8, np.int32))
  )


def logits_doors(logits):
  """Every function of logits."""
  labels = np.zeros(len(logits), np.int32)
  return [
    lambda: ri.cckl(logits, labels),
    lambda: ri.information_stats(logits, labels),
    lambda: ri.mutual_information(logits),
    lambda: ri.lautum_information(logits),
    lambda: ri.pointwise_information(logits),
    lambda: ri.grouped_information_stats(logits, labels, labels, num_groups=1),
    lambda: ri.fit_temperature(logits, labels),
    lambda: ri.entropy(logits),
    lambda: ri.kl_divergence(logits, logits),
    lambda: ri.fisher_rao_distance(logits, logits),
  ]


def network_doors(fn):
  """Every function of a network."""
  x, y = examples()[2][:4], np.arange(4)
  key = jax.random.key(0)
  options = {"epsilon": 0.1}
  return [
    lambda: ri.fisher_gram(fn, x),
    lambda: ri.fisher_norms(fn, x),
    lambda: ri.fisher_trace(fn, x, method="matrix_free"),
    lambda: ri.fisher_frobenius(fn, x),
    lambda: ri.fisher_spectral_norm(fn, x),
    lambda: ri.fisher_eigenvectors(fn, x, k=1),
    lambda: ri.fisher_quadratic(fn, x, x),
    lambda: ri.fisher_vector_product(fn, x, x),
    lambda: ri.coarse_fisher_norms(fn, x, max_classes=2),
    lambda: ri.disentangle_local(fn, x, x),
    lambda: ri.disentangle_path(fn, x, x),
    lambda: ri.path_fisher_estimate(fn, x, x, key),
    lambda: ri.attacks.pgd(fn, x, y, key, **options),
    lambda: ri.attacks.fgsm(fn, x, y, **options),
    lambda: ri.attacks.kl_pgd(fn, x, key, **options),
    lambda: ri.attacks.apgd(fn, x, y, key, **options),
    lambda: ri.attacks.fisher_pgd(fn, x, y, **options),
    lambda: ri.attacks.sanity_report(fn, x, y, key, **options),
  ]


def test_a_single_output_is_refused_with_the_way_to_two_logits():
  z = np.ones((4, 1), np.float32)
  doors = [*logits_doors(z), *network_doors(lambda x: x[:, :1])]
  for door in doors:
    with pytest.raises(ValueError, match=r"concatenate\(\[jnp.zeros_like\(z\)"):
      door()


class Torch:
  """Stands for a module of PyTorch, which the tests do not install."""

  __module__ = "torch.nn.modules.module"

  def __call__(self, x):
    return x


class Dense(nn.Module):
  @nn.compact
  def __call__(self, x):
    return nn.Dense(3)(x)


@pytest.mark.parametrize(
  ("fn", "message"),
  [
    (lambda x: (linear(x), {}), r"got tuple; pass lambda x: logits_fn\(x\)\[0"),
    (lambda x: {"logits": linear(x)}, r"got dict; .*key one of \['logits'\]"),
    (
      lambda x: linear(np.asarray(x)),
      "pure function of JAX arrays, of float32",
    ),
    (lambda x: linear(x).astype(int), "floating-point logits"),
    (lambda x: None, "got NoneType"),
    (Torch(), "got Torch of torch; pass robust_info.adapters.from_torch"),
    (Dense(), "Dense; pass robust_info.adapters.from_linen"),
    (3, "to be a function from inputs"),
  ],
)
def test_what_is_no_network_is_named_with_its_fix(fn, message):
  for door in network_doors(fn):
    with pytest.raises(TypeError, match=message):
      door()


# test_misuses.py has the metrics of networks.
PROBABILITY_DOORS = {
  "cckl": lambda p: ri.cckl(p, examples()[1].astype(np.int32)),
  "mutual_information": ri.mutual_information,
  "pointwise_information": ri.pointwise_information,
}


@pytest.mark.parametrize("name", PROBABILITY_DOORS)
def test_probabilities_in_place_of_logits_are_noticed_once(name):
  p = scipy.special.softmax(examples()[0], axis=-1)
  with pytest.warns(_validate.ProbabilitiesAsLogits, match=r"jnp\.log") as seen:
    PROBABILITY_DOORS[name](p)
  assert len(seen) == 1


@pytest.mark.parametrize(
  ("rows", "where", "expected"),
  [
    ([[0.2, 0.8], [0.5, 0.5]], None, 1),
    ([[0.2, 0.8], [1.0, 0.0]], None, 1),
    ([[0.2, 0.8], [0.0, 0.0]], [True, False], 1),
    ([[0.2, 0.8], [0.0, 0.0]], None, 0),
    ([[1.0, 0.0], [0.0, 1.0]], None, 0),
    ([[-0.2, 1.2], [0.5, 0.5]], None, 0),
    ([[0.2, 0.9], [0.5, 0.5]], None, 0),
    ([[np.nan, 0.9], [0.5, 0.5]], None, 0),
    (np.zeros((0, 2)), None, 0),
  ],
)
def test_logits_are_not_taken_for_probabilities(rows, where, expected):
  with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    _validate.warn_of_probabilities("z", np.array(rows), where)
  assert len(seen) == expected


_fit = jax.jit(ri.fit_temperature)


@pytest.mark.parametrize(
  "row", [[np.nan, 0.0, 1.0], [np.inf, 0.0, 1.0], [-np.inf, 0.0, 1.0]]
)
def test_no_temperature_fits_logits_that_are_not_finite(row):
  logits = np.float32([[1.0, 0.0, 0.5], row, [0.0, 0.2, 0.1]])
  assert np.isnan(_fit(logits, np.array([0, 0, 1])))
  where = np.array([True, False, True])
  assert np.isfinite(ri.fit_temperature(logits, [0, 0, 1], where=where))


def test_no_temperature_fits_labels_out_of_range():
  logits = np.float32([[1.0, 0.0, 0.5], [0.0, 0.2, 0.1], [0.0, 0.0, 0.3]])
  for labels in ([0, 3, 1], [-1, 0, 1]):
    assert np.isnan(_fit(logits, np.array(labels)))
