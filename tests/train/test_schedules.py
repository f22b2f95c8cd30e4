"""Learning-rate factors against the words of the paper's section 4."""

import math

import pytest

from dirprune.train.schedules import SCHEDULES


@pytest.mark.parametrize(
    ("name", "epoch", "epochs", "factor"),
    [
        ("constant", 1, 10, 1.0),
        ("constant", 10, 10, 1.0),
        ("drop", 140, 150, 1.0),
        ("drop", 141, 150, 0.1),
        ("half-linear", 1, 600, 1.0),
        ("half-linear", 300, 600, 1.0),
        ("half-linear", 301, 600, 1 - 0.99 / 240),  # the linear part lasts 40 % of 600 epochs
        ("half-linear", 420, 600, (1 + 0.01) / 2),
        ("half-linear", 540, 600, 0.01),
        ("half-linear", 600, 600, 0.01),
        ("cosine", 5, 10, 0.5),
        ("cosine", 10, 10, 0.0),
    ],
)
def test_factor(name, epoch, epochs, factor):
    assert SCHEDULES[name](epoch / epochs) == pytest.approx(factor, abs=1e-12)


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_stays_between_0_and_1_and_never_rises(name):
    factors = [SCHEDULES[name](epoch / 100) for epoch in range(1, 101)]
    assert all(0 <= factor <= 1 and math.isfinite(factor) for factor in factors)
    assert factors == sorted(factors, reverse=True)
