"""Robust accuracy by radius."""

import math

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pytest

from robust_info.attacks import checks, results


@hypothesis.given(
  outcomes=hnp.arrays(bool, st.tuples(st.integers(1, 5), st.integers(1, 12)))
)
def test_accuracy_by_radius_is_the_worst_case_so_far(outcomes):
  before = outcomes.copy()
  curve = results.accuracy_by_radius(
    [(0.1 * i, rows) for i, rows in enumerate(outcomes)]
  )
  np.testing.assert_array_equal(outcomes, before)
  worst = np.logical_and.accumulate(outcomes, axis=0).mean(axis=1)
  assert [point["accuracy"] for point in curve] == worst.tolist()
  assert (np.diff(worst) <= 0).all()
  num_examples = outcomes.shape[1]
  for point, share in zip(curve, worst, strict=True):
    binomial = math.sqrt(share * (1 - share) / num_examples)
    error = point["standard_error"]
    if binomial:
      assert error == pytest.approx(binomial)
    else:
      # Of the share two errors away, 1 of 20 samples would be as extreme.
      assert (1 - 2 * error) ** num_examples == pytest.approx(0.05)


@pytest.mark.parametrize(
  ("value", "written"),
  [
    (0.0200000012, "0.020000001"),  # Not "0.02", which passes.
    (0.021, "0.021"),
    (0.02, "0.02"),
    (math.inf, "inf"),
    (math.nan, "nan"),
  ],
)
def test_value_above_its_limit_is_not_written_as_the_limit(value, written):
  check = checks.at_most("slow", value, 0.02, "Look closer.")
  line = str(checks.SanityReport((check,), {})).splitlines()[0]
  assert line.split()[:3] == [
    "FAIL" if value != 0.02 else "pass",
    "slow",
    written,
  ]
  assert "(limit 0.02)" in line
