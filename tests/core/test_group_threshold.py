"""Thresholding whole channels: against NumPy, the optimality of a proximal map, and closed forms."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dirprune.core.threshold import GroupSoftThreshold, SoftThreshold
from tests.optim.common import same_bits
from tests.oracles import numpy_grda

PROPERTY = settings(max_examples=60)
RULE = GroupSoftThreshold()
SHAPES = [(5,), (), (4, 6), (1, 9), (7, 1), (0, 3), (3, 0), (5, 3, 2, 2), (6, 2, 4)]


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Rows of very different size, so that a threshold takes some of them."""
    v = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    if v.ndim > 1:
        v *= torch.linspace(0.2, 3, max(len(v), 1))[: len(v)].view(-1, *[1] * (v.ndim - 1))
    return v.to(dtype)


def write(accumulator: torch.Tensor, threshold) -> torch.Tensor:
    weight = torch.full_like(accumulator, math.nan)
    RULE.write(accumulator, threshold, weight)
    return weight


def foreach_write(accumulator: torch.Tensor, threshold) -> torch.Tensor:
    others = torch.ones(2, 2, dtype=accumulator.dtype)
    weights = [torch.full_like(accumulator, math.nan), torch.zeros_like(others)]
    RULE.foreach_write([accumulator, others], [threshold, threshold], weights)
    return weights[0]


FORMS = {"call": RULE, "write": write, "foreach_write": foreach_write}


@pytest.mark.parametrize("tau", [0.0, 1e-300, 0.7, 1e6])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("form", FORMS)
def test_equals_the_oracle(form: str, shape: tuple[int, ...], tau: float) -> None:
    v = normal(*shape)
    before = v.clone()
    for threshold in (tau, torch.tensor(tau, dtype=torch.float64)):
        result = FORMS[form](v, threshold)
        np.testing.assert_allclose(
            result, numpy_grda.group_soft_threshold(v.numpy(), tau), rtol=1e-13, atol=1e-15
        )
        assert torch.equal(v, before)


@pytest.mark.parametrize("form", FORMS)
def test_some_channels_go_and_in_the_others_no_weight_does(form: str) -> None:
    v = normal(8, 3, 3, 3)
    result = FORMS[form](v, 1.0)
    dead = (result == 0).flatten(1).all(1)
    assert dead.tolist() == (v.square().flatten(1).mean(1).sqrt() <= 1.0).tolist()  # root mean square
    assert 0 < dead.sum() < 8
    assert (result[~dead] != 0).all()
    assert not torch.signbit(result[dead]).any()


@PROPERTY
@given(seed=st.integers(0, 10**6), rows=st.integers(1, 5), columns=st.integers(1, 8), tau=st.floats(1e-3, 3))
def test_no_other_point_has_a_smaller_objective(seed: int, rows: int, columns: int, tau: float) -> None:
    """The subdifferential of |w - v|^2 / 2 + tau sqrt(|g|) |w| holds 0: what a proximal map is."""
    v = normal(rows, columns, seed=seed)
    radius = tau * math.sqrt(columns)
    for w, accumulator in zip(RULE(v, tau), v, strict=True):
        residual = accumulator - w
        if bool((w == 0).all()):
            assert residual.norm() <= radius * (1 + 1e-12)
        else:
            torch.testing.assert_close(residual, radius * w / w.norm(), rtol=1e-9, atol=1e-9)


def test_a_single_group_in_closed_form() -> None:
    """(3, 4) has norm 5; tau = 1/sqrt(2) takes 1 of it, 5/sqrt(2) all."""
    v = torch.tensor([[3.0, 4.0]], dtype=torch.float64)
    torch.testing.assert_close(RULE(v, 2**-0.5), v * 0.8, rtol=1e-15, atol=0)
    assert RULE(v, 5 * 2**-0.5 * (1 + 1e-15)).tolist() == [[0, 0]]
    torch.testing.assert_close(RULE(v, 5 * 2**-0.5 * (1 - 1e-9)), v * 1e-9, rtol=1e-6, atol=0)


@pytest.mark.parametrize("form", FORMS)
def test_groups_of_one_element_equal_the_elementwise_rule(form: str) -> None:
    v = normal(200, 1)
    elementwise = SoftThreshold()(v, 0.6)
    torch.testing.assert_close(FORMS[form](v, 0.6), elementwise, rtol=1e-14, atol=1e-15)
    assert torch.equal(FORMS[form](v, 0.6) == 0, elementwise == 0)
    assert torch.equal(FORMS[form](v[:, 0], 0.6), elementwise[:, 0])  # a bias: to the bit


def test_channels_of_one_magnitude_equal_the_elementwise_rule_whatever_their_size() -> None:
    """What the weight sqrt(|g|) is for."""
    for columns in (1, 9, 4000):
        v = torch.tensor([0.3, -0.9, 1.5], dtype=torch.float64)[:, None].expand(3, columns).contiguous()
        torch.testing.assert_close(RULE(v, 0.5), SoftThreshold()(v, 0.5), rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("form", FORMS)
def test_a_threshold_of_zero_is_the_identity(form: str) -> None:
    v = torch.tensor([[-3.0, -1e-30], [0.0, 0.0], [1e-30, 3.0]])
    assert torch.equal(FORMS[form](v, 0.0), v)
    assert torch.equal(FORMS[form](v, torch.tensor(0.0, dtype=torch.float64)), v)


@pytest.mark.parametrize("form", [write, foreach_write])
def test_a_threshold_of_zero_on_the_host_copies_to_the_bit(form) -> None:
    """As SGD does with the sign of a zero, and with an infinity."""
    v = torch.tensor([[-0.0, 2.0], [math.inf, -math.inf]])
    assert same_bits(form(v, 0.0), v)


@pytest.mark.parametrize("form", FORMS)
def test_a_row_that_is_not_finite_stays_so_and_harms_no_other(form: str) -> None:
    v = torch.tensor([[math.nan, 1.0], [math.inf, 1.0], [3.0, 4.0]])
    result = FORMS[form](v, 2**-0.5)
    assert not result[0].isfinite().any()
    assert not result[1, 0].isfinite()
    torch.testing.assert_close(result[2], torch.tensor([2.4, 3.2]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_narrower_weight_is_rounded_once_at_the_end(dtype: torch.dtype) -> None:
    v = normal(20, 30, dtype=torch.float32)
    expected = RULE(v, 0.3).to(dtype)
    one, many = torch.empty(20, 30, dtype=dtype), torch.empty(20, 30, dtype=dtype)
    RULE.write(v, 0.3, one)
    RULE.foreach_write([v], [0.3], [many])
    assert torch.equal(one, expected)
    assert torch.equal(many, expected)


def test_autograd_passes_through() -> None:
    v = normal(4, 3).requires_grad_()
    tau = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    assert 0 < (RULE(v, tau) == 0).all(1).sum() < 4
    assert torch.autograd.gradcheck(RULE, (v, tau))
    zero = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(RULE(zero, tau).sum(), zero)
    assert slope.tolist() == [[0.0] * 3] * 2
