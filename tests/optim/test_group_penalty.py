"""GRDA with the group penalty: output channels become zero as a whole, on every path."""

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from dirprune.core.prunable import prunable_groups
from dirprune.core.threshold import GroupSoftThreshold
from dirprune.errors import LostShadowWarning
from dirprune.optim import GRDA
from tests.optim.common import (
    DTYPES,
    OPTIONS,
    assert_same,
    parameters,
    same_bits,
    set_gradients,
    small_model,
    train,
    train_as_the_oracle,
)
from tests.oracles import numpy_grda

RULE = GroupSoftThreshold()


def group(params, **options) -> GRDA:
    return GRDA(params, **{"lr": 0.1, "c": 8.0, "penalty": "group", **options})


def dead_rows(optimizer: GRDA) -> int:
    matrices = [p.detach() for g in optimizer.param_groups for p in g["params"] if p.ndim > 1 and p.numel()]
    return sum(int((m == 0).flatten(1).all(1).sum()) for m in matrices)


@pytest.mark.parametrize("name", OPTIONS)
def test_equals_the_oracle(name: str) -> None:
    rng = np.random.default_rng(0)
    start, target = (
        rng.normal(size=(6, 2, 3)),
        rng.normal(size=(6, 2, 3)) * np.linspace(0, 2, 6)[:, None, None],
    )
    optimizer = train_as_the_oracle(
        group, numpy_grda.group_soft_threshold, start, target, 1e-11, **OPTIONS[name]
    )
    if not OPTIONS[name].get("maximize"):
        assert dead_rows(optimizer) > 0


@pytest.mark.parametrize("foreach", [None, False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", OPTIONS)
def test_c_zero_is_sgd_to_the_bit(name: str, dtype: torch.dtype, foreach: bool | None) -> None:
    ours, theirs = parameters(dtype), parameters(dtype)
    optimizer = group(ours, c=0.0, foreach=foreach, **OPTIONS[name])
    sgd = torch.optim.SGD(theirs, lr=0.1, foreach=False, **OPTIONS[name])
    for each in (optimizer, sgd):
        train(each, steps=10)
    assert all(same_bits(p, q) for p, q in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", OPTIONS)
def test_lists_equal_one_by_one_to_the_bit(name: str, dtype: torch.dtype) -> None:
    pair = [group(parameters(dtype), foreach=foreach, **OPTIONS[name]) for foreach in (False, True)]
    dead = set()
    for n in range(20):
        for optimizer in pair:
            train(optimizer, steps=1, first=n)
        assert_same(*pair)
        dead.add(dead_rows(pair[0]))
    assert dead & set(range(1, 15))  # of 15


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("name", OPTIONS)
def test_capturable_equals_the_usual_path(name: str, foreach: bool) -> None:
    usual = group(parameters(torch.float64), **OPTIONS[name])
    on_device = group(parameters(torch.float64), capturable=True, foreach=foreach, **OPTIONS[name])
    dead = set()
    for n in range(20):
        for optimizer in (usual, on_device):
            train(optimizer, steps=1, first=n)
        for p, q in zip(usual.param_groups[0]["params"], on_device.param_groups[0]["params"], strict=True):
            torch.testing.assert_close(q, p, rtol=1e-12, atol=1e-12)
            assert torch.equal(q == 0, p == 0)
        dead.add(dead_rows(usual))
    assert dead & set(range(1, 15))  # of 15


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("accumulator_dtype", [None, torch.bfloat16])
def test_pieces_never_cut_a_channel(
    dtype: torch.dtype, accumulator_dtype: torch.dtype | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = []
    for piece in (10, 10**9):
        monkeypatch.setattr("dirprune.optim.update._PIECE", piece)
        generator = torch.Generator().manual_seed(0)
        shapes = [(12, 3, 2, 2), (9, 4), (2, 100), (40,)]
        params = [nn.Parameter(torch.randn(s, generator=generator).to(dtype)) for s in shapes]
        params[0].data = params[0].data.contiguous(memory_format=torch.channels_last)
        params.append(nn.Parameter(torch.randn(8, 30, generator=generator).to(dtype)[:, ::2]))
        optimizer = group(params, c=4.5, foreach=False, accumulator_dtype=accumulator_dtype, **OPTIONS["all"])
        train(optimizer, steps=12)
        results.append(optimizer)
    assert 5 < dead_rows(results[0]) < 31
    for p, q in zip(*(optimizer.param_groups[0]["params"] for optimizer in results), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-5)
        assert torch.equal(p == 0, q == 0)


def test_a_bfloat16_accumulator_is_thresholded_before_it_is_rounded() -> None:
    start = torch.randn(6, 5, generator=torch.Generator().manual_seed(0)).bfloat16().float()
    gradient = torch.randn(6, 5, generator=torch.Generator().manual_seed(1))
    w = nn.Parameter(start.clone())
    w.grad = gradient
    optimizer = group([w], c=6.0, accumulator_dtype=torch.bfloat16)
    optimizer.step()
    tau = optimizer.state[w]["threshold"].item()
    assert torch.equal(w, RULE(start.add(gradient, alpha=-0.1), tau))
    assert optimizer.state[w]["accumulator"].dtype == torch.bfloat16
    assert 0 < dead_rows(optimizer) < 6


def test_autograd_passes_through_three_steps() -> None:
    generator = torch.Generator().manual_seed(1)
    start = torch.tensor([[1.0, -1.0], [0.02, -0.02], [0.7, 0.1]], dtype=torch.float64, requires_grad=True)
    gradients = (0.1 * torch.randn(3, 3, 2, dtype=torch.float64, generator=generator)).requires_grad_()
    lr = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)

    def steps(start: torch.Tensor, gradients: torch.Tensor, lr: torch.Tensor) -> torch.Tensor:
        w = start.clone()
        optimizer = group([w], lr=lr, c=0.5, differentiable=True)
        for gradient in gradients:
            w.grad = gradient.clone()
            optimizer.step()
        return w

    assert (steps(start, gradients, lr) == 0).all(1).tolist() == [False, True, False]
    assert torch.autograd.gradcheck(steps, (start, gradients, lr))


@pytest.mark.parametrize("other", ["group", "l0"])
def test_each_group_of_parameters_has_its_own_penalty(other: str) -> None:
    together = [nn.Parameter(torch.ones(4, 3)) for _ in range(2)]
    mixed = GRDA([{"params": [together[0]], "penalty": other}, {"params": [together[1]]}], lr=0.1, c=2.0)
    train(mixed, steps=10)
    for i, penalty in enumerate((other, "l1")):
        alone = [nn.Parameter(torch.ones(4, 3)) for _ in range(2)]
        single = GRDA([alone[i]], lr=0.1, c=2.0, penalty=penalty)
        for n in range(10):
            set_gradients(alone, seed=n)
            single.step()
        torch.testing.assert_close(alone[i], together[i])
    assert not torch.equal(together[0] == 0, together[1] == 0)


def test_weights_of_layers_only() -> None:
    model = small_model()
    optimizer = GRDA(prunable_groups(model, "weights"), lr=0.1, c=1.0, penalty="group")
    train(optimizer, steps=10)
    for p in (model[0].weight, model[2].weight):
        v, tau = optimizer.state[p]["accumulator"], optimizer.state[p]["threshold"]
        torch.testing.assert_close(p, RULE(v, tau))
    assert same_bits(model[0].bias, optimizer.state[model[0].bias]["accumulator"])


@pytest.mark.parametrize("copier", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
def test_a_copy_and_a_restored_state_go_on_to_the_bit(copier) -> None:
    optimizer = group(parameters(), momentum=0.9)
    train(optimizer, steps=5)
    twin = copier(optimizer)
    restored = GRDA([nn.Parameter(p.detach().clone()) for p in optimizer.param_groups[0]["params"]], lr=9.0)
    restored.load_state_dict(optimizer.state_dict())
    assert restored.param_groups[0]["penalty"] == twin.param_groups[0]["penalty"] == "group"
    for each in (optimizer, twin, restored):
        train(each, steps=10, first=5)
    assert_same(optimizer, twin)
    assert_same(optimizer, restored)


def test_a_new_optimizer_on_dead_channels_warns_and_on_fresh_layers_does_not() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = nn.Parameter(torch.randn(10, 6, generator=generator) * torch.linspace(0.1, 2, 10)[:, None])
    first = group([weight])
    weight.grad = torch.zeros_like(weight)
    for _ in range(3):
        first.step()
    assert 2 <= dead_rows(first) < 10
    with pytest.warns(LostShadowWarning, match="already sparse"):
        train(group([weight]), steps=1)
    embedding = nn.Embedding(4, 8, padding_idx=0)
    last = nn.Linear(8, 3)
    nn.init.zeros_(last.weight)
    train(group([*embedding.parameters(), *last.parameters()]), steps=1)  # a warning would be an error
