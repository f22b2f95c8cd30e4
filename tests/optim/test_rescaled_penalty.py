"""GRDA that gives output channels their l1 norm back, on every path."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from dirprune.core.threshold import RescaledSoftThreshold, SoftThreshold
from dirprune.optim import GRDA
from dirprune.optim.kernels import cpu
from dirprune.optim.paths import why_not_fused
from dirprune.optim.tensors import Tensors
from tests.optim.common import (
    DTYPES,
    HALF,
    OPTIONS,
    assert_same,
    ones,
    parameters,
    same_bits,
    train,
    train_as_the_oracle,
)
from tests.oracles import numpy_grda

RULE = RescaledSoftThreshold()


@pytest.fixture
def taken(compiler: None, monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Collects which parameters the kernel took when it last looked, at each step that it looked."""
    assert why_not_fused("cpu") is None
    steps: list[list[int]] = []
    choose = cpu.which_suit

    def note(tensors: Tensors, kind: str, *, rows: bool = False) -> list[int]:
        steps.append(choose(tensors, kind, rows=rows))
        return steps[-1]

    monkeypatch.setattr(cpu, "which_suit", note)
    return steps


def rescaled(params, **options) -> GRDA:
    return GRDA(params, **{"lr": 0.1, "c": 4.0, "penalty": "rescaled", **options})


def zeros(optimizer: GRDA) -> float:
    weights = torch.cat([p.detach().flatten() for p in optimizer.param_groups[0]["params"]])
    return (weights == 0).double().mean().item()


def test_each_channel_has_its_norm_back() -> None:
    """Of the first 4 of 4.5 are left, 2.6 after the soft threshold; of the second 0.9 of 1.2, and 0.2."""
    v = torch.tensor([[3.0, -1.0, 0.5], [0.9, -0.2, 0.1], [0.1, 0.2, 0.0]], dtype=torch.float64)
    factors = [1.01 / (4 / 4.5 + 0.01), 1.01 / (0.9 / 1.2 + 0.01)]
    expected = [[2.3 * factors[0], -0.3 * factors[0], 0.0], [0.2 * factors[1], 0.0, 0.0], [0.0] * 3]
    np.testing.assert_allclose(RULE(v, 0.7), expected, rtol=1e-12)
    np.testing.assert_allclose(RULE(v.view(3, 1, 3), torch.tensor(0.7)).view(3, 3), expected, rtol=1e-7)
    np.testing.assert_allclose(RULE(v[0], 0.7), [2.3, -0.3, 0.0])  # fewer than two dimensions: soft


def test_the_zeros_are_those_of_the_soft_threshold_and_positive() -> None:
    v = torch.randn(20, 30, generator=torch.Generator().manual_seed(0))
    v[3] = 0
    for tau in (0.0, 0.5, 2.0, 9.0):
        weight = RULE(v, tau)
        assert torch.equal(weight == 0, SoftThreshold()(v, tau) == 0)
        assert not torch.signbit(weight[weight == 0]).any()
        assert weight.isfinite().all()
    assert torch.equal(RULE(v, 0.0), v)
    v[1, 1] = torch.nan
    assert RULE(v, 0.5)[1].isnan().all()
    assert RULE(v, 0.5)[2].isfinite().all()


@pytest.mark.parametrize("foreach", [None, False, True])
@pytest.mark.parametrize("name", OPTIONS)
def test_equals_the_oracle(name: str, foreach: bool | None) -> None:
    rng = np.random.default_rng(0)
    start, target = (rng.normal(size=(6, 2, 3)) for _ in range(2))
    optimizer = train_as_the_oracle(
        rescaled,
        numpy_grda.rescaled_soft_threshold,
        start,
        target,
        1e-10,
        foreach=foreach,
        **OPTIONS[name],
    )
    if not OPTIONS[name].get("maximize"):
        assert 0 < zeros(optimizer) < 1


@pytest.mark.parametrize("foreach", [None, False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_c_zero_is_sgd_to_the_bit(dtype: torch.dtype, foreach: bool | None) -> None:
    ours, theirs = parameters(dtype), parameters(dtype)
    optimizer = rescaled(ours, c=0.0, foreach=foreach, **OPTIONS["all"])
    sgd = torch.optim.SGD(theirs, lr=0.1, foreach=False, **OPTIONS["all"])
    for each in (optimizer, sgd):
        train(each, steps=10)
    assert all(same_bits(p, q) for p, q in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_lists_equal_one_by_one_to_the_bit(dtype: torch.dtype) -> None:
    pair = [rescaled(parameters(dtype), foreach=foreach, **OPTIONS["nesterov"]) for foreach in (False, True)]
    for n in range(20):
        for optimizer in pair:
            train(optimizer, steps=1, first=n)
        assert_same(*pair)
    assert 0.1 < zeros(pair[0]) < 1


def assert_close(ours: GRDA, theirs: GRDA, *, left: float) -> None:
    """Weights and state agree but for the rounding of sums, and of so many of the weights more than a few."""
    params = [optimizer.param_groups[0]["params"] for optimizer in (ours, theirs)]
    for p, q in zip(*params, strict=True):
        close = {"rtol": 2**-6, "atol": 1e-2} if p.dtype in HALF else {"rtol": 2e-5, "atol": 1e-6}
        torch.testing.assert_close(p, q, equal_nan=True, **close)
        if p.ndim < 2:
            assert same_bits(p, q)
        for key, value in theirs.state[q].items():
            torch.testing.assert_close(ours.state[p][key], value, equal_nan=True, **close)
    assert left < zeros(theirs) < 1


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", OPTIONS)
def test_the_kernel_equals_the_readable_update(name: str, dtype: torch.dtype, taken: list[list[int]]) -> None:
    pair = [rescaled(parameters(dtype), foreach=foreach, **OPTIONS[name]) for foreach in (None, False)]
    for n in range(20):
        for optimizer in pair:
            train(optimizer, steps=1, first=n)
        if n in (0, 19):
            assert_close(*pair, left=0.1 if n else -1)
    # Not the transpose, whose rows do not lie together, nor the one with gaps.
    assert taken == [[0, 1, 2, 3]] * 20


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_chunks_and_threads_never_cut_a_channel(dtype: torch.dtype, threads: int) -> None:
    """Rows of 1 to 70,001 elements: many in a block, several blocks, several chunks; past the caches, too."""
    shapes = [(40, 27), (2, 70_001), (300, 1), (1, 600), (90, 1001), (3, 0), (50, 512), (30_000,), (700, 32)]

    def large() -> list[nn.Parameter]:
        generator = torch.Generator().manual_seed(0)
        return [nn.Parameter(torch.randn(s, generator=generator).to(dtype)) for s in shapes]

    pair = [rescaled(large(), foreach=foreach, **OPTIONS["all"]) for foreach in (None, False)]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for optimizer in pair:
            train(optimizer, steps=4)
    finally:
        torch.set_num_threads(before)
    assert_close(*pair, left=0.1)


@pytest.mark.parametrize("c", [0.0, 4.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_values_out_of_the_ordinary_in_the_kernel(dtype: torch.dtype, c: float) -> None:
    """Whatever a row holds: the threshold itself, what is no number, no weight that is left, subnormals."""
    tau = torch.tensor(4.0 * 0.1**1.1, dtype=dtype).item()
    rows = [
        [tau, -tau, 1.0, -3.0],
        [math.nan, 1.0, 0.1, -2.0],
        [math.inf, 1.0, 0.1, -2.0],
        [0.1, -0.1, 0.2, -0.2],
        [0.0, 0.0, 0.0, -0.0],
        [torch.finfo(dtype).tiny / 4, 1e-3, 1e-4, 1e-5],
        [torch.finfo(dtype).max / 64, -5.0, 0.2, 0.1],
    ]
    values = torch.tensor(rows, dtype=dtype).repeat(1, 11)  # whole vectors, and a remainder
    pair = [rescaled([nn.Parameter(values.clone())], c=c, foreach=foreach) for foreach in (None, False)]
    for optimizer in pair:
        (p,) = optimizer.param_groups[0]["params"]
        p.grad = torch.zeros_like(p)
        optimizer.step()
    ours, theirs = (optimizer.param_groups[0]["params"][0].detach() for optimizer in pair)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0, equal_nan=True)
    assert same_bits(torch.signbit(ours), torch.signbit(theirs))
    assert same_bits(ours == 0, theirs == 0)
    assert bool(theirs[1].isnan().all()) == (c > 0)


def test_what_the_kernel_has_planned_is_dropped_with_the_penalty(taken: list[list[int]]) -> None:
    pair = [rescaled(parameters(), foreach=foreach, penalty="l1") for foreach in (None, False)]
    for optimizer in pair:
        train(optimizer, steps=2)
        optimizer.param_groups[0]["penalty"] = "rescaled"
        train(optimizer, steps=2, first=2)
    assert_close(*pair, left=0.1)
    assert taken[-2:] == [[0, 1, 2, 3]] * 2


def test_what_the_kernel_has_planned_is_dropped_with_the_shape(compiler: None) -> None:
    """Same memory, other rows."""
    pair = [rescaled([ones(12, 6)], foreach=foreach) for foreach in (None, False)]
    for optimizer in pair:
        train(optimizer, steps=3)
        (p,) = optimizer.param_groups[0]["params"]
        p.data = p.data.view(36, 2)
        optimizer.state[p]["accumulator"].data = optimizer.state[p]["accumulator"].data.view(36, 2)
        train(optimizer, steps=2, first=3)
    assert_close(*pair, left=0.1)


def test_a_narrow_accumulator_goes_another_way(taken: list[list[int]]) -> None:
    """The weight follows from what the accumulator was before it was rounded, which is kept for no row."""
    options = {"accumulator_dtype": torch.bfloat16, **OPTIONS["nesterov"]}
    pair = [rescaled(parameters(), foreach=foreach, **options) for foreach in (None, False)]
    for optimizer in pair:
        train(optimizer, steps=10)
    assert_same(*pair)
    assert taken == [[0, 1, 2]] * 10  # those of fewer than two dimensions, and the one without elements


@pytest.mark.parametrize("foreach", [False, True])
def test_capturable_equals_the_usual_path(foreach: bool) -> None:
    usual = rescaled(parameters(torch.float64), **OPTIONS["all"])
    on_device = rescaled(parameters(torch.float64), capturable=True, foreach=foreach, **OPTIONS["all"])
    for n in range(20):
        for optimizer in (usual, on_device):
            train(optimizer, steps=1, first=n)
        for p, q in zip(usual.param_groups[0]["params"], on_device.param_groups[0]["params"], strict=True):
            torch.testing.assert_close(q, p, rtol=1e-12, atol=1e-12)
    assert zeros(usual) > 0


def test_pieces_never_cut_a_channel(monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for piece in (10, 10**9):
        monkeypatch.setattr("dirprune.optim.update._PIECE", piece)
        generator = torch.Generator().manual_seed(0)
        params = [
            nn.Parameter(torch.randn(s, generator=generator))
            for s in [(12, 3, 2, 2), (9, 4), (2, 100), (40,)]
        ]
        params[0].data = params[0].data.contiguous(memory_format=torch.channels_last)
        optimizer = rescaled(params, foreach=False, **OPTIONS["all"])
        train(optimizer, steps=12)
        results.append(optimizer)
    assert 0.1 < zeros(results[0]) < 1
    for p, q in zip(*(optimizer.param_groups[0]["params"] for optimizer in results), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-5)
