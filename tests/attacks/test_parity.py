"""Robust accuracies of the published AutoAttack on committed weights.

`golden_digits_mlp.npz` holds an MLP, 397 test digits (0..16), and the robust
accuracies that pyautoattack 0.2.0 (torch 2.13.0) found on them, made with

    python -m benchmarks.parity_autoattack make DIR --points 397
    python -m benchmarks.parity_autoattack theirs DIR --norm linf --epsilon 0.1
"""

import pathlib

import jax
import numpy as np
import pytest

from robust_info import attacks

SUPPORT = pathlib.Path(__file__).parents[1] / "support"
GOLDEN = SUPPORT / "golden_digits_mlp.npz"


@pytest.fixture(scope="module")
def golden():
  with np.load(GOLDEN) as arrays:
    return dict(arrays)


def _network(params, x):
  hidden = x.reshape(x.shape[0], -1)
  for weight, bias in params[:-1]:
    hidden = jax.nn.relu(hidden @ weight + bias[None])
  return hidden @ params[-1][0] + params[-1][1][None]


def evaluate(golden, *names):
  params = [(golden[f"w{n}"], golden[f"b{n}"]) for n in range(3)]
  return attacks.auto_attack(
    jax.tree_util.Partial(_network, params),
    (golden["x"] / 16).astype(np.float32),
    golden["y"].astype(np.int32),
    jax.random.key(0),
    epsilon=0.1,
    attacks=names,
  )


@pytest.fixture(scope="module")
def ensemble(golden):
  # The slowest attack comes first: it gets all examples, as if run alone.
  return evaluate(golden, "fab-t", "apgd-t")


# The test below has APGD-T, and test_gradient.py its losses and restarts.
@pytest.mark.parametrize(
  "name",
  [
    "fab-t",
    *(pytest.param(n, marks=pytest.mark.slow) for n in ("apgd-ce", "apgd-t")),
  ],
)
def test_component_matches_the_published_code(golden, ensemble, name):
  theirs = float(golden["linf_" + name.replace("-", "_")])
  first = name == ensemble.attacks[0]
  ours = (ensemble if first else evaluate(golden, name)).accuracies[name]
  assert ours == pytest.approx(theirs, abs=0.005)


def test_ensemble_is_as_strong_as_the_published_code(golden, ensemble):
  # Further attacks cannot raise the accuracy, so without APGD-CE and Square
  # this is an upper bound.
  ours = ensemble.robust_accuracy
  theirs = float(golden["linf_standard"])
  assert ours == pytest.approx(theirs, abs=0.005)
  assert ours <= theirs + 0.002
