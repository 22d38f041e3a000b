"""Misuses of every entry point: the right number, or one line that says why.

Each misuse changes the network, the inputs or the labels of a right call. Every
entry point then either gives the numbers of the right call, refuses in one
line, warns, or gives NaN; never another number, never a foreign traceback.
"""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import robust_info as ri
from robust_info import _validate

SHAPE, CLASSES, EXAMPLES = (3, 4, 2), 3, 5
WEIGHTS = np.random.default_rng(0).normal(size=(24, CLASSES)).astype("f4")


def apply(weights, x):
  """A network of images [N, 3, 4, 2]; another layout does not fit."""
  if x.shape[1:] != SHAPE:
    raise ValueError(f"cannot take images of shape {x.shape[1:]}")
  return jnp.tanh(x.reshape(x.shape[0], -1) @ jnp.asarray(weights, x.dtype))


NETWORK = jax.tree_util.Partial(apply, jnp.asarray(WEIGHTS))
X = np.random.default_rng(1).uniform(0.2, 0.8, (EXAMPLES, *SHAPE)).astype("f4")
Y = np.array([0, 1, 2, 0, 1])
KEY = jax.random.key(0)
PGD = {"epsilon": 0.1, "num_steps": 2, "random_start": False}


def information(network, x, y):
  return ri.summarize(ri.information_stats(network(x), y)).cckl


def fisher(network, x, y):
  return ri.fisher_norms(network, x).frobenius


def path(network, x, y):
  # The other image is misused, too.
  return ri.disentangle_path(network, X[::-1], x, num_nodes=4).non_robust


def pgd(network, x, y):
  return ri.attacks.pgd(network, x, y, KEY, **PGD).loss


ENTRIES = {f.__name__: f for f in (information, fisher, path, pgd)}


@functools.cache
def right(name):
  return np.asarray(ENTRIES[name](NETWORK, X, Y), np.float64)


def returning(change):
  """The network with other outputs, which calls compile as they do NETWORK."""
  return jax.tree_util.Partial(
    lambda weights, x: change(apply(weights, x)), *NETWORK.args
  )


# The metrics that look at the outputs of a network.
METRICS = {
  "fisher_norms": fisher,
  # Merges two of the three classes.
  "coarse_fisher_norms": lambda network, x, y: ri.coarse_fisher_norms(
    network, x, max_classes=1
  ),
  "fisher_quadratic": lambda network, x, y: ri.fisher_quadratic(network, x, x),
  "disentangle_local": lambda network, x, y: ri.disentangle_local(
    network, x, x
  ),
}


def with_nan(x):
  return np.where(np.arange(EXAMPLES)[:, None, None, None] == 2, np.nan, x)


class Linen(nn.Module):
  """Has no variables yet."""

  @nn.compact
  def __call__(self, x):
    return nn.Dense(CLASSES)(x.reshape(len(x), -1))


# Name -> changes of network, x, y.
MISUSES = {
  "lists": {"x": X.tolist(), "y": Y.tolist()},
  "float64": {"x": X.astype(float)},
  "float16": {"x": X.astype("f2")},
  "bfloat16": {"x": jnp.asarray(X, jnp.bfloat16)},
  "bytes": {"x": np.round(255 * X).astype(np.uint8)},
  "integers": {"x": np.round(255 * X).astype(int)},
  "bools": {"x": X > 0.5},
  "texts": {"x": X.astype(str)},
  "channels first": {"x": np.moveaxis(X, -1, 1)},
  "one image without a batch": {"x": X[0]},
  "no images": {"x": X[:0], "y": Y[:0]},
  "a number": {"x": 0.5},
  "None": {"x": None},
  "NaN": {"x": with_nan(X)},
  "complex": {"x": X.astype(complex)},
  "labels int8": {"y": Y.astype(np.int8)},
  "labels uint8": {"y": Y.astype(np.uint8)},
  "labels uint64": {"y": Y.astype(np.uint64)},
  "labels float": {"y": Y.astype("f4")},
  "labels one-hot": {"y": np.eye(CLASSES)[Y]},
  "labels in a column": {"y": Y[:, None]},
  "labels of names": {"y": np.array(list("abcab"))},
  "labels from 1": {"y": Y + 1},
  "labels negative": {"y": Y - 1},
  "labels too few": {"y": Y[:-1]},
  "labels bool": {"y": Y > 0},
  "a tuple of outputs": {"network": returning(lambda z: (z, z))},
  "a mapping of outputs": {"network": returning(lambda z: {"logits": z})},
  "one logit": {"network": returning(lambda z: z[:, :1])},
  "one number per image": {"network": returning(lambda z: z[:, 0])},
  "the predicted classes": {"network": returning(lambda z: z.argmax(-1))},
  "probabilities": {"network": returning(jax.nn.softmax)},
  "classes first": {"network": returning(lambda z: z.T)},
  "a mean over the batch": {"network": returning(lambda z: z.mean(0))},
  "NumPy inside": {"network": lambda x: np.asarray(NETWORK(x)) * 1.0},
  "Python numbers inside": {"network": lambda x: float(NETWORK(x)[0, 0])},
  "no function": {"network": WEIGHTS},
  "a class": {"network": Linen},
  "a module without variables": {"network": Linen()},
  "logits NaN": {"network": returning(lambda z: z * jnp.nan)},
  "logits infinite": {"network": returning(lambda z: z + jnp.inf)},
}
# Networks that fail before the metric is called.
FOREIGN = {
  "no function",
  "a class",
  "a module without variables",
  "Python numbers inside",
}
# Misuses that an entry point does not see, because it has no labels.
LABELLED = {"information", "pgd"}
CASES = [
  (misuse, entry)
  for misuse, change in MISUSES.items()
  for entry in ENTRIES
  if (set(change) != {"y"} or entry in LABELLED)
  # The information metrics see logits only.
  and (entry != "information" or not (misuse in FOREIGN or "x" in change))
]


@pytest.mark.parametrize(("misuse", "entry"), CASES)
def test_a_misuse_is_right_or_one_line(misuse, entry):
  arguments = {"network": NETWORK, "x": X, "y": Y, **MISUSES[misuse]}
  with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    try:
      found = np.asarray(ENTRIES[entry](**arguments), np.float64)
    except (ValueError, TypeError) as error:
      line = str(error)
      assert line.startswith("Expected "), line
      assert "\n" not in line
      return
  if any(str(w.message).startswith("Expected ") for w in seen):
    return
  half = misuse in ("float16", "bfloat16")
  rtol, atol = (0.05, 1e-4) if half else (1e-4, 1e-6)
  same = np.isclose(found, right(entry), rtol=rtol, atol=atol)
  assert np.all(same | np.isnan(found)), (found, right(entry))


@pytest.mark.parametrize("name", METRICS)
def test_probabilities_in_place_of_logits_are_noticed_once(name):
  soft = returning(jax.nn.softmax)
  with pytest.warns(_validate.ProbabilitiesAsLogits, match=r"jnp\.log") as seen:
    METRICS[name](soft, X, Y)
  assert len(seen) == 1


def test_there_are_sixty():
  assert len(CASES) > 60
