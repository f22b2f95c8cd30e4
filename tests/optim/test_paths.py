"""One by one, in lists, with scalars on the device: the same update, without waste and without waiting."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from dirprune.core.prunable import prunable_groups
from dirprune.optim import GRDA
from tests.optim.common import (
    DTYPES,
    HALF,
    OPTIONS,
    PENALTIES,
    assert_same,
    parameters,
    same_bits,
    set_gradients,
    train,
)


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", OPTIONS)
def test_lists_equal_one_by_one_to_the_bit(name: str, dtype: torch.dtype, penalty: str) -> None:
    loop, lists = (
        GRDA(parameters(dtype), lr=0.1, c=2.0, penalty=penalty, foreach=foreach, **OPTIONS[name])
        for foreach in (False, True)
    )
    for n in range(25):
        if n == 10:
            for optimizer in (loop, lists):
                optimizer.param_groups[0]["lr"] = 0.03
        train(loop, steps=1, first=n)
        train(lists, steps=1, first=n)
        assert_same(loop, lists)
    assert sum(int((p == 0).sum()) for p in loop.param_groups[0]["params"]) > 10


@pytest.mark.parametrize("capturable", [False, True])
def test_lists_of_mixed_dtypes_equal_one_by_one(capturable: bool) -> None:
    pair = []
    for foreach in (False, True):
        mixed = list(itertools.chain.from_iterable(parameters(dtype) for dtype in DTYPES))
        options = {"foreach": foreach, "capturable": capturable, **OPTIONS["all"]}
        pair.append(GRDA(mixed, lr=0.1, c=2.0, **options))
        train(pair[-1], steps=10)
    assert_same(*pair)


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("make_lr", [float, torch.tensor, lambda lr: torch.tensor([lr])])
@pytest.mark.parametrize("name", OPTIONS)
def test_capturable_equals_the_usual_path(name: str, make_lr, foreach: bool, penalty: str) -> None:
    """To rounding: a product and a difference in place of one fused operation."""
    for dtype, tolerance in [(torch.float64, 1e-13), (torch.float32, 1e-5), (torch.bfloat16, 1e-2)]:
        usual = GRDA(parameters(dtype), lr=make_lr(0.125), c=2.0, penalty=penalty, **OPTIONS[name])
        options = {"capturable": True, "foreach": foreach, "penalty": penalty, **OPTIONS[name]}
        on_device = GRDA(parameters(dtype), lr=make_lr(0.125), c=2.0, **options)
        for optimizer in (usual, on_device):
            train(optimizer, steps=10)
            optimizer.param_groups[0]["lr"] = make_lr(0.03125)
            train(optimizer, steps=10, first=10)
        for p, q in zip(usual.param_groups[0]["params"], on_device.param_groups[0]["params"], strict=True):
            torch.testing.assert_close(q, p, rtol=tolerance, atol=tolerance)
            for key, value in usual.state[p].items():
                limit = 1e-13 if key in ("step", "threshold") else tolerance
                torch.testing.assert_close(on_device.state[q][key], value, rtol=limit, atol=limit)


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dtypes_are_kept_and_half_precision_has_a_float32_accumulator(
    dtype: torch.dtype, foreach: bool
) -> None:
    params = parameters(dtype)
    optimizer = GRDA(params, lr=0.1, momentum=0.9, foreach=foreach)
    train(optimizer, steps=2)
    wide = torch.float32 if dtype in HALF else dtype
    for p in params:
        state = optimizer.state[p]
        assert p.dtype == dtype
        assert state["accumulator"].dtype == state["momentum_buffer"].dtype == wide
        assert state["accumulator"].shape == p.shape
        for key in ("step", "threshold"):
            assert state[key].dtype == torch.float64
            assert state[key].ndim == 0
            assert state[key].device.type == "cpu"


@pytest.mark.parametrize("foreach", [False, True])
def test_updates_below_the_resolution_of_bfloat16_arrive(foreach: bool) -> None:
    """1 - 2^-10 rounds to 1 in bfloat16; a thousand such updates arrive nevertheless."""
    w = nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
    w.grad = torch.ones_like(w)
    optimizer = GRDA([w], lr=2**-10, c=0.0, foreach=foreach)
    optimizer.step()
    assert (w == 1).all()
    for _ in range(999):
        optimizer.step()
    assert (optimizer.state[w]["accumulator"] == 1 - 1000 / 1024).all()
    assert (w == 1 - 1000 / 1024).all()


def test_memory_formats_are_kept() -> None:
    for options in ({}, {"foreach": True}, {"capturable": True}):
        params = parameters()
        strides = [p.stride() for p in params]
        optimizer = GRDA(params, lr=0.1, momentum=0.9, **options)
        train(optimizer, steps=2)
        assert [p.stride() for p in params] == strides
        channels_last = params[3]
        assert channels_last.is_contiguous(memory_format=torch.channels_last)
        for key in ("accumulator", "momentum_buffer"):
            state = optimizer.state[channels_last][key]
            assert state.is_contiguous(memory_format=torch.channels_last)


def test_a_layout_makes_no_difference() -> None:
    """Every element follows the same equation, whatever the strides."""
    values = torch.randn(2, 3, 5, 4, dtype=torch.float64)
    gradients = torch.randn(20, *values.shape, dtype=torch.float64)
    results = []
    for layout in (
        values.clone(),
        values.contiguous(memory_format=torch.channels_last),
        values.transpose(0, 3).contiguous().transpose(0, 3),
        torch.stack([values, values], dim=-1)[..., 0],
    ):
        w = nn.Parameter(layout)
        optimizer = GRDA([w], lr=0.1, c=2.0, momentum=0.9)
        for gradient in gradients:
            w.grad = gradient.clone()
            optimizer.step()
        results.append(w.detach())
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize(
    "path", [{}, {"foreach": True}, {"capturable": True}, {"capturable": True, "foreach": True}]
)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("name", OPTIONS)
def test_gradients_are_never_edited(name: str, dtype: torch.dtype, path: dict[str, bool]) -> None:
    params = parameters(dtype)
    optimizer = GRDA(params, lr=0.1, c=2.0, **path, **OPTIONS[name])
    for n in range(3):
        set_gradients(params, seed=n)
        gradients = [p.grad for p in params]
        copies = [g.clone() for g in gradients]
        optimizer.step()
        for p, gradient, copy in zip(params, gradients, copies, strict=True):
            assert p.grad is gradient
            assert same_bits(gradient, copy)


@pytest.mark.parametrize(
    ("options", "temporaries"), [({}, 0), ({"momentum": 0.9}, 0), ({"momentum": 0.9, "nesterov": True}, 1)]
)
def test_a_float32_step_takes_no_memory(options: dict[str, Any], temporaries: int) -> None:
    """The last case shows that the count would see a temporary of the size of the parameter."""
    w = nn.Parameter(torch.randn(256, 256))
    w.grad = torch.randn_like(w)
    optimizer = GRDA([w], lr=0.1, foreach=False, **options)
    optimizer.step()  # makes the state
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        optimizer.step()
    taken = [event for event in profile.events() if event.self_cpu_memory_usage >= w.nbytes]
    assert len(taken) == temporaries, [(event.name, event.self_cpu_memory_usage) for event in taken]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_large_tensors_are_updated_piece_by_piece(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One by one, so that temporaries stay small, and with the same result to the bit."""
    results = []
    for piece in (100, 10**9):
        monkeypatch.setattr("dirprune.optim.update._PIECE", piece)
        optimizer = GRDA(parameters(dtype), lr=0.1, c=2.0, foreach=False, **OPTIONS["all"])
        train(optimizer, steps=3)
        results.append(optimizer)
    assert_same(*results)
    monkeypatch.undo()
    w = nn.Parameter(torch.randn(1024, 1024).to(dtype))
    w.grad = torch.randn_like(w)
    optimizer = GRDA([w], lr=0.1, foreach=False, **OPTIONS["all"])
    optimizer.step()
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        optimizer.step()
    assert 0 < max(event.self_cpu_memory_usage for event in profile.events()) <= w.numel() // 4


class Reads(TorchDispatchMode):
    """Collects every tensor whose value is read on the host."""

    def __init__(self) -> None:
        super().__init__()
        self.tensors: list[Tensor] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.is_nonzero.default):
            self.tensors.append(args[0])
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("options", "reads_of_lr"),
    [
        ({"foreach": False}, 1),
        ({"foreach": True}, 1),
        ({"capturable": True}, 0),
        ({"capturable": True, "foreach": True}, 0),
    ],
)
def test_the_host_reads_no_tensor_of_the_device(options: dict[str, bool], reads_of_lr: int) -> None:
    """Only the counters, which live on the CPU, and a tensor lr once for a group."""
    model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(8)))
    lr = torch.tensor(0.1)
    groups = prunable_groups(model, include="weights")  # some groups at c=0
    optimizer = GRDA(groups, lr=lr, **options)
    train(optimizer, steps=1)
    set_gradients(model.parameters(), seed=1)
    with Reads() as reads:
        optimizer.step()
    counters = [id(s[key]) for s in optimizer.state.values() for key in ("step", "threshold")]
    others = [t for t in reads.tensors if id(t) not in counters]
    assert all(t is lr or t.data_ptr() == lr.data_ptr() for t in others)
    assert len(others) == reads_of_lr * len(groups)
    assert len(reads.tensors) - len(others) == (0 if options.get("capturable") else 2 * 16)


class ScalarsWhereCudaWantsThem(TorchDispatchMode):
    """Checks what a fake tensor does not: CUDA takes the factor of a list on the list's device only."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._foreach_mul.Tensor:
            assert args[0][0].device == args[1].device
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("name", ["plain", "all"])
def test_no_step_waits_for_a_gpu(name: str, foreach: bool, dtype: torch.dtype) -> None:
    """A fake GPU tensor has no value: reading one, or mixing it with CPU tensors wrongly, raises."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with mode:
        params = [nn.Parameter(torch.empty(5, device="cuda", dtype=dtype)) for _ in range(3)]
        for p in params:
            p.grad = torch.empty_like(p)
    usual = GRDA(params, lr=0.1, foreach=foreach, **OPTIONS[name])
    for _ in range(3):
        usual.step()
    usual.param_groups[0]["lr"] = torch.tensor(0.1)
    usual.step()
    for p in params:
        assert (p.dtype, p.device.type) == (dtype, "cuda")
        assert usual.state[p]["step"].item() == 4  # a real tensor on the CPU
        assert usual.state[p]["accumulator"].device.type == "cuda"

    on_device = GRDA(params, lr=0.1, foreach=foreach, capturable=True, **OPTIONS[name])
    with mode, ScalarsWhereCudaWantsThem():
        for rate in (0.1, torch.empty(()), torch.empty(1, device="cuda")):
            on_device.param_groups[0]["lr"] = rate
            on_device.step()
    for p in params:
        assert {value.device.type for value in on_device.state[p].values()} == {"cuda"}
        assert on_device.state[p]["threshold"].dtype == torch.float64


def test_lists_are_the_default_on_accelerators_only() -> None:
    class Calls(TorchDispatchMode):
        names: list[str]

        def __init__(self) -> None:
            super().__init__()
            self.names = []

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.names.append(func.__name__)
            return func(*args, **(kwargs or {}))

    for device, expected in [("cpu", False), ("meta", True)]:
        params = [nn.Parameter(torch.empty(5, device=device)) for _ in range(3)]
        for p in params:
            p.grad = torch.empty_like(p)
        optimizer = GRDA(params, lr=0.1)
        with Calls() as calls:
            optimizer.step()
        assert any(name.startswith("_foreach") for name in calls.names) is expected
