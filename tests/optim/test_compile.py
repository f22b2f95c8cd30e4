"""torch.compile of the step: the same results, and no recompilation when the rate changes."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

from dirprune.errors import LostShadowWarning
from dirprune.optim import GRDA
from tests.optim.common import OPTIONS, set_gradients

StepOf = Callable[[GRDA], Callable[[], Any]]


@pytest.fixture(autouse=True)
def nothing_compiled() -> None:
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()


def inductor_or_aot_eager() -> str:
    """Inductor where it works, which needs a C++ compiler; else what remains of torch.compile."""
    try:
        torch.compile(lambda x: x + 1, backend="inductor")(torch.ones(2))
    except torch._dynamo.exc.TorchDynamoException:
        return "aot_eager"
    return "inductor"


def make(dtype: torch.dtype, **options) -> tuple[GRDA, list[nn.Parameter]]:
    """An optimiser with one group updated in lists and one updated one by one."""
    generator = torch.Generator().manual_seed(0)
    a, b, c, d = (
        nn.Parameter(torch.randn(shape, generator=generator).to(dtype))
        for shape in [(4, 3), (5,), (), (3, 2)]
    )
    groups = [{"params": [a, b], "foreach": True}, {"params": [c, d], "foreach": False}]
    return GRDA(groups, **options), [a, b, c, d]


def set_rate(optimizer: GRDA, rate: float) -> None:
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def compare(step_of: StepOf, dtype: torch.dtype, make_lr: Callable[[float], Any], **options) -> None:
    """Take 12 eager and 12 compiled steps, at rates that change, and compare everything after each."""
    (eager, ours), (compiled, theirs) = (make(dtype, lr=make_lr(0.1), c=0.5, **options) for _ in range(2))
    step = step_of(compiled)
    tolerance = 1e-13 if dtype == torch.float64 else 1e-5
    for n in range(12):
        for optimizer, params in ((eager, ours), (compiled, theirs)):
            set_gradients(params, seed=n)
            set_rate(optimizer, 0.1 if n < 3 else 0.1 - 0.007 * n)
        eager.step()
        step()
        for p, q in zip(ours, theirs, strict=True):
            torch.testing.assert_close(q, p, rtol=tolerance, atol=tolerance)
            for key, value in eager.state[p].items():
                limit = 1e-13 if key in ("step", "threshold") else tolerance
                torch.testing.assert_close(compiled.state[q][key], value, rtol=limit, atol=limit)
    assert any((p == 0).any() for p in theirs)


def method(backend: Any) -> StepOf:
    return lambda optimizer: torch.compile(optimizer.step, backend=backend)


def function(backend: Any) -> StepOf:
    def step_of(optimizer: GRDA) -> Callable[[], Any]:
        @torch.compile(backend=backend)
        def train_step() -> None:
            optimizer.step()

        return train_step

    return step_of


@pytest.mark.parametrize("how", [method, function])
@pytest.mark.parametrize(
    "options",
    [
        {},
        OPTIONS["all"],
        {"capturable": True},
        {"penalty": "l0"},
        {"penalty": "group"},
        {"penalty": "rescaled"},
    ],
    ids=["plain", "all", "capturable", "l0", "group", "rescaled"],
)
def test_a_compiled_step_equals_an_eager_one(options: dict[str, Any], how: Callable[[Any], StepOf]) -> None:
    compare(how("aot_eager"), torch.float64, torch.tensor, **options)


def test_a_float_rate_that_changes_is_never_stale() -> None:
    """Inductor, given a float that it made dynamic and that is used in two ways, may keep its old value."""
    compare(method(inductor_or_aot_eager()), torch.float32, float)


@pytest.mark.parametrize("make_lr", [float, torch.tensor])
def test_a_rate_that_changes_does_not_recompile(make_lr: Callable[[float], Any]) -> None:
    """A tensor never after the state is there; a float not after torch has seen that it changes."""
    optimizer, params = make(torch.float32, lr=make_lr(0.1))
    counter = CompileCounterWithBackend("aot_eager")
    step = torch.compile(optimizer.step, backend=counter)
    compiled = []
    for n in range(15):
        set_gradients(params, seed=n)
        set_rate(optimizer, 0.1 / (n + 1))
        step()
        compiled.append(counter.frame_count)
    breaks = torch._dynamo.utils.counters["graph_break"]
    assert all("torch._dynamo.graph_break()" in reason for reason in breaks)  # torch's own, around step
    settled = 1 if make_lr is torch.tensor else 5
    assert compiled[settled:] == [compiled[settled]] * (15 - settled)
    assert compiled[settled] <= settled + 1
    assert {s["step"].item() for s in optimizer.state.values()} == {15}


def test_a_compiled_first_step_warns_of_a_lost_shadow_too() -> None:
    weight = nn.Parameter(torch.eye(8) + torch.eye(8).roll(1, 0))
    weight.grad = torch.ones_like(weight)
    step = torch.compile(GRDA([weight], lr=0.1).step, backend="eager")
    with pytest.warns(LostShadowWarning):
        step()
    step()  # a second warning would be an error


def test_compiled_bfloat16_keeps_dtypes() -> None:
    optimizer, params = make(torch.bfloat16, lr=torch.tensor(0.1), c=0.1)
    step = torch.compile(optimizer.step, backend="aot_eager")
    for n in range(2):
        set_gradients(params, seed=n)
        step()
    for p, state in optimizer.state.items():
        assert p.dtype == torch.bfloat16
        assert state["accumulator"].dtype == torch.float32
        assert state["threshold"].dtype == state["step"].dtype == torch.float64
