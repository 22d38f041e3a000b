"""Mean, quantiles and their uncertainty, in closed form and by simulation."""

import math

import numpy as np
import pytest

from robust_info.evaluation import sample_statistics


def test_describe_in_closed_form():
  # 0..100: mean 50, variance with ddof 1 of n (n + 1) / 12, n = 101.
  found = sample_statistics.describe(np.random.default_rng(0).permutation(101))
  intervals = found.pop("intervals")
  assert found == pytest.approx(
    {
      "mean": 50.0,
      "standard_error": math.sqrt(102 / 12),
      "median": 50.0,
      "q05": 5.0,
      "q25": 25.0,
      "q75": 75.0,
      "q95": 95.0,
    }
  )
  # The smallest such interval above 95 %: P(39 < Bin(101, 1/2) <= 60).
  assert intervals["median"] == [40.0, 60.0]


def test_quantile_intervals_cover_the_quantile_as_often_as_they_say():
  rng = np.random.default_rng(0)
  true = -np.log(1 - np.array([0.05, 0.25, 0.5, 0.75, 0.95]))
  hits = []
  for _ in range(400):
    found = sample_statistics.describe(rng.exponential(size=200))["intervals"]
    low, high = np.array(list(found.values())).T
    hits.append((low <= true) & (true <= high))
  coverage = np.mean(hits, axis=0)
  # At least 95 %, but not because the intervals are too wide: 400 draws have an
  # error of 1.1 %.
  assert (coverage > 0.925).all()
  assert (coverage < 0.995).all()


def test_a_small_sample_does_not_bound_its_outer_quantiles():
  low, high = sample_statistics.describe(np.arange(20.0))["intervals"]["q05"]
  assert math.isnan(low)
  assert high < 5


def test_describe_sums_float32_in_float64():
  values = np.full(3_000_001, 0.1, np.float32)
  values[0] = 1e4
  exact = values.astype(np.float64)
  found = sample_statistics.describe(values)
  assert found["mean"] == pytest.approx(exact.mean(), rel=1e-12)
  assert found["standard_error"] == pytest.approx(
    exact.std(ddof=1) / math.sqrt(len(exact)), rel=1e-9
  )


def test_a_single_value_has_no_standard_error():
  found = sample_statistics.describe(np.array([2.0]))
  assert math.isnan(found.pop("standard_error"))
  del found["intervals"]
  assert set(found.values()) == {2.0}
