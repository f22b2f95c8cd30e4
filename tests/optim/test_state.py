"""The state restores exactly, whatever the dtype, through files and across options."""

import copy
import io
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dirprune.errors import UsageError
from dirprune.optim import GRDA
from tests.optim.common import (
    DTYPES,
    HALF,
    assert_same,
    backward,
    ones,
    parameters,
    same_bits,
    small_model,
    train,
)


def fresh(like: GRDA, dtype: torch.dtype) -> GRDA:
    """A new GRDA on new parameters of another dtype, with other options that loading must replace."""
    params = [nn.Parameter(torch.zeros_like(p, dtype=dtype)) for p in like.param_groups[0]["params"]]
    return GRDA(params, lr=9.0, c=9.0, mu=0.99)


def saved_and_read(state: dict[str, Any]) -> dict[str, Any]:
    """What comes back from a file that is read without running code."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_state_dict_restores_to_the_bit(dtype: torch.dtype) -> None:
    optimizer = GRDA(parameters(dtype), lr=0.1, c=0.5, mu=0.7, momentum=0.9, weight_decay=0.01)
    train(optimizer, steps=5)
    twin = fresh(optimizer, dtype)
    twin.load_state_dict(saved_and_read(optimizer.state_dict()))
    for p, q in zip(optimizer.state, twin.state, strict=True):
        for key, value in optimizer.state[p].items():
            assert same_bits(value, twin.state[q][key])
            assert value.stride() == twin.state[q][key].stride() or not value.numel()
    options = [{k: v for k, v in o.param_groups[0].items() if k != "params"} for o in (optimizer, twin)]
    assert options[0] == options[1]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("saved_dtype", DTYPES, ids=str)
def test_a_state_of_another_dtype_is_taken_over_and_comes_back(
    saved_dtype: torch.dtype, dtype: torch.dtype
) -> None:
    optimizer = GRDA(parameters(saved_dtype), lr=0.1, c=0.5, momentum=0.9)
    train(optimizer, steps=3)
    twin = fresh(optimizer, dtype)
    twin.load_state_dict(optimizer.state_dict())
    wide, saved_wide = (torch.float32 if d in HALF else d for d in (dtype, saved_dtype))
    for p, q in zip(optimizer.state, twin.state, strict=True):
        old, new = optimizer.state[p], twin.state[q]
        for key in ("accumulator", "momentum_buffer"):
            assert same_bits(new[key], old[key].to(wide))
        for key in ("step", "threshold"):
            assert same_bits(new[key], old[key])
    if torch.promote_types(wide, saved_wide) == wide:  # nothing was rounded: back again it is the same
        back = fresh(optimizer, saved_dtype)
        back.load_state_dict(twin.state_dict())
        for p, q in zip(optimizer.state, back.state, strict=True):
            assert all(same_bits(optimizer.state[p][key], back.state[q][key]) for key in optimizer.state[p])
    train(twin, steps=1)


def test_after_step_1000_in_bfloat16_comes_1001() -> None:
    """Neither 1001 nor the accumulator nor the threshold can be written in bfloat16."""
    w = nn.Parameter(torch.tensor([0.7, -0.3], dtype=torch.bfloat16))
    optimizer = GRDA([w], lr=0.01, c=0.01)
    train(optimizer, steps=1000)
    twin = fresh(optimizer, torch.bfloat16)
    twin.load_state_dict(optimizer.state_dict())
    train(optimizer, steps=1, first=1000)
    train(twin, steps=1, first=1000)
    assert_same(optimizer, twin)
    (state,) = twin.state.values()
    assert state["step"].item() == 1001
    assert state["threshold"].item() == pytest.approx(0.01 * 0.01**1.1 * 1001**0.6, rel=1e-12)
    assert state["threshold"].item() != state["threshold"].bfloat16().item()
    assert not torch.equal(state["accumulator"], state["accumulator"].bfloat16().float())


@pytest.mark.parametrize("capturable", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_resumed_training_equals_uninterrupted_training(
    dtype: torch.dtype, capturable: bool, tmp_path: Path
) -> None:
    def setting(seed: int) -> tuple[nn.Module, GRDA, torch.optim.lr_scheduler.LRScheduler]:
        model = small_model(dtype, seed)
        optimizer = GRDA(model.parameters(), lr=0.2, c=0.1, momentum=0.5, capturable=capturable)
        return model, optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 100)

    def steps(model: nn.Module, optimizer: GRDA, scheduler: Any, first: int) -> None:
        for n in range(first, first + 50):
            backward(model, seed=n)
            optimizer.step()
            scheduler.step()

    whole = setting(seed=0)
    steps(*whole, first=0)
    torch.save([part.state_dict() for part in whole], tmp_path / "checkpoint.pt")
    steps(*whole, first=50)

    resumed = setting(seed=1)
    checkpoint = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    for part, state in zip(resumed, checkpoint, strict=True):
        part.load_state_dict(state)
    steps(*resumed, first=50)
    assert_same(whole[1], resumed[1])
    assert any((p == 0).any() for p in resumed[0].parameters())


def test_loading_only_the_weights_is_not_a_resume() -> None:
    """The test above would be empty if a new optimiser did as well."""
    torch.manual_seed(0)
    model = small_model(torch.float64)
    optimizer = GRDA(model.parameters(), lr=0.2, c=0.01)
    for n in range(5):
        backward(model, seed=n)
        optimizer.step()
    twin = copy.deepcopy(model)
    restarted = GRDA(twin.parameters(), lr=0.2, c=0.01)
    for m, o in ((model, optimizer), (twin, restarted)):
        backward(m, seed=5)
        o.step()
    assert not torch.equal(model[0].weight, twin[0].weight)


def test_what_is_loaded_is_copied() -> None:
    optimizer = GRDA(parameters(), lr=0.1, momentum=0.9)
    train(optimizer, steps=2)
    saved = optimizer.state_dict()
    kept = copy.deepcopy(saved)
    twin = fresh(optimizer, torch.float32)
    twin.load_state_dict(saved)
    train(twin, steps=3)
    for index, held in saved["state"].items():
        assert all(same_bits(value, kept["state"][index][key]) for key, value in held.items())
    assert saved["param_groups"] == kept["param_groups"]


def test_an_option_that_an_old_state_lacks_comes_from_the_constructor() -> None:
    optimizer = GRDA(parameters(), lr=0.1)
    train(optimizer, steps=1)
    for name in optimizer.defaults.keys() - {"lr"}:
        saved = optimizer.state_dict()
        del saved["param_groups"][0][name]
        twin = GRDA(parameters(seed=1), lr=0.5, mu=0.7)
        twin.load_state_dict(saved)
        assert twin.param_groups[0]["lr"] == 0.1
        assert twin.param_groups[0][name] == twin.defaults[name]
        train(twin, steps=1)


def test_what_a_schedule_may_have_left_is_restored() -> None:
    optimizer = GRDA([ones(3)], lr=0.1, momentum=0.9, nesterov=True)
    train(optimizer, steps=1)
    optimizer.param_groups[0].update(lr=-1e-19, momentum=0.0)
    twin = GRDA([ones(3)], lr=0.1)
    twin.load_state_dict(optimizer.state_dict())
    assert (twin.param_groups[0]["lr"], twin.param_groups[0]["momentum"]) == (-1e-19, 0.0)


@pytest.mark.parametrize("into", [False, True])
def test_counters_follow_the_capturable_option_of_the_state(into: bool) -> None:
    """A meta device stands for the accelerator: what is not capturable counts on the CPU."""
    optimizer = GRDA([ones(3)], lr=0.1, capturable=not into)
    train(optimizer, steps=3)
    twin = GRDA([ones(3, device="meta")], lr=0.1)
    saved = optimizer.state_dict()
    saved["param_groups"][0]["capturable"] = into
    twin.load_state_dict(saved)
    (state,) = twin.state.values()
    device = "meta" if into else "cpu"
    assert state["accumulator"].device.type == "meta"
    assert (state["step"].device.type, state["threshold"].device.type) == (device, device)


def test_state_of_no_parameter_is_handed_through() -> None:
    optimizer = GRDA([ones(3)], lr=0.1)
    train(optimizer, steps=1)
    saved = optimizer.state_dict()
    saved["state"]["note"] = {"values": torch.ones(2)}
    twin = fresh(optimizer, torch.float32)
    twin.load_state_dict(saved)
    assert twin.state["note"]["values"].tolist() == [1, 1]
    assert saved_and_read(twin.state_dict())["state"]["note"]["values"].tolist() == [1, 1]


def test_a_state_that_does_not_fit_is_refused_and_nothing_changes() -> None:
    params = [ones(3), ones(2, 2)]
    optimizer = GRDA(params, lr=0.1)
    train(optimizer, steps=2)
    before = copy.deepcopy(optimizer.state_dict())

    sgd = torch.optim.SGD([ones(3), ones(2, 2)], lr=0.1, momentum=0.9)
    train(sgd, steps=1)
    other_shapes = GRDA([ones(4), ones(2, 2)], lr=0.1)
    train(other_shapes, steps=1)
    more = GRDA([*(ones(*p.shape) for p in params), ones(2)], lr=0.1)
    train(more, steps=1)
    strange = copy.deepcopy(before)
    strange["param_groups"][0]["penalty"] = "l3"
    no_number = copy.deepcopy(before)
    no_number["param_groups"][0]["mu"] = float("nan")
    other_buffer, other_square = copy.deepcopy(before), copy.deepcopy(before)
    other_buffer["state"][0]["momentum_buffer"] = torch.zeros(4)
    other_square["state"][1]["exp_avg_sq"] = torch.zeros(2)
    for state, exception, message in [
        (strange, UsageError, "penalty must be 'l1' or .*, got 'l3'"),
        (no_number, UsageError, r"mu must be in \(0, 1\], got nan"),
        (
            sgd.state_dict(),
            UsageError,
            "parameter 0 lacks accumulator, step, threshold: it was not saved by GRDA",
        ),
        (other_shapes.state_dict(), UsageError, r"shape \(4,\), the parameter \(3,\).*another model"),
        (other_buffer, UsageError, r"momentum_buffer of parameter 0 has shape \(4,\), the parameter \(3,\)"),
        (other_square, UsageError, r"exp_avg_sq of parameter 1 has shape \(2,\), the parameter \(2, 2\)"),
        (more.state_dict(), ValueError, "doesn't match the size"),
        ({"state": {}, "param_groups": []}, ValueError, "different number of parameter groups"),
    ]:
        with pytest.raises(exception, match=message):
            optimizer.load_state_dict(state)
        now = optimizer.state_dict()
        assert all(
            same_bits(value, now["state"][index][key])
            for index, held in before["state"].items()
            for key, value in held.items()
        )
        assert not optimizer._optimizer_load_state_dict_pre_hooks


def test_a_parameter_cast_after_its_first_step_keeps_its_accumulator() -> None:
    """model.bfloat16() between two steps: the weight is rounded, its shadow is not."""
    model = small_model()
    optimizer = GRDA(model.parameters(), lr=0.1, c=0.01)
    for n in range(4):
        backward(model, seed=n)
        optimizer.step()
        if n == 1:
            shadow = optimizer.state[model[0].weight]["accumulator"].clone()
            model.zero_grad()
            model.bfloat16()
            assert same_bits(optimizer.state[model[0].weight]["accumulator"], shadow)
    assert model[0].weight.dtype == torch.bfloat16
    assert optimizer.state[model[0].weight]["accumulator"].dtype == torch.float32


def test_the_weight_can_be_recomputed_from_the_state() -> None:
    model = small_model()
    optimizer = GRDA(model.parameters(), lr=0.1, c=0.1)
    for n in range(10):
        backward(model, seed=n)
        optimizer.step()
    expected = [p.detach().clone() for p in model.parameters()]
    assert any((p == 0).any() for p in expected)
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(7.0)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    optimizer.step()
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), expected, strict=True))
