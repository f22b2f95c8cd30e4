"""The fused kernel of the CPU: the readable update to the bit where it serves, the others elsewhere."""

import copy
import math
import multiprocessing
import pickle
import warnings
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from dirprune.core.prunable import prunable_groups
from dirprune.core.threshold import HardThreshold, SoftThreshold
from dirprune.errors import HyperparameterError, UsageError
from dirprune.optim import GRDA
from dirprune.optim.kernels import cpu
from dirprune.optim.paths import why_not_fused
from tests.optim.common import (
    DTYPES,
    HALF,
    OPTIONS,
    PENALTIES,
    assert_same,
    backward,
    ones,
    parameters,
    same_bits,
    set_gradients,
    small_model,
    train,
)


@pytest.fixture(autouse=True)
def _there_is_a_kernel(compiler: None) -> None:
    assert why_not_fused("cpu") is None


@pytest.fixture
def left(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Collects how many parameters the kernel left to another path at each step."""
    counts: list[int] = []
    choose = cpu.which_suit

    def count(tensors, kind: str, **options: bool) -> list[int]:
        indices = choose(tensors, kind, **options)
        if missing := len(tensors.params) - len(indices):
            counts.append(missing)
        return indices

    monkeypatch.setattr(cpu, "which_suit", count)
    return counts


def large(dtype: torch.dtype = torch.float32) -> list[nn.Parameter]:
    """Tensors that need several chunks, end within blocks, and are stored past the caches."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(300_001,), (7,), (0,), (33, 1001), (40_000,), (5, 3, 3, 3)]
    return [nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in shapes]


def pair(make: Any, **options: Any) -> tuple[GRDA, GRDA]:
    """A fused optimiser, and the readable one on equal parameters."""
    return GRDA(make(), lr=0.1, c=2.0, **options), GRDA(make(), lr=0.1, c=2.0, foreach=False, **options)


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", OPTIONS)
def test_it_equals_the_readable_update_to_the_bit(
    name: str, dtype: torch.dtype, penalty: str, left: list[int]
) -> None:
    fused, loop = pair(lambda: parameters(dtype), penalty=penalty, **OPTIONS[name])
    for n in range(25):
        for optimizer in (fused, loop):
            optimizer.param_groups[0]["lr"] = 0.1 if n < 10 else 0.03
            train(optimizer, steps=1, first=n)
        assert_same(fused, loop)
    assert sum(int((p == 0).sum()) for p in loop.param_groups[0]["params"]) > 10
    assert sum(left) == 25  # the tensor with gaps, at every step


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_chunks_blocks_and_threads_make_no_difference(dtype: torch.dtype, threads: int, penalty: str) -> None:
    fused, loop = pair(lambda: large(dtype), penalty=penalty, **OPTIONS["all"])
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for optimizer in (fused, loop):
            train(optimizer, steps=3)
    finally:
        torch.set_num_threads(before)
    assert_same(fused, loop)


@pytest.mark.parametrize("penalty", PENALTIES)
def test_mixed_dtypes_and_layouts_go_in_one_call(penalty: str) -> None:
    fused, loop = pair(
        lambda: [p for dtype in DTYPES for p in parameters(dtype)], penalty=penalty, **OPTIONS["all"]
    )
    for optimizer in (fused, loop):
        train(optimizer, steps=5)
    assert_same(fused, loop)


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_values_out_of_the_ordinary(dtype: torch.dtype, penalty: str) -> None:
    """Zeros with signs, infinities, NaN, the smallest and the largest numbers, and the threshold itself."""
    info, tau = torch.finfo(dtype), 0.1**1.1
    odd = [0.0, -0.0, math.inf, -math.inf, math.nan, info.tiny, -info.tiny, info.max, info.min, 1e-7, 1.0]
    odd += [tau, -tau]
    values = torch.tensor(odd * 40, dtype=dtype)  # the same in vectors and in the remainder
    for c in (0.0, 1.0):
        fused, loop = (
            GRDA([nn.Parameter(values.clone())], lr=0.1, c=c, penalty=penalty, foreach=f)
            for f in (None, False)
        )
        for gradient in (torch.zeros_like(values), torch.full_like(values, -1.0), values.roll(1)):
            for optimizer in (fused, loop):
                optimizer.param_groups[0]["params"][0].grad = gradient
                optimizer.step()
            for ours, theirs in (
                (fused.param_groups[0]["params"][0], loop.param_groups[0]["params"][0]),
                *zip(*(next(iter(o.state.values())).values() for o in (fused, loop)), strict=True),
            ):
                assert torch.equal(ours.isnan(), theirs.isnan())  # whose bits mean nothing
                assert same_bits(ours.nan_to_num(nan=0.5), theirs.nan_to_num(nan=0.5))


def test_a_threshold_that_is_no_number_is_no_network_of_zeros() -> None:
    params = [nn.Parameter(torch.ones(37)) for _ in range(2)]
    for p, foreach in zip(params, (None, False), strict=True):
        optimizer = GRDA([p], lr=0.1, foreach=foreach)
        optimizer.param_groups[0]["c"] = math.nan
        train(optimizer, steps=1)
    assert all(p.isnan().all() for p in params)


def test_parameters_at_different_steps() -> None:
    fused, loop = pair(lambda: [ones(3), ones(70), ones(5), ones(2)])
    for optimizer in (fused, loop):
        params = optimizer.param_groups[0]["params"]
        for n in range(12):
            set_gradients(params, seed=n)
            for i, p in enumerate(params):
                if n % (i + 1):
                    p.grad = None
            optimizer.step()
    assert_same(fused, loop)
    assert {s["step"].item() for s in fused.state.values()} == {12, 6, 4, 3}


def test_what_the_kernel_cannot_take_goes_another_way(left: list[int]) -> None:
    """Gradients of another layout, counters of another dtype, numbers that are lazily negated."""

    def transpose(p: Tensor, state: dict[str, Tensor]) -> None:
        p.grad = p.grad.t().contiguous().t()

    def narrow_counter(p: Tensor, state: dict[str, Tensor]) -> None:
        state["step"] = state["step"].float()

    def negated(p: Tensor, state: dict[str, Tensor]) -> None:
        p.grad = torch._neg_view(-p.grad)  # as the imaginary part of a conjugate has it
        assert p.grad.is_neg()

    def expanded(p: Tensor, state: dict[str, Tensor]) -> None:
        p.grad = p.grad[:1].expand(p.shape)

    def strided_accumulator(p: Tensor, state: dict[str, Tensor]) -> None:
        state["accumulator"] = torch.stack([state["accumulator"]] * 2, dim=-1)[..., 0]

    def shrunk(p: Tensor, state: dict[str, Tensor]) -> None:
        for held, key in ((p, "data"), (p.grad, "data")):
            setattr(held, key, held.data[:4])
        state["accumulator"] = state["accumulator"][:4]

    for change in (transpose, narrow_counter, negated, expanded, strided_accumulator, shrunk):
        results = []
        for foreach in (None, False):
            torch.manual_seed(0)
            p, other = nn.Parameter(torch.randn(6, 5)), nn.Parameter(torch.randn(6, 5))
            optimizer = GRDA([p, other], lr=0.1, c=0.5, foreach=foreach)
            train(optimizer, steps=2)
            set_gradients([p, other], seed=9)
            change(p, optimizer.state[p])
            left.clear()
            optimizer.step()
            results.append(optimizer)
            expected = 0 if foreach is False or change is shrunk else 1
            assert len(left) == expected, change.__name__
        assert_same(*results)


def test_tensors_that_have_moved_since_the_last_step() -> None:
    """Addresses are kept from step to step: each change here must be noticed."""

    def move(p: Tensor, state: dict[str, Tensor]) -> None:
        p.data = p.data.clone()

    def move_state(p: Tensor, state: dict[str, Tensor]) -> None:
        for key in ("accumulator", "momentum_buffer"):
            state[key].data = state[key].data.clone()

    def replace_state(p: Tensor, state: dict[str, Tensor]) -> None:
        state.update({key: value.clone() for key, value in state.items()})

    def replace_counters(p: Tensor, state: dict[str, Tensor]) -> None:
        state.update({key: state[key] + 1 for key in ("step", "threshold")})

    def move_counter(p: Tensor, state: dict[str, Tensor]) -> None:
        state["threshold"].data = state["threshold"].data.clone()

    def share_counter(p: Tensor, state: dict[str, Tensor]) -> None:
        state["step"].share_memory_()  # the same tensor in other memory

    def transpose_in_place(p: Tensor, state: dict[str, Tensor]) -> None:
        p.data = p.data.t()

    def other_layout(p: Tensor, state: dict[str, Tensor]) -> None:
        p.grad = p.grad.t().contiguous().t()

    def no_gradient(p: Tensor, state: dict[str, Tensor]) -> None:
        p.grad = None

    def start_again(p: Tensor, state: dict[str, Tensor]) -> None:
        state.clear()

    def narrow(p: Tensor, state: dict[str, Tensor]) -> None:
        p.data = p.data.bfloat16()
        p.grad = torch.ones_like(p)

    changes = (
        move,
        move_state,
        replace_state,
        replace_counters,
        move_counter,
        share_counter,
        transpose_in_place,
        other_layout,
        no_gradient,
        start_again,
        narrow,
    )
    for change in changes:
        results = []
        for foreach in (None, False):
            torch.manual_seed(0)
            params = [nn.Parameter(torch.randn(6, 6)), nn.Parameter(torch.randn(5))]
            optimizer = GRDA(params, lr=0.1, c=0.5, momentum=0.9, foreach=foreach)
            train(optimizer, steps=2)
            set_gradients(params, seed=9)
            change(params[0], optimizer.state[params[0]])
            optimizer.step()
            optimizer.step()
            results.append(optimizer)
        assert_same(*results)


@pytest.mark.parametrize("c", [0.5, 0.0])
def test_tensors_are_gathered_once(c: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also beside a group that stays dense: anew at each step takes a small network several times as long."""
    gathered = []
    gather = GRDA._init_group

    def count(self: GRDA, group: dict[str, Any], *lists: list[Tensor]) -> None:
        gathered.append(group["c"])
        gather(self, group, *lists)

    monkeypatch.setattr(GRDA, "_init_group", count)
    optimizer = GRDA(prunable_groups(small_model(), include="weights"), lr=0.1, c=c)
    train(optimizer, steps=4)
    assert gathered == [c, 0.0]


class Scaled(Tensor):
    """A subclass whose memory is nobody's business."""


def test_subclasses_of_tensors_are_never_read_as_memory(left: list[int]) -> None:
    p = torch.ones(3).as_subclass(Scaled).requires_grad_()
    p.grad = torch.ones(3)
    GRDA([p], lr=0.1, c=0.0).step()
    assert left
    torch.testing.assert_close(p.detach().as_subclass(Tensor), torch.full((3,), 0.9))


def test_a_replaced_rule_goes_the_readable_way() -> None:
    calls = []

    class Halved(SoftThreshold):
        def write(self, accumulator: Tensor, threshold: Any, weight: Tensor) -> None:
            calls.append(threshold)
            weight.copy_(accumulator / 2)

    class Other(GRDA):
        threshold_rules: ClassVar = {"l1": Halved()}

    p = ones(3)
    p.grad = torch.tensor([0.0, 5.0, 9.5])
    Other([p], lr=0.1, c=1.0).step()
    assert len(calls) == 1
    assert p.tolist() == pytest.approx([0.5, 0.25, 0.025])
    for optimizer, penalty in ((Other, "l1"), (GRDA, "group")):
        with pytest.raises(HyperparameterError, match=f"no fused kernel for penalty='{penalty}'"):
            optimizer([p], lr=0.1, penalty=penalty, fused=True)


def test_the_kernel_goes_by_the_rule_and_not_by_its_name() -> None:
    class Renamed(GRDA):
        threshold_rules: ClassVar = {"l1": HardThreshold(), "l0": SoftThreshold()}

    for name, other in (PENALTIES, PENALTIES[::-1]):
        renamed = Renamed(parameters(), lr=0.1, c=2.0, penalty=name, fused=True)
        loop = GRDA(parameters(), lr=0.1, c=2.0, penalty=other, foreach=False)
        for optimizer in (renamed, loop):
            train(optimizer, steps=3)
        assert_same(renamed, loop)


class Operations(TorchDispatchMode):
    """Collects the names of the operations that torch runs."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("options", "fused"),
    [
        ({}, True),
        ({"fused": True}, True),
        ({"penalty": "l0"}, True),
        ({"fused": True, "foreach": False}, True),
        ({"fused": False}, False),
        ({"foreach": False}, False),
        ({"foreach": True}, False),
        ({"capturable": True}, False),
    ],
)
def test_which_options_take_the_kernel(options: dict[str, Any], fused: bool) -> None:
    optimizer = GRDA([ones(3)], lr=0.1, **options)
    train(optimizer, steps=1)
    set_gradients(optimizer.param_groups[0]["params"], seed=1)
    with Operations() as operations:
        optimizer.step()
    assert any("mul" in n or "add" in n or "sub" in n for n in operations.names) is not fused, (
        operations.names
    )


def test_a_kernel_that_computes_something_else_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    from dirprune.optim import paths

    right = cpu.step

    def at_another_rate(group, rule, lr, tensors, unscale, plans):
        return right(group, rule, 1.001 * lr, tensors, unscale, plans)

    def by_one_rule(group, rule, lr, tensors, unscale, plans):
        return right(group, SoftThreshold(), lr, tensors, unscale, plans)

    try:
        for wrong in (by_one_rule, at_another_rate):
            monkeypatch.setattr(cpu, "step", wrong)
            paths._kernel_or_reason.cache_clear()
            assert "something else" in why_not_fused("cpu")
        optimizers = [GRDA([ones(3)], lr=0.1, foreach=f) for f in (None, False)]
        for optimizer in optimizers:
            train(optimizer, steps=2)
        assert_same(*optimizers)
        with pytest.raises(UsageError, match=r"fused=True: .*something else.*; pass fused=None"):
            GRDA([ones(3)], lr=0.1, fused=True)
    finally:
        paths._kernel_or_reason.cache_clear()


def test_fused_is_refused_where_there_is_no_kernel() -> None:
    with pytest.raises(UsageError, match="fused=True: there is no fused kernel for meta"):
        GRDA([ones(3, device="meta")], lr=0.1, fused=True)
    for other in ("capturable", "differentiable", "foreach"):
        with pytest.raises(HyperparameterError, match="cannot both be True"):
            GRDA([ones(3)], lr=0.1, fused=True, **{other: True})


def test_autograd_notices_that_a_weight_was_changed_between_forward_and_backward() -> None:
    p = ones(3)
    optimizer = GRDA([p], lr=0.1)
    train(optimizer, steps=1)
    loss = (p * p).sum()
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize(
    "options", [{}, {"penalty": "l0"}, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}]
)
@pytest.mark.parametrize("dtype", [*HALF, torch.float32], ids=str)
@pytest.mark.parametrize("channels_last", [False, True])
def test_a_step_takes_no_memory(
    options: dict[str, Any], dtype: torch.dtype, channels_last: bool, left: list[int]
) -> None:
    w = nn.Parameter(torch.randn(256, 256, 1, 1).expand(-1, -1, 2, 1).to(dtype).contiguous())
    if channels_last:
        w.data = w.data.contiguous(memory_format=torch.channels_last)
    w.grad = torch.randn_like(w)
    optimizer = GRDA([w], lr=0.1, **options)
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as first:
        optimizer.step()
    state = [s.nbytes for key, s in optimizer.state[w].items() if key in ("accumulator", "momentum_buffer")]
    assert state == [4 * w.numel()] * len(state)
    taken = [event.self_cpu_memory_usage for event in first.events() if event.self_cpu_memory_usage > 1e5]
    assert taken == state  # the check for a lost shadow takes nothing of the parameter's size
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        optimizer.step()
    assert not left
    assert [event.name for event in profile.events() if event.self_cpu_memory_usage > 1000] == []


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("scale", [2.0**10, 1000.0])
def test_grad_scaler_is_served_by_the_step_itself(scale: float, dtype: torch.dtype, penalty: str) -> None:
    """Where the scale is no power of two, each way rounds the same: the gradients end up equal, too."""

    def scaled_backward(model: nn.Module, scaler: torch.amp.GradScaler, n: int) -> None:
        model.zero_grad()
        generator = torch.Generator().manual_seed(n)
        x, y = (torch.randn(16, k, generator=generator).to(dtype) for k in (6, 3))
        loss = nn.functional.mse_loss(model(x), y)
        scaler.scale(loss * torch.inf if n in (0, 4) else loss).backward()

    models = [small_model(dtype), small_model(dtype)]
    fused, loop = (
        GRDA(model.parameters(), lr=0.1, c=0.1, penalty=penalty, momentum=0.9, fused=fused)
        for model, fused in zip(models, (True, False), strict=True)
    )
    scalers = [torch.amp.GradScaler("cpu", init_scale=scale) for _ in models]
    unscaled: list[GRDA] = []
    for scaler in scalers:
        scaler.unscale_ = lambda o, unscale=scaler.unscale_: (unscaled.append(o), unscale(o))
    for n in range(8):
        for model, optimizer, scaler in zip(models, (fused, loop), scalers, strict=True):
            scaled_backward(model, scaler, n)
            scaler.step(optimizer)
            scaler.update()
        if n not in (0, 4):
            assert_same(fused, loop)
            assert all(
                same_bits(p.grad, q.grad) for p, q in zip(*(m.parameters() for m in models), strict=True)
            )
    assert set(map(id, unscaled)) == {id(loop)}
    assert {s["step"].item() for s in fused.state.values()} == {6}
    assert scalers[0].get_scale() == scale / 4


def test_what_the_kernel_leaves_is_unscaled_too() -> None:
    results = []
    for fused in (True, False):
        p = nn.Parameter(torch.randn(6, 8, generator=torch.Generator().manual_seed(0))[:, ::2])
        q = ones(3)
        optimizer = GRDA([{"params": [p]}, {"params": [q], "fused": False}], lr=0.1, c=0.1, fused=fused)
        scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
        scaler.scale(p.square().sum() + q.square().sum()).backward()
        scaler.step(optimizer)
        results.append(optimizer)
    assert_same(*results)


@pytest.mark.parametrize("copier", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
def test_a_copy_has_its_own_memory(copier: Any) -> None:
    optimizer = GRDA(parameters(), lr=0.1, c=0.5, momentum=0.9)
    train(optimizer, steps=2)
    twin = copier(optimizer)
    before = copy.deepcopy(optimizer)
    train(twin, steps=3, first=2)
    assert_same(optimizer, before)
    train(optimizer, steps=3, first=2)
    assert_same(optimizer, twin)


def step_in_child(optimizer: GRDA, connection) -> None:
    optimizer.step()  # and nothing else, for torch's own operations may wait for ever
    connection.send("done")


def test_a_forked_child_can_step_after_its_parent_did() -> None:
    """The threads of the parent do not exist in the child; waiting for them would be for ever."""
    torch.set_num_threads(2)
    optimizer = GRDA(large(), lr=0.1)
    train(optimizer, steps=1)
    ours, theirs = multiprocessing.Pipe(duplex=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        process = multiprocessing.get_context("fork").Process(target=step_in_child, args=(optimizer, theirs))
        process.start()
    try:
        assert ours.poll(30)
        assert ours.recv() == "done"
    finally:
        process.kill()
        process.join()


def test_inference_mode_makes_no_difference() -> None:
    results = []
    for inference in (False, True):
        p = ones(5)
        optimizer = GRDA([p], lr=0.1, c=0.5)
        for n in range(3):
            set_gradients([p], seed=n)
            with torch.inference_mode(inference and n > 0):
                optimizer.step()
        results.append(optimizer)
    assert_same(*results)


def test_the_whole_of_training_is_the_same() -> None:
    results = []
    for foreach in (None, False):
        model = small_model()
        results.append(GRDA(model.parameters(), lr=0.1, c=0.05, foreach=foreach))
        for n in range(20):
            backward(model, seed=n)
            results[-1].step()
    assert_same(*results)
