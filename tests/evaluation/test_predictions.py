"""Groups of predictions, and the calibration error by hand."""

import math

import numpy as np
import pytest

from robust_info.evaluation import predictions
from robust_info.information import groups

NUM_GROUPS = 3


def make_predictions(correct, confidence):
  logits = np.zeros((len(correct), 2), np.float32)
  parts = groups.grouped_information_stats(
    logits,
    np.zeros(len(correct), int),
    np.arange(len(correct)) % NUM_GROUPS,
    num_groups=NUM_GROUPS,
  )
  return predictions.Predictions(
    parts, np.asarray(correct), np.asarray(confidence, np.float32)
  )


def test_calibration_error_of_a_case_by_hand():
  # Bins of 1/15: .41 and .45 share one, .8 has its own (edges at .8, .8667).
  found = make_predictions([True, False, True, True], [0.41, 0.45, 0.81, 1.0])
  # |(1 - .41) + (0 - .45)| + |1 - .81| + |1 - 1| over 4.
  assert found.calibration_error == pytest.approx((0.14 + 0.19) / 4, rel=1e-5)
  # Without the first and the last; the second; the third.
  np.testing.assert_allclose(
    found.calibration_error_deleted,
    [(0.45 + 0.19) / 2, (0.59 + 0.19) / 3, 0.14 / 3],
    rtol=1e-5,
  )


def test_calibration_error_is_zero_for_honest_and_one_for_sure_wrong():
  honest = make_predictions(np.arange(8) % 4 > 0, np.full(8, 0.75))
  assert honest.calibration_error == pytest.approx(0, abs=1e-7)
  wrong = make_predictions(np.zeros(3, bool), np.ones(3))
  assert wrong.calibration_error == 1
  broken = make_predictions(np.zeros(3, bool), np.full(3, np.nan))
  assert math.isnan(broken.calibration_error)
