"""Estimates against scipy."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from dirprune.errors import UsageError
from dirprune.report.statistics import estimate, paired_difference

VALUES = st.lists(st.integers(-800, 800).map(lambda n: n / 8), min_size=2, max_size=8, unique=True)


@given(VALUES, st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_an_interval_is_scipys(values, confidence):
    got = estimate(values, confidence)
    expected = stats.ttest_1samp(values, 0).confidence_interval(confidence)
    assert got.n == len(values)
    assert got.mean == pytest.approx(np.mean(values), abs=1e-9)
    assert got.std == pytest.approx(np.std(values, ddof=1), abs=1e-9)
    assert (got.low, got.high) == pytest.approx((expected.low, expected.high), abs=1e-6, rel=1e-9)


@given(VALUES, st.integers(0, 2**32 - 1))
def test_a_paired_difference_is_scipys(values, seed):
    reference = np.random.default_rng(seed).normal(size=len(values))
    got = paired_difference(values, reference.tolist())
    expected = stats.ttest_rel(values, reference).confidence_interval(0.95)
    assert (got.low, got.high) == pytest.approx((expected.low, expected.high), abs=1e-6, rel=1e-9)


def test_what_all_methods_of_a_seed_share_cancels():
    seeds = np.array([1.0, 5.0, 9.0])
    got = paired_difference((seeds + np.array([0.1, 0.2, 0.3])).tolist(), seeds.tolist())
    assert got.mean == pytest.approx(0.2)
    assert got.std == pytest.approx(0.1)


def test_the_interval_holds_the_mean_as_often_as_it_says():
    draws = np.random.default_rng(0).normal(3.0, 2.0, size=(2000, 3))
    held = np.mean([e.low <= 3.0 <= e.high for e in map(estimate, draws.tolist())])
    assert held == pytest.approx(0.95, abs=0.015)


def test_a_single_run_has_no_spread():
    got = estimate([1.5])
    assert (got.n, got.mean) == (1, 1.5)
    assert all(math.isnan(x) for x in (got.std, got.low, got.high))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_has_no_spread(value):
    got = estimate([value, 1.0, 2.0])
    assert (got.n, str(got.mean)) == (3, str(value))
    assert all(math.isnan(x) for x in (got.std, got.low, got.high))


def test_impossible_questions_are_refused():
    with pytest.raises(UsageError, match="at least one value, got none"):
        estimate([])
    with pytest.raises(UsageError, match=r"in \(0, 1\), got 95"):
        estimate([1.0, 2.0], 95)
    with pytest.raises(UsageError, match="equal numbers, got 2 and 1"):
        paired_difference([1.0, 2.0], [1.0])
