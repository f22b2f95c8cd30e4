"""GRDA does what the equations say: against a NumPy oracle, closed forms, and torch.optim.SGD."""

import math
from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from dirprune.core.threshold import SoftThreshold
from dirprune.optim import GRDA
from tests.optim.common import OPTIONS, PENALTIES, assert_same, parameters, set_gradients, train
from tests.oracles import numpy_grda

SIZE = 12


class NoisyQuadratic:
    """Gradient A w + noise, with eigenvalues of A in [0, 1]: a rate below 1 never blows up."""

    def __init__(self, seed: int) -> None:
        generator = np.random.default_rng(seed)
        q, _ = np.linalg.qr(generator.standard_normal((SIZE, SIZE)))
        self.hessian = q @ np.diag(np.linspace(0, 1, SIZE)) @ q.T
        self.noise = generator.standard_normal((400, SIZE))
        self.start = generator.standard_normal(SIZE)

    def __call__(self, n: int, w: NDArray[np.float64]) -> NDArray[np.float64]:
        return self.hessian @ w + 0.3 * self.noise[n]


def run(problem: NoisyQuadratic, rates: list[float], dtype: torch.dtype, **options) -> tuple[Tensor, ...]:
    """Weights, accumulators and thresholds after every step of GRDA."""
    w = nn.Parameter(torch.tensor(problem.start, dtype=dtype))
    optimizer = GRDA([w], lr=rates[0], **options)
    history = []
    for n, rate in enumerate(rates):
        optimizer.param_groups[0]["lr"] = rate
        w.grad = torch.from_numpy(problem(n, w.detach().double().numpy())).to(dtype)
        optimizer.step()
        state = optimizer.state[w]
        history.append((w.detach().clone(), state["accumulator"].clone(), state["threshold"].clone()))
    return tuple(torch.stack(column) for column in zip(*history, strict=True))


@st.composite
def schedules(draw: st.DrawFn) -> list[float]:
    """Hundreds of rates: constant, or in up to five stretches, some of them at 0."""
    steps = draw(st.integers(100, 300))
    rate = st.floats(1e-3, 0.9) | st.just(0.0)
    levels = [draw(st.floats(1e-3, 0.9)), *draw(st.lists(rate, max_size=4))]
    return [levels[n * len(levels) // steps] for n in range(steps)]


@settings(max_examples=25)
@given(
    seed=st.integers(0, 1000),
    rates=schedules(),
    c=st.floats(0, 0.3),
    mu=st.floats(0.05, 1.0),
    momentum=st.sampled_from([0.0, 0.5, 0.8]),
    nesterov=st.booleans(),
    weight_decay=st.sampled_from([0.0, 0.05]),
    maximize=st.booleans(),
    foreach=st.booleans(),
    penalty=st.sampled_from(PENALTIES),
)
def test_equals_the_oracle(
    seed, rates, c, mu, momentum, nesterov, weight_decay, maximize, foreach, penalty
) -> None:
    problem = NoisyQuadratic(seed)
    if maximize:  # ascend on the negative, or the weights would grow without bound
        problem.hessian = -problem.hessian
    options = {"momentum": momentum, "nesterov": nesterov and momentum > 0, "weight_decay": weight_decay}
    prox = numpy_grda.hard_threshold if penalty == "l0" else numpy_grda.soft_threshold
    expected = numpy_grda.grda(problem.start, problem, rates, c, mu, maximize=maximize, prox=prox, **options)
    # A hard threshold turns a rounding error into a jump: rare enough in float64 alone.
    for dtype in (torch.float64,) if penalty == "l0" else (torch.float64, torch.float32):
        weights, accumulators, taus = run(
            problem, rates, dtype, c=c, mu=mu, maximize=maximize, foreach=foreach, penalty=penalty, **options
        )
        # Each step rounds a few times, an error is never amplified but by the momentum.
        scale = np.abs(expected.accumulators).max() / (1 - momentum) ** 2
        tolerance = 8 * len(rates) * torch.finfo(dtype).eps * scale
        np.testing.assert_allclose(accumulators, expected.accumulators, rtol=0, atol=tolerance)
        np.testing.assert_allclose(weights, expected.weights, rtol=0, atol=tolerance)
        np.testing.assert_allclose(taus, expected.thresholds, rtol=1e-12)
        clear = np.abs(np.abs(expected.accumulators) - expected.thresholds[:, None]) > tolerance
        np.testing.assert_array_equal((weights.numpy() == 0)[clear], (expected.weights == 0)[clear])


@pytest.mark.parametrize("mu", [0.4, 0.51, 0.7, 1.0])
def test_threshold_has_the_closed_form_after_many_steps(mu: float) -> None:
    steps, lr, c = 5_000, 0.1, 5e-4
    w = nn.Parameter(torch.ones(1))
    w.grad = torch.zeros(1)
    optimizer = GRDA([w], lr=lr, c=c, mu=mu)
    for _ in range(steps):
        optimizer.step()
    closed = c * lr ** (mu + 0.5) * steps**mu
    assert optimizer.state[w]["threshold"].item() == pytest.approx(closed, rel=1e-12, abs=0)
    assert optimizer.state[w]["step"].item() == steps


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_threshold_grows_in_float64_whatever_the_parameters(dtype: torch.dtype, foreach: bool) -> None:
    """In float32, at step 30 million, n + 1 = n and the threshold would stand still."""
    n, lr, c, mu = 30_000_000, 0.1, 5e-4, 0.6
    w = nn.Parameter(torch.ones(2, dtype=dtype))
    w.grad = torch.zeros_like(w)
    optimizer = GRDA([w], lr=lr, c=c, mu=mu, foreach=foreach)
    optimizer.step()
    tau = c * lr ** (mu + 0.5) * n**mu
    optimizer.state[w]["step"].fill_(n)
    optimizer.state[w]["threshold"].fill_(tau)
    for _ in range(100):
        optimizer.step()
    grown = optimizer.state[w]["threshold"].item() - tau
    slope = c * lr ** (mu + 0.5) * mu * n ** (mu - 1)
    assert optimizer.state[w]["step"].item() == n + 100
    assert grown == pytest.approx(100 * slope, rel=1e-5)


@pytest.mark.parametrize("number", [np.float32, np.float64, torch.tensor])
def test_a_narrow_c_or_mu_does_not_narrow_the_threshold(number) -> None:
    w = nn.Parameter(torch.ones(2))
    w.grad = torch.zeros(2)
    optimizer = GRDA([w], lr=0.1, c=number(5e-4), mu=number(0.6))
    for _ in range(300):
        optimizer.step()
    c, mu = float(number(5e-4)), float(number(0.6))
    closed = c * 0.1 ** (mu + 0.5) * 300**mu
    assert optimizer.state[w]["threshold"].item() == pytest.approx(closed, rel=1e-12, abs=0)


def test_a_changed_rate_never_rescales_what_accumulated() -> None:
    w = nn.Parameter(torch.ones(1, dtype=torch.float64))
    w.grad = torch.zeros(1, dtype=torch.float64)
    optimizer = GRDA([w], lr=0.1, c=1e-2, mu=0.6)
    for _ in range(100):
        optimizer.step()
    before = optimizer.state[w]["threshold"].item()
    for rate, growth in [(0.0, 0.0), (10.0, 1e-2 * 10.0**1.1 * (102**0.6 - 101**0.6))]:
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
        assert optimizer.state[w]["threshold"].item() - before == pytest.approx(growth, rel=1e-9)
    assert optimizer.state[w]["step"].item() == 102


@pytest.mark.parametrize("make_lr", [float, torch.tensor, lambda lr: torch.tensor([lr])])
@pytest.mark.parametrize("options", [{}, {"foreach": True}, {"capturable": True}])
def test_a_rate_a_hair_below_zero_adds_nothing(make_lr, options) -> None:
    """LinearLR(end_factor=0) ends at -9e-19 for lr=0.1 and 40 steps."""
    w = nn.Parameter(torch.ones(3))
    optimizer = GRDA([w], lr=0.1, c=0.01, **options)
    train(optimizer, steps=3)
    w_before, tau_before = w.detach().clone(), optimizer.state[w]["threshold"].clone()
    optimizer.param_groups[0]["lr"] = make_lr(-9e-19)
    train(optimizer, steps=1)
    assert torch.equal(w, w_before)
    assert torch.equal(optimizer.state[w]["threshold"], tau_before)


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("foreach", [None, False, True])
@pytest.mark.parametrize("tensor_lr", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", OPTIONS)
def test_c_zero_is_sgd_to_the_bit(
    name: str, dtype: torch.dtype, tensor_lr: bool, foreach: bool | None, penalty: str
) -> None:
    ours, theirs = parameters(dtype), parameters(dtype)
    lr = torch.tensor(0.1) if tensor_lr else 0.1
    grda = GRDA(ours, lr=lr, c=0.0, penalty=penalty, foreach=foreach, **OPTIONS[name])
    sgd = torch.optim.SGD(theirs, lr=lr, foreach=foreach, **OPTIONS[name])
    for n in range(30):
        train(grda, steps=1, first=n)
        train(sgd, steps=1, first=n)
        if n == 15:
            for optimizer in (grda, sgd):
                optimizer.param_groups[0]["lr"] = lr * 0.3
    for p, q in zip(ours, theirs, strict=True):
        assert torch.equal(p, q)
        if "momentum" in OPTIONS[name]:
            assert torch.equal(grda.state[p]["momentum_buffer"], sgd.state[q]["momentum_buffer"])


def descend(steps: int, **options) -> tuple[list[float], list[float], list[float]]:
    """Minimise w^2/2 - 2w from v_0 = 0.1: weight, accumulator and threshold after each step."""
    w = nn.Parameter(torch.tensor([0.1], dtype=torch.float64))
    optimizer = GRDA([w], **options)
    weights, shadows, taus = [], [], []
    for _ in range(steps):
        optimizer.zero_grad()
        (0.5 * w**2 - 2 * w).sum().backward()
        optimizer.step()
        weights.append(w.item())
        shadows.append(optimizer.state[w]["accumulator"].item())
        taus.append(optimizer.state[w]["threshold"].item())
    return weights, shadows, taus


def test_gradient_is_taken_at_the_weight_and_a_zero_weight_comes_back() -> None:
    """While w = 0 the slope is -2 exactly, and v = 0.1 + 0.2 n."""
    lr, c, mu = 0.1, 40.0, 0.5
    weights, shadows, taus = descend(2000, lr=lr, c=c, mu=mu)
    back = next(n for n, value in enumerate(weights) if value != 0)
    first = 0.1 - lr * (0.1 - 2)  # the slope at w_0; those that follow are taken at w = 0, not at v
    assert all(value == 0 for value in weights[:back])
    assert back > 100
    assert shadows[back] == pytest.approx(first + 0.2 * back, rel=1e-12)
    assert shadows[back] > taus[back]
    assert shadows[back - 1] <= taus[back - 1]
    assert all(tau == pytest.approx(c * lr * math.sqrt(n + 1), rel=1e-9) for n, tau in enumerate(taus))
    assert weights[back] == shadows[back] - taus[back]


def test_with_l0_a_zero_comes_back_as_its_accumulator_and_takes_sgds_steps() -> None:
    """The same: w stays 0 while v = v_1 + 0.2 n grows, then w = v, and v decays towards 2 by (1 - lr)."""
    weights, shadows, taus = descend(40, lr=0.1, c=3.0, mu=0.5, penalty="l0")
    back = next(n for n, value in enumerate(weights) if value != 0)
    assert back > 0
    assert shadows[: back + 1] == pytest.approx([0.29 + 0.2 * n for n in range(back + 1)], rel=1e-12)
    assert weights[back] == shadows[back] > taus[back]
    assert weights[back + 1] == pytest.approx(2 + (weights[back] - 2) * 0.9, rel=1e-12)
    for w_n, v_n, tau in zip(weights, shadows, taus, strict=True):
        assert w_n == (v_n if v_n > tau else 0)


def test_a_weight_within_the_threshold_is_plus_zero() -> None:
    w = nn.Parameter(torch.tensor([-1e-6, 1e-6, -0.0, 1.0]))
    w.grad = torch.zeros(4)
    GRDA([w], lr=0.1, c=0.1).step()
    assert w[:3].tolist() == [0, 0, 0]
    assert not torch.signbit(w[:3]).any()
    assert w[3] != 0


class OtherThreshold(SoftThreshold):
    """Zero within the threshold, unchanged outside."""

    def __call__(self, accumulator: Tensor, threshold) -> Tensor:
        return torch.where(accumulator.abs() > threshold, accumulator, torch.zeros_like(accumulator))

    def write(self, accumulator: Tensor, threshold, weight: Tensor) -> None:
        weight.copy_(self(accumulator, threshold))

    def foreach_write(self, accumulators, thresholds, weights) -> None:
        for accumulator, threshold, weight in zip(accumulators, thresholds, weights, strict=True):
            self.write(accumulator, threshold, weight)


class OtherGRDA(GRDA):
    threshold_rules: ClassVar = {"l1": OtherThreshold()}


@pytest.mark.parametrize("options", [{}, {"capturable": True}, {"capturable": True, "foreach": True}])
def test_the_rule_can_be_replaced(options: dict[str, bool]) -> None:
    loop, lists = parameters(torch.float64), parameters(torch.float64)
    other = OtherGRDA(loop, lr=0.1, c=0.1, **options)
    train(other, steps=20)
    zeros = 0
    for p in loop:
        v, tau = other.state[p]["accumulator"], other.state[p]["threshold"]
        assert torch.equal(p, torch.where(v.abs() > tau, v, 0.0))
        zeros += int((p == 0).sum())
    assert zeros > 5
    if not options:
        foreach = OtherGRDA(lists, lr=0.1, c=0.1, foreach=True)
        train(foreach, steps=20)
        assert_same(other, foreach)
    assert type(GRDA.threshold_rules["l1"]) is SoftThreshold


def test_momentum_switched_on_later_is_sgd_too() -> None:
    ours, theirs = parameters(), parameters()
    pair = GRDA(ours, lr=0.1, c=0.0), torch.optim.SGD(theirs, lr=0.1)
    for momentum, nesterov in [(0.0, False), (0.9, False), (0.0, False), (0.5, True)]:
        for optimizer in pair:
            optimizer.param_groups[0].update(momentum=momentum, nesterov=nesterov)
        for n in range(5):
            for optimizer in pair:
                train(optimizer, steps=1, first=n)
    assert all(torch.equal(p, q) for p, q in zip(ours, theirs, strict=True))


def test_c_and_mu_changed_in_flight_govern_only_what_follows() -> None:
    w = nn.Parameter(torch.ones(2))
    optimizer = GRDA([w], lr=0.1, c=1e-3, mu=0.6)
    expected = 0.0
    for n, (c, mu) in enumerate([(1e-3, 0.6)] * 5 + [(1e-2, 0.6)] * 5 + [(0.0, 0.6)] * 5 + [(1e-2, 0.9)] * 5):
        optimizer.param_groups[0].update(c=c, mu=mu)
        train(optimizer, steps=1, first=n)
        expected += c * 0.1 ** (mu + 0.5) * ((n + 1) ** mu - n**mu)
    assert optimizer.state[w]["threshold"].item() == pytest.approx(expected, rel=1e-13)


def test_a_parameter_with_a_late_first_gradient_starts_its_own_count() -> None:
    early, late = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    alone = nn.Parameter(torch.ones(3))
    optimizer, single = GRDA([early, late], lr=0.1, c=0.01), GRDA([alone], lr=0.1, c=0.01)
    for n in range(10):
        set_gradients([early, late], seed=n)
        if n < 4:
            late.grad = None
        optimizer.step()
        if n >= 4:
            alone.grad = late.grad.clone()
            single.step()
    assert optimizer.state[early]["step"].item() == 10
    assert optimizer.state[late]["step"].item() == 6
    assert torch.equal(late, alone)


def test_nan_and_infinity_are_handed_on() -> None:
    for foreach in (False, True):
        w = nn.Parameter(torch.ones(3))
        w.grad = torch.tensor([math.nan, math.inf, 0.0])
        GRDA([w], lr=0.1, c=0.1, foreach=foreach).step()
        assert w[0].isnan()
        assert w[1] == -math.inf
        assert w[2].isfinite()
