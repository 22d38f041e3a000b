"""Criteria, their correction, and verdicts."""

import math

import numpy as np
import pytest

from robust_info.study import answers


def judged(*criteria):
  return answers.judge({"q": answers.Answer(criteria)})["q"]


def criterion(values, threshold=0.0):
  return answers.Criterion("case", "a number", values, threshold)


def test_holm_multiplies_by_the_number_of_larger_p_values():
  # Holm 1979: 4 x 0.01, then 3 x 0.02, then the larger of that and 2 x 0.03.
  found = answers.holm([0.03, 0.01, 0.5, 0.02])
  np.testing.assert_allclose(found, [0.06, 0.04, 0.5, 0.06])
  found = answers.holm([math.nan, 0.01])
  assert math.isnan(found[0])
  assert found[1] == pytest.approx(0.02)
  assert answers.holm([]) == []


def test_the_interval_is_students():
  # Mean 2, standard error 1 / sqrt(3), t(0.975, 2) = 4.302653.
  mean, low, high = answers.interval([1.0, 2.0, 3.0])
  assert (mean, low) == (2.0, pytest.approx(2 - 4.302653 / math.sqrt(3)))
  assert high == pytest.approx(2 + 4.302653 / math.sqrt(3))
  assert answers.interval([2.0, 2.0]) == (2.0, 2.0, 2.0)
  assert math.isnan(answers.interval([2.0])[1])


@pytest.mark.parametrize(
  ("groups", "verdict"),
  [
    ([[1.0, 1.1, 0.9], [2.0, 2.1, 2.2]], answers.SUPPORTED),
    ([[1.0, 1.1, 0.9], [-2.0, -2.1, -2.2]], answers.MIXED),
    ([[-1.0, -1.1, -0.9], [-2.0, -2.1, -2.2]], answers.NOT_SUPPORTED),
    # Noise is no finding.
    ([[-1.0, 1.1, 0.9], [2.0, -2.1, 2.2]], answers.UNDECIDED),
    ([[-1.0, 1.1, 0.9], [-2.0, -2.1, -2.2]], answers.NOT_SUPPORTED),
    ([[1.0], [2.0]], answers.UNDECIDED),
    ([[1.0, math.nan], [2.0]], answers.UNDECIDED),
    ([], answers.UNDECIDED),
    # Without spread: the number itself is compared.
    ([[1.0, 1.0, 1.0]], answers.SUPPORTED),
    ([[-1.0, -1.0, -1.0]], answers.NOT_SUPPORTED),
  ],
)
def test_verdicts_follow_the_values(groups, verdict):
  assert answers.verdict(judged(*map(criterion, groups))) == verdict


def test_a_status_needs_the_corrected_p_value():
  # One-sided p = 0.04: holds alone, and not as one of three.
  values = [0.0, 1.0, 2.0, 2.1]
  [alone] = judged(criterion(values))
  assert alone.p_value < 0.05
  assert alone.status == answers.HOLDS
  among = judged(*[criterion(values)] * 3)
  assert among[0].corrected == pytest.approx(3 * alone.p_value)
  assert among[0].status == answers.OPEN
  [failing] = judged(criterion([-1.0, -1.2, -0.8]))
  assert failing.status == answers.FAILS
