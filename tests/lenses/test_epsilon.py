import dataclasses

import numpy as np
import pytest

import robust_info as ri

rng = np.random.default_rng(0)
LABELS = np.arange(60) % 3
CLEAN = (rng.normal(size=(60, 3)) + 4 * np.eye(3)[LABELS]).astype(np.float32)
ATTACKED = (CLEAN - 3 * np.eye(3)[LABELS]).astype(np.float32)


def stats(logits, labels=LABELS):
  return ri.information_stats(logits, labels)


def test_parts_are_the_clean_and_the_attacked_values():
  clean, attacked = stats(CLEAN), stats(ATTACKED)
  lens = ri.epsilon_lens(clean, attacked)
  before, after = ri.summarize(clean), ri.summarize(attacked)
  for field in dataclasses.fields(lens):
    parts = getattr(lens, field.name)
    np.testing.assert_array_equal(parts.total, getattr(before, field.name))
    np.testing.assert_array_equal(parts.robust, getattr(after, field.name))
    np.testing.assert_array_equal(parts.non_robust, parts.total - parts.robust)
  assert lens.label_information.non_robust > 0
  assert lens.cckl_matrix.total.shape == (3, 3)


def test_no_attack_takes_nothing():
  lens = ri.epsilon_lens(stats(CLEAN), stats(CLEAN))
  assert lens.cckl.non_robust == 0
  assert lens.accuracy.non_robust == 0


@pytest.mark.parametrize(
  ("attacked", "message"),
  [
    (lambda: stats(ATTACKED[:59], LABELS[:59]), "the same examples.*59 and 60"),
    (
      lambda: stats(ATTACKED, (LABELS + (LABELS == 0)) % 3),
      "the same examples",
    ),
    (
      lambda: stats(np.zeros((60, 4), np.float32)),
      "num_classes=4 and 3",
    ),
  ],
)
def test_statistics_of_other_examples_are_refused(attacked, message):
  with pytest.raises(ValueError, match=message):
    ri.epsilon_lens(stats(CLEAN), attacked())


@pytest.mark.parametrize("place", [0, 1])
def test_what_is_no_statistics_is_named(place):
  arguments = [stats(CLEAN), stats(CLEAN)]
  arguments[place] = CLEAN
  with pytest.raises(TypeError, match=("clean", "attacked")[place]):
    ri.epsilon_lens(*arguments)
