"""What PyTorch asks of its own optimisers: groups, names, hooks, closures, copies."""

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dirprune.errors import UsageError
from dirprune.optim import GRDA
from tests.optim.common import (
    assert_same,
    backward,
    ones,
    parameters,
    same_bits,
    set_gradients,
    small_model,
    train,
)


def test_groups_have_their_own_options() -> None:
    options = [
        {"lr": 0.1, "c": 0.1, "mu": 0.6},
        {"lr": 0.03, "c": 0.3, "mu": 0.51, "momentum": 0.9, "nesterov": True},
        {"lr": 0.2, "c": 0.0, "weight_decay": 0.1, "foreach": True},
        {"lr": torch.tensor(0.1), "capturable": True, "maximize": True},
    ]
    together = [ones(5) for _ in options]
    optimizer = GRDA([{"params": [p], **o} for p, o in zip(together, options, strict=True)], lr=9.0)
    for n in range(10):
        set_gradients(together, seed=n)
        optimizer.step()
    for i, group_options in enumerate(options):
        alone = [ones(5) for _ in options]
        single = GRDA([alone[i]], **group_options)
        for n in range(10):
            set_gradients(alone, seed=n)
            single.step()
        assert same_bits(alone[i], together[i])


def test_options_not_named_come_from_the_constructor() -> None:
    optimizer = GRDA([{"params": [ones(2)], "c": 0.0}, {"params": ones(2), "lr": 0.5}], lr=0.1, c=0.2, mu=0.7)
    first, second = optimizer.param_groups
    assert (first["lr"], first["c"], first["mu"]) == (0.1, 0.0, 0.7)
    assert (second["lr"], second["c"], second["mu"]) == (0.5, 0.2, 0.7)
    assert "c: 0.2" in repr(optimizer)


def test_named_parameters_keep_their_names() -> None:
    model = small_model()
    optimizer = GRDA(model.named_parameters(), lr=0.1)
    backward(model, seed=0)
    optimizer.step()
    names = [name for name, _ in model.named_parameters()]
    assert optimizer.param_groups[0]["param_names"] == names
    saved = optimizer.state_dict()
    assert saved["param_groups"][0]["param_names"] == names
    twin = GRDA(copy.deepcopy(model).named_parameters(), lr=0.1)
    twin.load_state_dict(saved)
    assert twin.param_groups[0]["param_names"] == names
    assert_same(optimizer, twin)


def test_a_group_added_in_flight_starts_at_its_own_step_zero() -> None:
    first, second = ones(3), ones(3)
    optimizer = GRDA([first], lr=0.1, c=0.1)
    train(optimizer, steps=5)
    optimizer.add_param_group({"params": [second], "c": 0.2})
    train(optimizer, steps=2)
    assert optimizer.state[first]["step"].item() == 7
    assert optimizer.state[second]["step"].item() == 2
    assert optimizer.state[second]["threshold"].item() == pytest.approx(0.2 * 0.1**1.1 * 2**0.6, rel=1e-14)


def test_a_refused_group_leaves_the_optimizer_as_it_was() -> None:
    optimizer = GRDA([ones(3)], lr=0.1)
    for group in (
        {"params": [ones(2)], "c": -1.0},
        {"params": [ones(2, dtype=torch.complex64)]},
        {"params": [ones(2, dtype=torch.bfloat16), nn.Parameter(torch.ones(2).int(), requires_grad=False)]},
    ):
        with pytest.raises(UsageError):
            optimizer.add_param_group(group)
        assert len(optimizer.param_groups) == 1
    train(optimizer, steps=1)


def test_generators_and_single_tensors_are_taken() -> None:
    assert len(GRDA((p for p in parameters()), lr=0.1).param_groups[0]["params"]) == 6
    assert GRDA([{"params": ones(2)}], lr=0.1).param_groups[0]["params"][0].shape == (2,)


@pytest.mark.parametrize("foreach", [False, True])
def test_parameters_without_a_gradient_are_left_alone(foreach: bool) -> None:
    params = [ones(3) for _ in range(3)]
    optimizer = GRDA(params, lr=0.1, foreach=foreach)
    optimizer.step()  # no gradient at all
    assert not optimizer.state
    params[1].grad = torch.ones(3)
    optimizer.step()
    assert [p in optimizer.state for p in params] == [False, True, False]
    assert params[0].tolist() == params[2].tolist() == [1, 1, 1]


@pytest.mark.parametrize("foreach", [False, True])
def test_zero_grad(foreach: bool) -> None:
    p = ones(3)
    optimizer = GRDA([p], lr=0.1, foreach=foreach)
    train(optimizer, steps=1)
    optimizer.zero_grad(set_to_none=False)
    assert p.grad.tolist() == [0, 0, 0]
    optimizer.zero_grad()
    assert p.grad is None


def test_a_zero_gradient_is_a_step_and_no_gradient_is_none() -> None:
    p = ones(3)
    optimizer = GRDA([p], lr=0.1, c=1.0)
    p.grad = torch.zeros(3)
    optimizer.step()
    assert p.tolist() == pytest.approx([1 - 0.1**1.1] * 3)


@pytest.mark.parametrize("late", [{"momentum": 0.9}, {"penalty": "l2"}], ids=str)
def test_no_group_is_updated_where_one_is_refused(late: dict[str, Any]) -> None:
    params = [ones(3), ones(3)]
    optimizer = GRDA([{"params": [p]} for p in params], lr=0.1, momentum=0.0, beta2=0.9)
    train(optimizer, steps=1)
    before = [p.detach().clone() for p in params]
    optimizer.param_groups[1].update(late)
    with pytest.raises((UsageError, KeyError)):
        train(optimizer, steps=1)
    assert [state["step"] for state in optimizer.state_dict()["state"].values()] == [1, 1]
    assert all(map(torch.equal, params, before))


@pytest.mark.parametrize("options", [{}, {"foreach": True}, {"capturable": True}])
def test_sparse_gradients_are_refused_and_nothing_changes(options: dict[str, bool]) -> None:
    table = nn.Embedding(4, 3, sparse=True)
    linear = nn.Linear(3, 2)
    groups = [{"params": linear.parameters()}, {"params": [ones(2), table.weight]}]
    optimizer = GRDA(groups, lr=0.1, **options)
    before = [p.detach().clone() for p in (*linear.parameters(), table.weight)]
    linear(table(torch.tensor([1, 2]))).sum().backward()
    with pytest.raises(RuntimeError, match=r"does not support sparse gradients.*sparse=False"):
        optimizer.step()
    after = (*linear.parameters(), table.weight)
    assert all(torch.equal(p, q) for p, q in zip(before, after, strict=True))
    assert not optimizer.state


def test_maximize_ascends() -> None:
    p = ones(1)
    optimizer = GRDA([p], lr=0.1, c=0.0, maximize=True)
    for _ in range(50):
        optimizer.zero_grad()
        (-((p - 3) ** 2)).sum().backward()
        optimizer.step()
    assert p.item() == pytest.approx(3, abs=1e-3)


@pytest.mark.parametrize("options", [{}, {"foreach": True}, {"capturable": True}])
def test_default_dtype_and_device_make_no_difference(options: dict[str, bool]) -> None:
    expected, optimizer = (GRDA(parameters(), lr=0.1, c=0.5, momentum=0.9, **options) for _ in range(2))
    train(expected, steps=2)
    params = optimizer.param_groups[0]["params"]
    torch.set_default_dtype(torch.float64)
    try:
        for n in range(2):
            set_gradients(params, seed=n)
            with torch.device("meta"):
                optimizer.step()
    finally:
        torch.set_default_dtype(torch.float32)
    assert_same(expected, optimizer)


def test_numbers_may_be_numpy_scalars() -> None:
    options = {"lr": 0.125, "c": 0.5, "mu": 0.5, "momentum": 0.5, "weight_decay": 0.25}
    for foreach in (None, False, True):
        expected = GRDA(parameters(), foreach=foreach, nesterov=True, maximize=True, **options)
        numpy = {**{k: np.float32(v) for k, v in options.items()}, "nesterov": np.True_, "maximize": np.True_}
        optimizer = GRDA(parameters(), foreach=foreach, **numpy)
        train(expected, steps=3)
        train(optimizer, steps=3)
        assert_same(expected, optimizer)
        file = io.BytesIO()
        torch.save(optimizer.state_dict(), file)
        file.seek(0)
        assert torch.load(file, weights_only=True)["param_groups"][0]["c"] == 0.5


def test_a_group_s_numbers_may_be_numpy_scalars() -> None:
    first, second = parameters()[:2]
    optimizer = GRDA([first], lr=0.1)
    optimizer.add_param_group({"params": [second], "c": np.float64(0.25)})
    assert type(optimizer.param_groups[1]["c"]) is float


def test_it_trains_to_a_sparse_network() -> None:
    """y depends on 2 of 20 inputs: those stay, most of the others go, and the loss falls."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 20, generator=generator)
    y = 2 * x[:, 3] - x[:, 7]
    model = nn.Linear(20, 1, bias=False)
    optimizer = GRDA(model.parameters(), lr=0.1, c=0.05, mu=0.6)
    for _ in range(200):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x).squeeze(1), y)
        loss.backward()
        optimizer.step()
    kept = model.weight[0].nonzero().flatten().tolist()
    assert kept == [3, 7]
    assert loss < 0.2


def test_a_closure_is_evaluated_once_with_gradients_on_and_its_loss_returned() -> None:
    model = small_model()
    optimizer = GRDA(model.parameters(), lr=0.1)
    calls = []

    def closure() -> Tensor:
        assert torch.is_grad_enabled()
        optimizer.zero_grad()
        loss = model(torch.ones(2, 6)).square().sum()
        loss.backward()
        calls.append(loss)
        return loss

    losses = [optimizer.step(closure), optimizer.step(closure=closure)]
    assert losses == calls
    assert losses[1] < losses[0]
    assert optimizer.step() is None
    with torch.no_grad():
        optimizer.step(closure)
        assert not torch.is_grad_enabled()


def test_an_exception_in_the_closure_changes_nothing() -> None:
    p = ones(2)
    optimizer = GRDA([p], lr=0.1)
    set_gradients([p], seed=0)
    with pytest.raises(ZeroDivisionError):
        optimizer.step(lambda: 1 // 0)
    assert p.tolist() == [1, 1]
    assert not optimizer.state


def test_step_hooks_run_in_order_and_can_be_removed() -> None:
    seen: list[str] = []
    p = ones(2)
    optimizer = GRDA([p], lr=0.1)
    handles = [
        optimizer.register_step_pre_hook(lambda *_: seen.append(f"pre {p[0].item():.1f}")),
        optimizer.register_step_post_hook(lambda *_: seen.append(f"post {p[0].item():.1f}")),
    ]
    p.grad = torch.full((2,), 5.0)
    optimizer.step()
    assert seen == ["pre 1.0", "post 0.5"]
    for handle in handles:
        handle.remove()
    optimizer.step()
    assert len(seen) == 2


def test_state_dict_hooks_see_the_state_as_it_is() -> None:
    p = ones(2, dtype=torch.bfloat16)
    optimizer = GRDA([p], lr=0.1)
    train(optimizer, steps=1)
    seen: list[Any] = []

    def after_load(o: GRDA) -> None:
        seen.append({key: value.dtype for key, value in o.state[p].items()})

    def before_load(o: GRDA, state_dict: dict[str, Any]) -> dict[str, Any]:
        seen.append(state_dict["state"][0]["accumulator"].dtype)
        state_dict["state"][0]["step"] = torch.tensor(41.0)
        return state_dict

    optimizer.register_state_dict_pre_hook(lambda _: seen.append("before saving"))
    optimizer.register_state_dict_post_hook(lambda _, saved: {**saved, "note": "kept"})
    optimizer.register_load_state_dict_pre_hook(before_load)
    optimizer.register_load_state_dict_post_hook(after_load)
    saved = optimizer.state_dict()
    assert saved["note"] == "kept"
    optimizer.load_state_dict(saved)
    wide = {"step": torch.float64, "threshold": torch.float64, "accumulator": torch.float32}
    assert seen == ["before saving", torch.float32, wide]
    assert optimizer.state[p]["step"].item() == 41
    assert len(optimizer._optimizer_load_state_dict_pre_hooks) == 1


@pytest.mark.parametrize("steps", [0, 3])
@pytest.mark.parametrize("copier", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
def test_a_copy_goes_on_like_the_original(copier: Callable[[GRDA], GRDA], steps: int) -> None:
    optimizer = GRDA(parameters(torch.bfloat16), lr=0.1, c=0.5, momentum=0.9)
    train(optimizer, steps=steps)
    twin = copier(optimizer)
    assert_same(optimizer, twin)
    for o in (optimizer, twin):
        train(o, steps=3, first=steps)
    assert_same(optimizer, twin)
    assert not {p.data_ptr() for p in twin.state} & {p.data_ptr() for p in optimizer.state if p.numel()}


def test_it_survives_torch_save_as_a_whole() -> None:
    optimizer = GRDA(parameters(), lr=torch.tensor(0.1))
    train(optimizer, steps=2)
    buffer = io.BytesIO()
    torch.save(optimizer, buffer)
    buffer.seek(0)
    assert_same(optimizer, torch.load(buffer, weights_only=False))
