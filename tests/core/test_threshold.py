"""The threshold over time, and thresholding element by element, soft and hard."""

import math
from decimal import Decimal, getcontext

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dirprune.core.threshold import RULES as RULES_BY_NAME
from dirprune.core.threshold import (
    HardThreshold,
    SoftThreshold,
    ThresholdRule,
    threshold_increment,
    tuning_function,
)
from tests.oracles import numpy_grda

PROPERTY = settings(max_examples=100)
SOFT, HARD = SoftThreshold(), HardThreshold()
RULES = pytest.mark.parametrize("rule", [SOFT, HARD], ids=["soft", "hard"])


def exact(c: float, lr: float, mu: float, n: int) -> Decimal:
    """c lr^(mu + 1/2) n^mu with 50 digits."""
    getcontext().prec = 50
    power = (Decimal(mu) + Decimal("0.5")) * Decimal(lr).ln() + Decimal(mu) * Decimal(n).ln()
    return Decimal(c) * power.exp()


@PROPERTY
@given(
    n=st.integers(1, 10**9),
    lr=st.floats(1e-6, 10),
    c=st.floats(1e-6, 10),
    mu=st.floats(0.01, 1, exclude_min=True),
)
def test_tuning_function_has_the_closed_form(n: int, lr: float, c: float, mu: float) -> None:
    assert tuning_function(float(n), lr, c, mu) == pytest.approx(float(exact(c, lr, mu, n)), rel=1e-13)


def test_tuning_function_starts_at_zero_and_takes_tensors() -> None:
    steps = torch.arange(5, dtype=torch.float64)
    taus = tuning_function(steps, lr=0.1, c=0.2, mu=0.6)
    assert taus.dtype == torch.float64
    assert taus[0] == 0
    assert taus.tolist() == pytest.approx(
        [tuning_function(float(n), lr=0.1, c=0.2, mu=0.6) for n in range(5)]
    )


@PROPERTY
@given(rates=st.lists(st.floats(0, 2), min_size=1, max_size=200), c=st.floats(0, 10), mu=st.floats(0.01, 1))
def test_increments_sum_to_the_oracle(rates: list[float], c: float, mu: float) -> None:
    total, totals = 0.0, []
    for n, rate in enumerate(rates):
        total += threshold_increment(float(n), rate, c, mu)
        totals.append(total)
    np.testing.assert_allclose(totals, numpy_grda.thresholds(rates, c, mu), rtol=1e-12, atol=1e-300)


def test_a_hundred_thousand_increments_at_a_constant_rate_have_the_closed_form() -> None:
    """In float32 the sum is off by some thousandths long before."""
    steps, lr, c, mu = 100_000, 0.1, 5e-4, 0.51
    total, narrow = 0.0, np.float32(0)
    for n in range(steps):
        total += threshold_increment(float(n), lr, c, mu)
        narrow += np.float32(c * lr ** (mu + 0.5)) * (
            np.float32(n + 1) ** np.float32(mu) - np.float32(n) ** np.float32(mu)
        )
    closed = float(exact(c, lr, mu, steps))
    assert total == pytest.approx(closed, rel=1e-12, abs=0)
    assert narrow != pytest.approx(closed, rel=1e-4)


@pytest.mark.parametrize("lr", [0.1, torch.tensor(0.1, dtype=torch.float64), torch.tensor(0.1)])
def test_increments_of_tensors_are_float64(lr) -> None:
    step = torch.tensor(7.0, dtype=torch.float64)
    increment = threshold_increment(step, lr, c=0.2, mu=0.6)
    assert increment.dtype == torch.float64
    assert increment.ndim == 0
    assert increment.item() == pytest.approx(threshold_increment(7.0, float(lr), c=0.2, mu=0.6), rel=1e-14)


@pytest.mark.parametrize("lr", [0.0, -1e-18, -1.0])
def test_a_rate_of_zero_or_below_adds_nothing(lr: float) -> None:
    assert threshold_increment(3.0, lr, c=0.2, mu=0.6) == 0
    step = torch.tensor(3.0, dtype=torch.float64)
    assert threshold_increment(step, torch.tensor(lr), c=0.2, mu=0.6) == 0


def call(rule: ThresholdRule, accumulator: torch.Tensor, threshold) -> torch.Tensor:
    return rule(accumulator, threshold)


def write(rule: ThresholdRule, accumulator: torch.Tensor, threshold) -> torch.Tensor:
    weight = torch.full_like(accumulator, math.nan)
    rule.write(accumulator, threshold, weight)
    return weight


def foreach_write(rule: ThresholdRule, accumulator: torch.Tensor, threshold) -> torch.Tensor:
    weights = [torch.full_like(accumulator, math.nan), torch.ones(2, dtype=accumulator.dtype)]
    rule.foreach_write([accumulator, torch.ones(2, dtype=accumulator.dtype)], [threshold, threshold], weights)
    return weights[0]


FORMS = pytest.mark.parametrize("form", [call, write, foreach_write])


@FORMS
@pytest.mark.parametrize(
    ("rule", "oracle"), [(SOFT, numpy_grda.soft_threshold), (HARD, numpy_grda.hard_threshold)]
)
@PROPERTY
@given(values=st.lists(st.floats(width=64, allow_nan=False), max_size=20), tau=st.floats(0, 1e6))
def test_a_rule_equals_the_oracle(form, rule: ThresholdRule, oracle, values: list[float], tau: float) -> None:
    v = torch.tensor([*values, tau, -tau], dtype=torch.float64)
    expected = oracle(v.numpy(), tau)
    for threshold in (tau, torch.tensor(tau, dtype=torch.float64)):
        result = form(rule, v, threshold)
        np.testing.assert_array_equal(result, expected)
        assert not torch.signbit(result[v.abs() <= tau]).any() or tau == 0
        assert v.tolist() == [*values, tau, -tau]  # untouched


@pytest.mark.parametrize("tau", [0.0, 0.3, 7.0])
def test_the_hard_threshold_minimises_the_l0_objective(tau: float) -> None:
    """(w - v)^2 / 2 + tau^2 / 2 [w != 0]: no w but 0 and v can be best."""
    v = torch.linspace(-2, 2, 10_001, dtype=torch.float64) * (tau or 1.0)
    w = HARD(v, tau)

    def objective(w: torch.Tensor) -> torch.Tensor:
        return ((w - v) ** 2 + tau**2 * (w != 0).double()) / 2

    assert ((w == 0) | (w == v)).all()
    assert (objective(w) <= torch.minimum(objective(torch.zeros_like(v)), objective(v)) * (1 + 1e-15)).all()


@FORMS
@RULES
@pytest.mark.parametrize("make", [float, torch.tensor])
def test_what_lies_on_or_within_the_threshold_is_plus_zero(form, rule: ThresholdRule, make) -> None:
    v = torch.tensor([-2.0, -1.0, -0.5, -0.0, 0.0, 0.5, 1.0, 2.0])
    result = form(rule, v, make(1.0))
    left = 2.0 if rule is HARD else 1.0
    assert result.tolist() == [-left, 0, 0, 0, 0, 0, 0, left]
    assert not torch.signbit(result[1:]).any()


@FORMS
@RULES
@pytest.mark.parametrize("make", [float, torch.tensor])
def test_a_threshold_of_zero_is_the_identity_and_nan_is_handed_on(form, rule: ThresholdRule, make) -> None:
    v = torch.tensor([-3.0, -1e-30, 0.0, 1e-30, 3.0, math.inf, -math.inf])
    assert torch.equal(form(rule, v, make(0.0)), v)
    odd = torch.tensor([math.nan, math.inf, -math.inf] * 50)  # in vectors and in the remainder
    torch.testing.assert_close(form(rule, odd, make(1.0)), odd, rtol=0, atol=0, equal_nan=True)


@RULES
def test_a_threshold_of_zero_on_the_host_copies_to_the_bit(rule: ThresholdRule) -> None:
    """As SGD does with the sign of a zero."""
    v = torch.tensor([-0.0, 0.0])
    for form in (write, foreach_write):
        assert torch.signbit(form(rule, v, 0.0)).tolist() == [True, False]


@RULES
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_narrower_weight_is_rounded_once_at_the_end(rule: ThresholdRule, dtype: torch.dtype) -> None:
    v = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    expected = rule(v, 0.3).to(dtype)
    one, many = torch.empty(1000, dtype=dtype), torch.empty(1000, dtype=dtype)
    rule.write(v, 0.3, one)
    rule.foreach_write([v], [0.3], [many])
    assert torch.equal(one, expected)
    assert torch.equal(many, expected)


@pytest.mark.parametrize("rule", RULES_BY_NAME.values(), ids=RULES_BY_NAME)
def test_a_scalar_keeps_its_dtype_beside_a_wider_threshold(rule: ThresholdRule) -> None:
    v, tau = torch.tensor(3.3), torch.tensor(0.1, dtype=torch.float64)
    result = rule(v, tau)
    assert result.dtype == torch.float32
    assert torch.equal(result, rule(v, tau.item()))


def test_autograd_passes_through() -> None:
    v = torch.tensor([-2.0, -0.5, 0.5, 2.0], dtype=torch.float64, requires_grad=True)
    tau = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    for rule, threshold in ((SOFT, tau), (HARD, tau), (HARD, 1.0)):
        assert torch.autograd.gradcheck(lambda v, rule=rule, tau=threshold: rule(v, tau), v)
        (slope,) = torch.autograd.grad(rule(v, threshold).sum(), v)
        assert slope.tolist() == [1, 0, 0, 1]
    assert torch.autograd.gradcheck(SOFT, (v, tau))
    slopes = torch.autograd.grad(SOFT(v, tau).sum(), (v, tau))
    assert slopes[0].tolist() == [1, 0, 0, 1]
    assert slopes[1] == 0  # one weight moves up, the other down
