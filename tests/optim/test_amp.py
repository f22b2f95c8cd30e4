"""Mixed precision and Accelerate."""

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from torch import nn

from dirprune.optim import GRDA
from tests.optim.common import assert_same, backward, same_bits, small_model


def scaled_backward(model: nn.Module, scaler: torch.amp.GradScaler, seed: int, infinite: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.randn(16, 6, generator=generator), torch.randn(16, 3, generator=generator)
    model.zero_grad()
    loss = nn.functional.mse_loss(model(x), y)
    scaler.scale(loss * torch.inf if infinite else loss).backward()


@pytest.mark.parametrize("unscale", [False, True])
@pytest.mark.parametrize("foreach", [False, True])
def test_grad_scaler_equals_plain_training_and_skips_infinite_steps(foreach: bool, unscale: bool) -> None:
    """The scale is a power of two, so that scaling rounds nothing."""
    options = {"lr": 0.1, "c": 0.1, "momentum": 0.9, "foreach": foreach}
    plain, scaled = small_model(), small_model()
    expected, optimizer = GRDA(plain.parameters(), **options), GRDA(scaled.parameters(), **options)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    for n in range(8):
        infinite = n in (0, 4)
        if not infinite:
            backward(plain, seed=n)
            if unscale:
                nn.utils.clip_grad_norm_(plain.parameters(), 0.5)
            expected.step()
        scaled_backward(scaled, scaler, seed=n, infinite=infinite)
        if unscale:
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(scaled.parameters(), 0.5)
        scaler.step(optimizer)
        scaler.update()
        if n == 0:
            assert not optimizer.state
    assert_same(expected, optimizer)
    assert scaler.get_scale() == 2.0**8
    assert {state["step"].item() for state in optimizer.state.values()} == {6}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_autocast_bfloat16(dtype: torch.dtype) -> None:
    model = small_model(dtype)
    optimizer = GRDA(model.parameters(), lr=0.2, c=0.1)
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(64, 6, generator=generator), torch.randn(64, 1, generator=generator).expand(64, 3)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = model(x.to(dtype))
            assert out.dtype == torch.bfloat16
            loss = nn.functional.mse_loss(out.float(), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert all(p.dtype == dtype for p in model.parameters())
    assert all(s["accumulator"].dtype == torch.float32 for s in optimizer.state.values())
    assert any((p == 0).any() for p in model.parameters())


def test_a_step_inside_autocast_is_the_same_step() -> None:
    pair = []
    for enabled in (False, True):
        model = small_model()
        pair.append(GRDA(model.parameters(), lr=0.1, c=0.1, momentum=0.9, nesterov=True, weight_decay=0.1))
        for n in range(5):
            backward(model, seed=n)
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
                pair[-1].step()
    assert_same(*pair)


@pytest.fixture
def accelerator() -> Accelerator:
    for shared in (AcceleratorState, PartialState, GradientState):
        shared._shared_state.clear()
    yield Accelerator(cpu=True)
    for shared in (AcceleratorState, PartialState, GradientState):
        shared._shared_state.clear()


def test_accelerate(accelerator: Accelerator) -> None:
    """Its wrapper saves and loads the state when it is made, and steps the scheduler."""
    plain, wrapped = small_model(), small_model()
    expected, inner = GRDA(plain.parameters(), lr=0.1, c=0.1), GRDA(wrapped.parameters(), lr=0.1, c=0.1)
    schedulers = [torch.optim.lr_scheduler.StepLR(o, 4) for o in (expected, inner)]
    model, optimizer, scheduler = accelerator.prepare(wrapped, inner, schedulers[1])
    for n in range(10):
        backward(plain, seed=n)
        expected.step()
        schedulers[0].step()
        backward(model, seed=n)
        optimizer.step()
        scheduler.step()
        if n == 5:
            for state in inner.state.values():
                state["accumulator"].zero_()
                state["step"].zero_()
            optimizer.load_state_dict(expected.state_dict())
    assert_same(expected, inner)
    for p, q in zip(plain.parameters(), model.parameters(), strict=True):
        assert same_bits(p, q)
