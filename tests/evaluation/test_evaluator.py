"""The evaluator against direct passes, and the validator's contract."""

import functools
import math

import jax
import numpy as np
import oracles
import pytest
import tiny_problem as tiny

import robust_info as ri
from robust_info.evaluation import evaluator as evaluation
from robust_info.evaluation import validation
from robust_info.evaluation.metrics import attacked as attacked_lib
from robust_info.evaluation.metrics import fisher as fisher_metric
from robust_info.evaluation.metrics import lenses as lenses_metric
from robust_info.evaluation.metrics import portraits

PARTS = ("total", "non_robust", "robust", "error")
MLP = tiny.mlp()
VALIDATOR_KEYS = {
  "accuracy",
  "cross_entropy",
  "cckl",
  "mutual_information",
  "lautum_information",
  "label_information",
  "robust_accuracy",
  "robust_cckl",
  "robust_label_information",
  *(
    f"fisher_{norm}{statistic}"
    for norm in ("trace", "frobenius", "spectral_norm")
    for statistic in ("", "_median", "_q95")
  ),
  "local_total",
  "local_non_robust",
  "local_robust",
  "path_total",
  "path_non_robust",
  "path_robust",
}


def make_evaluator(
  apply_fn=tiny.apply_mlp, split=None, seed=3, cls=evaluation.Evaluator, **kw
):
  return cls(
    apply_fn,
    tiny.make_split() if split is None else split,
    num_classes=tiny.NUM_CLASSES,
    settings=tiny.make_settings(**kw),
    seed=seed,
  )


@pytest.fixture(scope="module")
def network():
  return tiny.Counting(tiny.apply_mlp)


@pytest.fixture(scope="module")
def evaluator(network):
  return make_evaluator(network)


@pytest.fixture(scope="module")
def in_other_batches():
  return make_evaluator(batch_size=25)


@pytest.fixture(scope="module")
def norms(evaluator):
  return fisher_metric.norms(evaluator, MLP)


@pytest.fixture(scope="module")
def validator(network):
  return make_evaluator(network, cls=validation.Validator)


def validated(**options):
  """The metrics of MLP from a new validator."""
  return make_evaluator(cls=validation.Validator, **options)(MLP)


@pytest.fixture(scope="module")
def ten():
  """The metrics if attacks and Fisher norms see ten examples."""
  return validated(validation_examples=10)


def assert_same_predictions(one, two):
  np.testing.assert_array_equal(one.correct, two.correct)
  np.testing.assert_allclose(one.confidence, two.confidence, rtol=1e-4)
  for name in ("count", "accuracy", "cross_entropy", "cckl"):
    np.testing.assert_allclose(
      getattr(one.summary, name), getattr(two.summary, name), rtol=1e-4
    )


@pytest.mark.parametrize("batch_size", [16, 64])
def test_padded_ragged_batches_equal_one_direct_pass(evaluator, batch_size):
  split = tiny.make_split()
  if batch_size != evaluator.settings.batch_size:
    evaluator = make_evaluator(batch_size=batch_size)
  found = evaluator.predict(MLP)
  logits = tiny.logits_of(tiny.apply_mlp, MLP, split)
  p = oracles.softmax(logits)
  correct = logits.argmax(-1) == split.labels
  assert 0 < correct.mean() < 1
  np.testing.assert_array_equal(found.correct, correct)
  np.testing.assert_allclose(
    found.confidence, p.max(-1).astype(float), rtol=1e-5
  )
  summary = found.summary
  assert int(summary.count) == len(split)
  log_p = oracles.log_softmax(logits)[np.arange(len(split)), split.labels]
  for name, expected in {
    "accuracy": correct.mean(),
    "cross_entropy": -log_p.mean(),
    "cckl": oracles.cckl(logits, split.labels),
    "cckl_matrix": oracles.cckl_matrix(logits, split.labels),
    "mutual_information": oracles.mutual_information(logits),
    "lautum_information": oracles.lautum_information(logits),
    "label_information": oracles.label_information(logits, split.labels),
  }.items():
    np.testing.assert_allclose(
      getattr(summary, name), np.asarray(expected, float), rtol=1e-5
    )


@pytest.mark.parametrize("attack", attacked_lib.ATTACKS)
def test_attacked_predictions_do_not_depend_on_the_batch_size(
  evaluator, in_other_batches, attack
):
  one, other = (
    attacked_lib.predictions(each, MLP, epsilon=0.1, attack=attack)
    for each in (evaluator, in_other_batches)
  )
  assert_same_predictions(one, other)


def test_randomness_of_an_attack_belongs_to_seed_and_example(evaluator):
  split = tiny.make_split()
  first = type(split)(split.images[:20], split.labels[:20])
  whole = attacked_lib.predictions(evaluator, MLP, epsilon=0.2)
  part = attacked_lib.predictions(make_evaluator(split=first), MLP, epsilon=0.2)
  np.testing.assert_allclose(part.confidence, whole.confidence[:20], rtol=1e-4)
  reseeded = attacked_lib.predictions(
    make_evaluator(split=first, seed=4), MLP, epsilon=0.2
  )
  assert not np.allclose(part.confidence, reseeded.confidence, rtol=1e-4)


def test_fisher_norms_and_lenses_do_not_depend_on_the_batch_size(
  evaluator, norms, in_other_batches
):
  other = in_other_batches
  norms_of_other = fisher_metric.norms(other, MLP)
  for name in ("trace", "frobenius", "spectral_norm"):
    np.testing.assert_allclose(
      getattr(norms_of_other, name), getattr(norms, name), rtol=1e-4
    )
  for lens in (lenses_metric.local, lenses_metric.path):
    one, two = (lens(e, MLP) for e in (evaluator, other))
    for part in PARTS if lens is lenses_metric.path else PARTS[:3]:
      assert getattr(one, part).shape == (37,)
      np.testing.assert_allclose(
        getattr(one, part), getattr(two, part), rtol=1e-4, atol=1e-5
      )


@pytest.mark.parametrize("attack", attacked_lib.ATTACKS)
def test_epsilon_zero_gives_the_clean_predictions(evaluator, attack):
  clean = evaluator.predict(MLP)
  found = attacked_lib.predictions(evaluator, MLP, epsilon=0.0, attack=attack)
  assert_same_predictions(clean, found)


def test_attacks_take_accuracy_and_confidence_more_with_epsilon(evaluator):
  attacked = [
    attacked_lib.predictions(evaluator, MLP, epsilon=e)
    for e in (0.0, 0.05, 0.3)
  ]
  accuracy = [a.correct.mean() for a in attacked]
  assert accuracy[0] > accuracy[1] > accuracy[2]
  entropies = [float(a.summary.cross_entropy) for a in attacked]
  assert entropies[0] < entropies[1] < entropies[2]


def test_the_divergence_attack_moves_predictions_further_than_noise(evaluator):
  """It ascends the divergence, not the label loss; CCKL distinguishes them."""
  label, divergence = (
    attacked_lib.predictions(
      evaluator, MLP, epsilon=0.1, attack=attack
    ).summary.cross_entropy
    for attack in attacked_lib.ATTACKS
  )
  clean = evaluator.predict(MLP).summary.cross_entropy
  assert clean < divergence < label


def test_more_restarts_fool_no_fewer_examples(evaluator):
  one = attacked_lib.predictions(evaluator, MLP, epsilon=0.05).correct
  two = attacked_lib.predictions(
    make_evaluator(restarts=2), MLP, epsilon=0.05
  ).correct
  assert not (two & ~one).any()


def test_attack_arguments_are_checked_at_the_door(evaluator):
  with pytest.raises(ValueError, match="Expected attack to be one of 'pgd'"):
    attacked_lib.predictions(evaluator, MLP, epsilon=0.1, attack="fgsm")
  with pytest.raises(ValueError, match="Expected epsilon >= 0, got epsilon=-1"):
    attacked_lib.predictions(evaluator, MLP, epsilon=-1)


def test_fisher_norms_are_those_of_the_dense_matrix():
  split, variables = tiny.make_split(), tiny.logistic()
  found = fisher_metric.norms(make_evaluator(tiny.apply_logistic), variables)
  logits = tiny.logits_of(tiny.apply_logistic, variables, split)
  weights = np.asarray(variables["weights"]).T
  for row in range(0, len(split), 11):
    dense = oracles.fisher(weights, logits[row]).astype(float)
    values = np.linalg.eigvalsh(dense)
    for field, expected in {
      "trace": values.sum(),
      "frobenius": math.hypot(*values),
      "spectral_norm": values[-1],
    }.items():
      assert getattr(found, field)[row] == pytest.approx(expected, rel=1e-4)
      # The error is rounding only.
      assert 0 < getattr(found, f"{field}_error")[row] < 1e-3 * expected


def test_pairs_cross_classes_and_follow_the_seed_only(evaluator):
  labels = tiny.make_split().labels
  first, second = evaluator.pair_indices()
  assert len(first) == len(second) == 37
  assert (labels[first] != labels[second]).all()
  again = make_evaluator(batch_size=5, epsilon=0.3, num_nodes=2).pair_indices()
  np.testing.assert_array_equal(again, (first, second))
  assert (make_evaluator(seed=4).pair_indices()[0] != first).any()


def test_lenses_split_the_divergence_of_their_pairs(evaluator):
  first, second = evaluator.pair_indices()
  logits = tiny.logits_of(tiny.apply_mlp, MLP, tiny.make_split())
  expected = oracles.kl_divergence(logits[first], logits[second])
  for lens in (
    lenses_metric.local(evaluator, MLP),
    lenses_metric.path(evaluator, MLP),
  ):
    np.testing.assert_allclose(lens.total, expected.astype(float), rtol=1e-4)
    np.testing.assert_allclose(
      lens.non_robust + lens.robust, lens.total, rtol=1e-5, atol=1e-5
    )
    assert (lens.non_robust >= 0).all()


def test_path_lens_is_extrapolated_from_a_multiple_of_four_segments(evaluator):
  first, second = evaluator.pair_indices()
  x = tiny.make_split().images / np.float32(255)
  path = jax.jit(
    functools.partial(
      ri.disentangle_path,
      functools.partial(tiny.apply_mlp, MLP),
      num_nodes=4,
      method="extrapolated",
    )
  )
  wanted = path(x[first], x[second])
  found = lenses_metric.path(make_evaluator(num_nodes=3), MLP)
  for name in ("total", "non_robust", "error", "geodesic"):
    np.testing.assert_allclose(
      getattr(found, name), getattr(wanted, name), rtol=1e-4, atol=1e-5
    )


def test_pairs_need_two_classes():
  split = tiny.make_split()
  split = type(split)(split.images, np.zeros_like(split.labels))
  with pytest.raises(ValueError, match="at least two different values"):
    lenses_metric.local(make_evaluator(split=split), MLP)


def test_progress_counts_every_example_and_pair_once(evaluator):
  seen = []
  tick = lambda done, total: seen.append((done, total))  # noqa: E731
  attacked_lib.predictions(evaluator, MLP, epsilon=0.1, tick=tick)
  fisher_metric.norms(evaluator, MLP, tick=tick)
  lenses_metric.path(evaluator, MLP, tick=tick)
  examples = [(16, 45), (32, 45), (45, 45)]
  assert seen == [*examples, *examples, (16, 37), (32, 37), (37, 37)]


def test_portraits_are_those_of_the_measurements(evaluator, norms):
  rows = np.array([2, 30, 44])
  split = tiny.make_split()
  found = portraits.portraits(evaluator, MLP, rows)
  clean, attacked = (
    evaluator.predict(MLP),
    attacked_lib.predictions(evaluator, MLP, epsilon=0.05),
  )
  np.testing.assert_allclose(
    found["probabilities"].max(-1), clean.confidence[rows], rtol=1e-4
  )
  np.testing.assert_allclose(
    found["adversarial_probabilities"].max(-1),
    attacked.confidence[rows],
    rtol=1e-3,
  )
  images = split.images[rows] / 255.0
  change = np.abs(found["adversarial"] - images).reshape(3, -1)
  np.testing.assert_allclose(change.max(-1), 0.05, atol=1e-6)
  # v^T F v = lambda_max, by the divergence of a short step along v.
  step = 0.01 * found["eigenvectors"]
  moved = tiny.apply_mlp(MLP, images.astype(np.float32) + step)
  logits = tiny.logits_of(tiny.apply_mlp, MLP, split)[rows]
  curvature = oracles.kl_divergence(logits, np.asarray(moved)) / 0.00005
  np.testing.assert_allclose(
    curvature.astype(float), norms.spectral_norm[rows], rtol=0.05
  )


def test_checkpoints_of_one_architecture_share_all_programs(
  network, evaluator, validator
):
  def measure_all(variables, epsilon, row):
    evaluator.predict(variables)
    for attack in attacked_lib.ATTACKS:
      attacked_lib.predictions(
        evaluator, variables, epsilon=epsilon, attack=attack
      )
    fisher_metric.norms(evaluator, variables)
    lenses_metric.local(evaluator, variables)
    lenses_metric.path(evaluator, variables)
    portraits.portraits(evaluator, variables, np.array([row, row + 1, 40]))
    validator(variables)

  measure_all(MLP, 0.1, 0)
  before = network.traces
  assert before > 0
  measure_all(tiny.mlp(seed=1), 0.2, 5)
  assert network.traces == before


def test_validator_gives_the_same_finite_numbers_every_time(validator, ten):
  first = validator(MLP)
  assert set(first) == VALIDATOR_KEYS
  assert all(
    type(value) is float and math.isfinite(value) for value in first.values()
  )
  validator(tiny.mlp(seed=1))
  assert validator(MLP) == first
  assert validated(validation_examples=10) == ten


def test_validator_on_all_examples_reports_what_the_evaluator_measures(
  validator, evaluator, norms
):
  metrics = validator(MLP)
  clean = evaluator.predict(MLP)
  attacked = attacked_lib.predictions(evaluator, MLP, epsilon=0.05)
  path = lenses_metric.path(evaluator, MLP)
  for name, expected in {
    "accuracy": clean.correct.mean(),
    "cross_entropy": clean.summary.cross_entropy,
    "cckl": clean.summary.cckl,
    "robust_accuracy": attacked.correct.mean(),
    "robust_cckl": attacked.summary.cckl,
    "robust_label_information": attacked.summary.label_information,
    "fisher_frobenius": norms.frobenius.mean(),
    "fisher_trace_median": np.median(norms.trace),
    "fisher_spectral_norm_q95": np.quantile(norms.spectral_norm, 0.95),
    "local_non_robust": lenses_metric.local(evaluator, MLP).non_robust.mean(),
    "path_total": path.total.mean(),
    "path_robust": path.robust.mean(),
  }.items():
    assert metrics[name] == pytest.approx(float(expected), rel=1e-5)


def test_subset_is_used_by_attack_and_fisher_metrics_only(validator, ten):
  whole = validator(MLP)
  changed = {k for k in whole if whole[k] != ten[k]}
  assert all(name.startswith(("robust_", "fisher_")) for name in changed)
  assert "fisher_frobenius" in changed
  assert ten["robust_accuracy"] * 10 == pytest.approx(
    round(ten["robust_accuracy"] * 10)
  )
  other = validated(validation_examples=10, seed=4)
  assert other["fisher_frobenius"] != ten["fisher_frobenius"]
  # A limit that no split reaches changes nothing.
  assert validated(validation_examples=1000) == whole
  rows = evaluation.random_rows(tiny.make_split(), 45, 3)
  np.testing.assert_array_equal(rows, range(45))
