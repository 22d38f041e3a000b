"""The worst case over attacks against NumPy, and signs of gradient masking."""

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import tiny_problem as tiny

from robust_info import attacks, evaluation
from robust_info.evaluation import worst_case

MLP = tiny.mlp()
NUM, CLASSES = 6, 3


def logits():
  return hnp.arrays(
    np.float32,
    (NUM, CLASSES),
    elements=st.floats(-6, 6, width=32, allow_subnormal=False),
  )


def label_loss(z, labels):
  return -oracles.log_softmax(z)[np.arange(len(labels)), labels].astype(float)


# The first example compiles, so there is no deadline.
@hypothesis.settings(deadline=None)
@hypothesis.given(
  clean=logits(),
  found=st.lists(logits(), min_size=1, max_size=4),
  labels=hnp.arrays(np.int32, NUM, elements=st.integers(0, CLASSES - 1)),
)
def test_each_rule_keeps_its_worst_point_of_all_attacks(clean, found, labels):
  groups = [(str(i), [z]) for i, z in enumerate(found)]
  so_far = [clean]
  for strength, (name, new) in zip(
    worst_case.accumulate(clean, labels, groups), groups, strict=True
  ):
    assert strength.attack == name
    so_far += new
    correct = np.all([z.argmax(-1) == labels for z in so_far], axis=0)
    np.testing.assert_array_equal(
      strength.choice.label.argmax(-1) == labels, correct
    )
    loss = label_loss(strength.choice.label, labels)
    losses = np.array([label_loss(z, labels) for z in so_far])
    eligible = np.array([z.argmax(-1) != labels for z in so_far]) | correct
    worst = np.where(eligible, losses, -np.inf).max(axis=0)
    np.testing.assert_allclose(loss, worst, rtol=1e-4, atol=1e-5)
    divergence = oracles.kl_divergence(clean, strength.choice.divergence)
    farthest = np.max([oracles.kl_divergence(clean, z) for z in so_far], axis=0)
    np.testing.assert_allclose(
      divergence.astype(float), farthest.astype(float), rtol=1e-3, atol=1e-6
    )


def test_points_of_one_name_count_together():
  rng = np.random.default_rng(0)
  clean, *found = rng.normal(size=(4, NUM, CLASSES)).astype(np.float32)
  labels = np.zeros(NUM, np.int32)
  one = list(worst_case.accumulate(clean, labels, [("all", found)]))
  each = list(
    worst_case.accumulate(
      clean, labels, [(str(i), [z]) for i, z in enumerate(found)]
    )
  )
  np.testing.assert_array_equal(one[-1].choice, each[-1].choice)


def test_the_first_attacks_of_an_ensemble_leave_the_rest_clean():
  clean, broken = np.zeros((4, 2)), np.ones((4, 2))
  result = attacks.EnsembleResult(
    x_adv=np.zeros((4, 1)),
    success=np.array([True, True, True, False]),
    logits=np.where([[True], [True], [True], [False]], broken, clean),
    broken_by=np.array([-1, 0, 1, 2]),
    attacks=("apgd-ce", "square"),
    accuracies={},
    seconds={},
    zero_gradients={},
  )
  for number, expected in ((1, [1, 1, 0, 0]), (2, [1, 1, 1, 0])):
    left = worst_case.after_prefix(result, clean, number)
    np.testing.assert_array_equal(left[:, 0], expected)


def network(variables, x):
  """Every fault in one function, so that one compilation serves all of them."""
  fault = variables["fault"]
  x = x + fault["rounding"] * (jnp.round(8 * x) / 8 - x)
  logits = fault["scale"] * tiny.apply_mlp(variables, x)
  noise = np.random.default_rng().normal(size=logits.shape)
  logits = logits + fault["noise"] * jnp.asarray(noise, jnp.float32)
  share = fault["softmax"]
  return (1 - share) * logits + share * jax.nn.softmax(logits)


SOUND = {"rounding": 0.0, "scale": 1.0, "noise": 0.0, "softmax": 0.0}


@pytest.fixture(scope="module")
def evaluator():
  return evaluation.Evaluator(
    network,
    tiny.make_split(),
    num_classes=tiny.NUM_CLASSES,
    settings=tiny.make_settings(sanity_examples=32),
    seed=0,
  )


@pytest.mark.parametrize(
  ("fault", "failures"),
  [
    ({}, set()),
    ({"scale": 1e4}, {"float32 saturation", "zero gradient, CE"}),
    ({"rounding": 1.0}, {"zero gradient, CE", "zero gradient, DLR"}),
    ({"noise": 1.0}, {"random forward pass"}),
    ({"softmax": 1.0}, {"probabilities"}),
  ],
  ids=["sound", "saturated", "rounding", "noisy", "softmax"],
)
def test_a_faulty_network_is_not_trusted_for_what_is_wrong(
  evaluator, fault, failures
):
  fault = {k: jnp.float32(v) for k, v in {**SOUND, **fault}.items()}
  report = worst_case.sanity(evaluator, {**MLP, "fault": fault}, epsilon=0.03)
  failed = {check.name for check in report.checks if not check.passed}
  assert failures <= failed
  assert report.trustworthy == (not failures)
  if failures:
    assert report.verdict.startswith("not trustworthy: ")
    assert all(name in report.verdict for name in failures)


def test_the_checks_ask_for_a_ball(evaluator):
  with pytest.raises(ValueError, match="epsilon > 0"):
    worst_case.sanity(evaluator, MLP, epsilon=0.0)
