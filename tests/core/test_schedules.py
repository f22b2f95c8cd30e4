"""Schedules against the papers' formulae."""

import math

import pytest

from dirprune.core.schedules import CosineDecay, Cubic


def test_cubic_is_zhu_and_gupta():
    schedule = Cubic(begin=1000, end=5000, final=0.9, initial=0.1)
    for step in range(1000, 5001, 500):
        expected = 0.9 + (0.1 - 0.9) * (1 - (step - 1000) / 4000) ** 3
        assert schedule(step) == pytest.approx(expected, abs=1e-15)
    assert [schedule(step) for step in (0, 999, 1000, 5000, 5001)] == [0.1, 0.1, 0.1, 0.9, 0.9]


@pytest.mark.parametrize(("begin", "every", "times", "initial"), [(0, 1, 100, 0.0), (1000, 10, 400, 0.1)])
def test_cubic_is_that_of_torch(begin, every, times, initial):
    oracle = pytest.importorskip("torch.ao.pruning").CubicSL.sparsity_compute_fn
    end = begin + every * times
    schedule = Cubic(begin=begin, end=end, final=0.9, initial=initial)
    for step in range(0, end + 3 * every, every):
        expected = oracle(initial, 0.9, step, begin, every, times)
        assert schedule(step) == pytest.approx(expected, abs=1e-12)


def test_cubic_has_done_seven_eighths_of_its_way_in_the_middle():
    assert Cubic(begin=0, end=100, final=0.8)(50) == pytest.approx(0.7)


def test_cubic_without_a_ramp_is_a_jump():
    assert [Cubic(begin=3, end=3, final=0.5)(step) for step in (2, 3, 4)] == [0, 0.5, 0.5]


def test_cosine_is_rigls_update_fraction():
    schedule = CosineDecay(initial=0.3, end=25_000)
    for step in (0, 100, 12_500, 24_900):
        assert schedule(step) == pytest.approx(0.15 * (1 + math.cos(step * math.pi / 25_000)))
    assert [schedule(0), schedule(25_000), schedule(32_000)] == [0.3, 0, 0]
