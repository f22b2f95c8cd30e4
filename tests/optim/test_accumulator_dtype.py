"""An accumulator in bfloat16: half the memory, right on average, alike on every path and after a resume."""

import copy
import math

import pytest
import torch
from torch import nn

from dirprune.errors import HyperparameterError, UsageError
from dirprune.optim import GRDA
from dirprune.optim.rounding import round_stochastically
from tests.optim.common import HALF, OPTIONS, PENALTIES, assert_same, ones, parameters, same_bits, train

NARROW = {"accumulator_dtype": torch.bfloat16}


def step(n: int) -> torch.Tensor:
    return torch.tensor(float(n), dtype=torch.float64)


def test_rounding_goes_to_a_neighbour_and_is_right_on_average() -> None:
    values = torch.randn(100_000, generator=torch.Generator().manual_seed(0))
    down = (values.view(torch.int32) & -0x10000).view(torch.float32)
    up = ((values.view(torch.int32) & -0x10000) + 0x10000).view(torch.float32)  # away from zero
    fraction = (values - down) / (up - down)
    results = torch.stack([round_stochastically(values, step(n)).float() for n in range(40)])
    assert ((results == down) | (results == up)).all()
    chosen = (results == up).double().mean(dim=0)
    for low in (0.0, 0.25, 0.5, 0.75):
        part = (fraction >= low) & (fraction < low + 0.25)
        assert chosen[part].mean().item() == pytest.approx(fraction[part].double().mean().item(), abs=2e-3)
    # And for each value the steps choose independently: the variance is that of 40 draws.
    expected = (fraction * (1 - fraction)).double().mean() / 40
    assert (chosen - fraction).square().mean().item() == pytest.approx(expected.item(), rel=0.03)


def test_what_bfloat16_can_say_is_kept() -> None:
    special = [0.0, -0.0, 1.0, -2.5, math.inf, -math.inf, 2.0**-133, -(2.0**127)]
    values = torch.tensor(special)
    for n in range(20):
        assert same_bits(round_stochastically(values, step(n)).float(), values)
    assert round_stochastically(torch.tensor([math.nan]), step(1)).isnan().all()


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("dtype", [*HALF, torch.float32], ids=str)
@pytest.mark.parametrize("name", OPTIONS)
def test_every_path_rounds_alike(name: str, dtype: torch.dtype, penalty: str) -> None:
    options = {"penalty": penalty, **NARROW, **OPTIONS[name]}
    paths = [{}, {"foreach": False}, {"foreach": True}]
    optimizers = [GRDA(parameters(dtype), lr=0.1, c=2.0, **path, **options) for path in paths]
    for optimizer in optimizers:
        train(optimizer, steps=8)
        for state in optimizer.state.values():
            assert state["accumulator"].dtype == torch.bfloat16
            assert (
                name in ("plain", "weight decay", "maximize")
                or state["momentum_buffer"].dtype == torch.float32
            )
    for other in optimizers[1:]:
        assert_same(optimizers[0], other)


def test_scalars_on_the_device_make_the_same_choice() -> None:
    usual, on_device = (
        GRDA([nn.Parameter(torch.full((1000,), 0.3))], lr=0.125, c=0.5, capturable=capturable, **NARROW)
        for capturable in (False, True)
    )
    for optimizer in (usual, on_device):
        train(optimizer, steps=5)
    for a, b in zip(usual.state.values(), on_device.state.values(), strict=True):
        torch.testing.assert_close(a["accumulator"], b["accumulator"], rtol=2**-6, atol=0)
        assert (a["accumulator"] == b["accumulator"]).double().mean() > 0.99


def test_updates_below_its_resolution_arrive_on_average() -> None:
    """Steps of about 2^-10 from about 1: rounding to nearest would stay there."""
    w = nn.Parameter(torch.linspace(1.0, 1.1, 2000))
    start = w.detach().clone()
    optimizer = GRDA([w], lr=2**-10, c=0.0, **NARROW)
    generator = torch.Generator().manual_seed(0)
    for _ in range(256):  # equal values with equal gradients would be rounded alike
        w.grad = 1 + 0.1 * torch.randn(2000, generator=generator)
        optimizer.step()
    moved = (start - optimizer.state[w]["accumulator"].float()).mean().item()
    assert moved == pytest.approx(0.25, abs=0.005)


def test_a_resume_is_exact_and_a_run_repeats() -> None:
    def fresh() -> GRDA:
        return GRDA(parameters(), lr=0.1, c=0.5, momentum=0.9, **NARROW)

    whole, again, half = fresh(), fresh(), fresh()
    for optimizer in (whole, again):
        train(optimizer, steps=10)
    assert_same(whole, again)
    train(half, steps=5)
    twin = GRDA([nn.Parameter(p.detach().clone()) for p in half.state], lr=9.0)
    twin.load_state_dict(copy.deepcopy(half.state_dict()))
    train(twin, steps=5, first=5)
    assert_same(whole, twin)


def test_it_takes_half_the_memory() -> None:
    w = nn.Parameter(torch.ones(256, 256))
    w.grad = torch.ones_like(w)
    optimizer = GRDA([w], lr=0.1, **NARROW)
    optimizer.step()
    assert sum(value.nbytes for value in optimizer.state[w].values()) == 2 * w.numel() + 16
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        optimizer.step()
    assert [event.name for event in profile.events() if event.self_cpu_memory_usage > 1000] == []


def test_what_it_does_not_go_with() -> None:
    for dtype in (torch.float16, torch.float32, "bfloat16"):
        with pytest.raises(HyperparameterError, match=r"must be None or torch.bfloat16"):
            GRDA([ones(2)], lr=0.1, accumulator_dtype=dtype)
    with pytest.raises(HyperparameterError, match="differentiable"):
        GRDA([ones(2)], lr=0.1, differentiable=True, **NARROW)
    with pytest.raises(UsageError, match="one of float64"):
        GRDA([ones(2, dtype=torch.float64)], lr=0.1, **NARROW)


def test_a_state_with_a_narrow_accumulator_is_refused_for_float64_and_nothing_changes() -> None:
    narrow = GRDA([ones(3)], lr=0.1, **NARROW)
    wide = GRDA([ones(3, dtype=torch.float64)], lr=0.1)
    for optimizer in (narrow, wide):
        train(optimizer, steps=2)
    before = copy.deepcopy(wide.state_dict())
    with pytest.raises(UsageError, match="at most 32 bits, got one of float64"):
        wide.load_state_dict(narrow.state_dict())
    assert wide.param_groups[0]["accumulator_dtype"] is None
    (held,) = before["state"].values()
    assert all(same_bits(value, wide.state_dict()["state"][0][key]) for key, value in held.items())
