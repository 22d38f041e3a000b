"""Verdicts of each question on records whose truth is known."""

import numpy as np
import pytest
from made_records import noise, record
from scipy import stats

from robust_info.study import answers, questions
from robust_info.study.questions import shared
from robust_info.study.records import Records

SEEDS = range(4)


def verdict(question, records):
  answer = question.answer(Records(records))
  found = answers.judge({question.name: answer})[question.name]
  return answers.verdict(found), {f.criterion.text: f.status for f in found}


def training(seed, rising):
  """A run whose CCKL rises with its accuracy, or wanders."""
  accuracy = np.linspace(0.1, 0.9, 8)
  order = slice(None) if rising else np.random.default_rng(seed).permutation(8)
  return record(
    "standard",
    seed,
    curves={
      "accuracy": accuracy,
      "label_information": accuracy,
      "cross_entropy": 1 - accuracy,
      "cckl": (10 * accuracy)[order],
    },
  )


def networks(seed, number=8, *, follows):
  """Other networks, whose CCKL follows accuracy or nothing."""
  rng = np.random.default_rng(seed)
  for i in range(number):
    cckl = 10.0 * (i + 1) if follows else rng.normal() ** 2
    yield record(
      f"r{i}",
      seed,
      accuracy=0.5 + 0.05 * i,
      label_information=0.5 + 0.05 * i,
      cross_entropy=1 - 0.05 * i,
      cckl=cckl,
    )


@pytest.mark.parametrize(
  ("rising", "follows", "expected"),
  [
    (True, True, answers.SUPPORTED),
    (True, False, answers.MIXED),
    (False, False, answers.NOT_SUPPORTED),
  ],
)
def test_cckl_characterises_performance(rising, follows, expected):
  records = []
  for seed in SEEDS:
    run = training(seed, rising)
    records += [run, *networks(seed, follows=follows)]
    # The followed network is one of those compared.
    run.numbers.update(accuracy=0.45, label_information=0.45, cckl=0.5)
    run.numbers.update(cross_entropy=1.5)
  assert verdict(questions.Characterises(), records)[0] == expected


def components(recipe, seed, last, *, first=1.0, removed=(0.0, 1.0)):
  """A run whose components go from `first` to `last`, with noise."""
  shape = np.geomspace(first, last * 2 ** noise(seed), 8)
  names = ("", "_median", "_q95")
  left = 2.0 - np.linspace(*removed, 8) - abs(noise(seed))
  return record(
    recipe,
    seed,
    curves={
      **{f"fisher_frobenius{name}": shape for name in names},
      "local_non_robust": shape,
      "path_non_robust": shape,
      "label_information": np.full(8, 2.0),
      "robust_label_information": left,
      "accuracy": np.linspace(0.1, 0.9, 8),
    },
  )


def test_components_rise():
  question = questions.Rises(factor=2.0, nats=0.1)
  rising = [components("standard", seed, 8.0) for seed in SEEDS]
  assert verdict(question, rising)[0] == answers.SUPPORTED
  still = [components("standard", s, 1.5, removed=(0, 0)) for s in SEEDS]
  assert verdict(question, still)[0] == answers.NOT_SUPPORTED
  mixed = [components("standard", s, 1.5, removed=(0, 1)) for s in SEEDS]
  found, statuses = verdict(question, mixed)
  assert found == answers.MIXED
  assert statuses["growth: information removed, nats"] == answers.HOLDS


def test_adversarial_training_regularises():
  question = questions.Regularises(factor=2.0, nats=0.1)

  def both(last, removed):
    return [
      run
      for seed in SEEDS
      for run in (
        components("standard", seed, 8.0),
        components("pgd", seed + 10, last, removed=(0, removed)),
      )
      for run in [run if run.recipe == "standard" else at(run, seed)]
    ]

  def at(run, seed):
    return record(run.recipe, seed, curves=run.trajectory)

  assert verdict(question, both(1.0, 0.2))[0] == answers.SUPPORTED
  assert verdict(question, both(7.0, 1.0))[0] == answers.NOT_SUPPORTED
  assert verdict(question, both(1.0, 1.0))[0] == answers.MIXED


def test_at_equal_accuracy_a_slower_network_is_not_regularised():
  # Standard training passes through the same components on its way: the
  # difference at the end is one of accuracy alone.
  records = []
  for seed in SEEDS:
    standard = components("standard", seed, 8.0)
    slow = {k: np.asarray(v)[:4] for k, v in standard.trajectory.items()}
    records += [standard, record("pgd", seed, curves=slow)]
  found, statuses = verdict(questions.Regularises(), records)
  assert found == answers.MIXED
  for text, status in statuses.items():
    expected = answers.HOLDS if "equal steps" in text else answers.FAILS
    assert status == expected, text


@pytest.mark.parametrize(
  ("share", "robust", "expected"),
  [
    (0.3, 0.6, answers.SUPPORTED),
    (0.3, 0.4, answers.MIXED),
    (0.7, 0.3, answers.NOT_SUPPORTED),
  ],
)
def test_nonlinearity_moves_performance(share, robust, expected):
  records = []
  for seed in SEEDS:
    for recipe, of_share, accuracy in (
      ("linear", 0.5, 0.4),
      ("relu", share, robust),
    ):
      change = noise((seed, len(recipe)), scale=0.005)
      records.append(
        record(
          recipe,
          seed,
          local_share=of_share + change,
          path_share=of_share + change,
          epsilon_label_information_share=of_share + change,
          robust_accuracy=accuracy + change,
        )
      )
  question = questions.Nonlinearity(pairs=(("ReLU", "linear", "relu"),))
  assert verdict(question, records)[0] == expected


def ranked(seed, *, norm, gradient, masked=False):
  """Networks whose robustness is ranked by a norm, by gradients, or not."""
  rng = np.random.default_rng(seed)
  for i in range(10):
    yield record(
      f"r{i}",
      seed,
      robust_accuracy=0.1 * i,
      distance_mean=0.1 * i,
      doubts=["noise is weaker"] if masked and i > 4 else (),
      fisher_frobenius_mean=1 / (i + 1) if norm else rng.uniform(),
      gradient_norm_mean=1 / (i + 1) if gradient else rng.uniform(),
    )


@pytest.mark.parametrize(
  ("question", "made"),
  [
    (questions.Characterises(), lambda seed: networks(seed, follows=False)),
    (
      questions.Predicts(),
      lambda seed: ranked(seed, norm=False, gradient=True),
    ),
  ],
)
def test_a_seed_that_lacks_a_recipe_waits_for_it(question, made):
  complete = [r for s in SEEDS for r in (training(s, True), *made(s))]
  partial = [training(9, True), *[*made(9)][:-1]]
  before, after = (
    {
      criterion.text: criterion.values
      for criterion in question.answer(Records(records)).criteria
      if "over training" not in criterion.text
    }
    for records in (complete, [*complete, *partial])
  )
  assert before == after
  assert {len(values) for values in after.values()} == {len(SEEDS)}


@pytest.mark.parametrize(
  ("norm", "gradient", "expected"),
  [
    (True, False, answers.SUPPORTED),
    # A baseline does as well: the norm adds nothing.
    (True, True, answers.MIXED),
    (False, True, answers.NOT_SUPPORTED),
  ],
)
def test_norms_predict_robustness(norm, gradient, expected):
  records = [
    r for seed in SEEDS for r in ranked(seed, norm=norm, gradient=gradient)
  ]
  question = questions.Predicts()
  assert verdict(question, records)[0] == expected
  [table] = question.answer(Records(records)).tables
  row = next(r for r in table.rows if r[0] == "Fisher norm, mean")
  assert row[2].startswith("1.00 [1.00" if norm else row[2][:4])
  assert "nan" not in str(table.rows)


def test_a_target_that_some_networks_lack_is_that_of_the_others():
  records = [r for s in SEEDS for r in ranked(s, norm=True, gradient=False)]
  for late in records:
    if late.seed != SEEDS[0]:
      del late.numbers["distance_mean"]
  [table] = questions.Predicts().answer(Records(records)).tables
  assert table.columns[-1] == "Kendall with mean minimal distance (10 networks)"
  assert {len(row) for row in table.rows} == {len(table.columns)}
  norm = next(r for r in table.rows if r[0] == "Fisher norm, mean")
  assert norm[-1] == "1.00"
  for one in records:
    one.numbers.pop("distance_mean", None)
  [table] = questions.Predicts().answer(Records(records)).tables
  assert "minimal distance" not in str(table.columns)


def test_networks_that_are_not_trustworthy_are_left_out():
  masked = [
    r
    for seed in SEEDS
    for r in ranked(seed, norm=True, gradient=False, masked=True)
  ]
  # Half of them: too few for a ranking.
  assert not questions.Predicts(min_networks=6).answer(Records(masked)).criteria


def behind_mask(seed, *, robust, **numbers):
  """A network, and the same behind a mask, among others without."""
  for i in range(4):
    yield record(f"r{i}", seed, robust_accuracy=0.1 * i, margin_mean=0.1 * i)
  yield record("plain", seed, robust_accuracy=0.2, margin_mean=0.2)
  yield record(
    "mask",
    seed,
    robust_accuracy=robust,
    margin_mean=-1.0,
    doubts=["square is stronger"],
    **numbers,
  )


@pytest.mark.parametrize(
  ("numbers", "expected"),
  [
    ({"robust": 0.21, "fisher_frobenius_mean": 1.2}, answers.SUPPORTED),
    ({"robust": 0.18, "fisher_frobenius_mean": 0.0}, answers.MIXED),
    ({"robust": 0.18, "fisher_frobenius_mean": 81.0}, answers.MIXED),
    ({"robust": 0.4, "path_non_robust": 1.9}, answers.MIXED),
    (
      {
        "robust": 0.4,
        "fisher_frobenius_mean": 0.0,
        "local_non_robust": 0.4,
        "path_non_robust": 2.1,
        "epsilon_label_information_non_robust": 0.0,
      },
      answers.NOT_SUPPORTED,
    ),
  ],
)
def test_numbers_see_through_masks(numbers, expected):
  records = [r for seed in SEEDS for r in behind_mask(seed, **numbers)]
  question = questions.Masks(plain="plain", masked=("mask",))
  found, statuses = verdict(question, records)
  assert found == expected
  for text, status in statuses.items():
    seen = answers.HOLDS
    if "robust accuracy" in text and numbers["robust"] == 0.4:
      seen = answers.FAILS
    if "Fisher" in text and numbers.get("fisher_frobenius_mean", 1) in (0, 81):
      seen = answers.FAILS
    if expected != answers.NOT_SUPPORTED:
      assert status == seen, text
  rankings = question.answer(Records(records)).tables[1]
  row = next(r for r in rankings.rows if r[0] == "margin, mean")
  # The masked network, which is not trustworthy, has another margin only.
  assert row[2:4] == ["1 ± 0", "1 ± 0"]
  assert row[4] != "1 ± 0"


def fronts(seed, *, penalty, relu, doubts=()):
  change = noise(seed, scale=0.004)
  yield record("adv", seed, accuracy=0.95, robust_accuracy=0.6 + change)
  # More robust, and too inaccurate to count.
  yield record("weak", seed, accuracy=0.5, robust_accuracy=0.9)
  yield record(
    "gelu", seed, accuracy=0.94, robust_accuracy=penalty, doubts=doubts
  )
  yield record("relu", seed, accuracy=0.95, robust_accuracy=relu - change)


@pytest.mark.parametrize(
  ("arguments", "expected"),
  [
    ({"penalty": 0.58, "relu": 0.3}, answers.SUPPORTED),
    ({"penalty": 0.40, "relu": 0.3}, answers.MIXED),
    ({"penalty": 0.40, "relu": 0.4}, answers.NOT_SUPPORTED),
    # A masked network has nothing to offer.
    (
      {"penalty": 0.99, "relu": 0.3, "doubts": ["square is weaker"]},
      answers.NOT_SUPPORTED,
    ),
  ],
)
def test_fronts_at_equal_cost(arguments, expected):
  records = [r for seed in SEEDS for r in fronts(seed, **arguments)]
  question = questions.Fronts(
    adversarial=("adv", "weak"), penalties=("gelu",), relu_penalties=("relu",)
  )
  assert verdict(question, records)[0] == expected


def test_a_component_that_vanishes_is_regularised():
  records = []
  for seed in SEEDS:
    records.append(components("standard", seed, 8.0))
    last = {k: [*v[:-1], 0.0] for k, v in records[-1].trajectory.items()}
    last["accuracy"] = records[-1].trajectory["accuracy"]
    last["robust_label_information"] = last["label_information"] = [2.0] * 8
    records.append(record("pgd", seed, curves=last))
  assert verdict(questions.Regularises(), records)[0] == answers.SUPPORTED


def test_rank_correlations_are_those_of_scipy():
  rng = np.random.default_rng(0)
  x, y = rng.normal(size=(2, 5, 9)).round(1)  # With ties.
  for one, two, found in zip(x, y, shared.spearman(x, y), strict=True):
    assert found == pytest.approx(stats.spearmanr(one, two).statistic)
  assert np.isnan(shared.spearman([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]))
  assert np.isnan(shared.spearman([1.0, 2.0], [1.0, 2.0]))


def test_every_figure_is_drawn(tmp_path):
  records = [
    *(r for seed in SEEDS for r in fronts(seed, penalty=0.4, relu=0.3)),
    *(components(name, s, 4.0) for name in ("standard", "pgd") for s in SEEDS),
    *networks(0, follows=True),
    *(
      r
      for s in SEEDS
      for r in behind_mask(
        s,
        robust=0.3,
        fisher_frobenius_mean=0.0,
        path_non_robust=1e6,
        robust_accuracy_pgd=0.9,
      )
    ),
  ]
  for question in (
    questions.Characterises(),
    questions.Rises(),
    questions.Regularises(),
    # Runs of the first pair are missing.
    questions.Nonlinearity(
      pairs=(("none", "linear", "relu"), ("ReLU", "relu", "gelu"))
    ),
    questions.Predicts(),
    questions.Fronts(adversarial=("adv",), penalties=("gelu",)),
    questions.Masks(plain="plain", masked=("mask",)),
  ):
    question.draw(Records(records), tmp_path / question.name)
    text = (tmp_path / f"{question.name}.svg").read_text()
    assert "case" in text
    assert (tmp_path / f"{question.name}.png").exists()


@pytest.mark.parametrize(
  ("values", "text"),
  [
    ([1.0, 2.0, 3.0], "2.0 ± 1.0"),
    ([98.6, 98.6, 98.6], "98.6 ± 0"),
    # Equal up to the rounding of their mean.
    ([100 * v for v in (0.986, 0.986, 0.986)], "98.6 ± 0"),
    ([1e-8, 2e-8], "1.5e-08 ± 7.1e-09"),
    ([1e31, 2e31], "1.5e+31 ± 7.1e+30"),
    ([0.5], "0.5"),
    ([1024.0], "1024"),
    ([1056.0, 1056.0], "1056 ± 0"),
    ([2e6], "2e+06"),
    ([1.0, float("nan")], "n/a"),
  ],
)
def test_spreads_are_written_to_the_digits_that_count(values, text):
  assert shared.spread(values) == text
