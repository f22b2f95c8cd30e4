"""GRDA with beta2: Adam's direction in dual averaging, on every path."""

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from dirprune.errors import HyperparameterError, UsageError
from dirprune.optim import GRDA
from tests.optim.common import backward, parameters, same_bits, set_gradients, small_model, train
from tests.oracles import numpy_grda

ADAM = {"momentum": 0.9, "beta2": 0.99}
OPTIONS = {
    "plain": ADAM,
    "no momentum": {"beta2": 0.99},
    "decay": {**ADAM, "weight_decay": 0.1},
    "eps": {**ADAM, "eps": 0.1},
    "maximize": {**ADAM, "maximize": True},
    "all": {**ADAM, "weight_decay": 0.1, "eps": 0.1, "maximize": True},
}
PROXES = {
    "l1": numpy_grda.soft_threshold,
    "l0": numpy_grda.hard_threshold,
    "group": numpy_grda.group_soft_threshold,
    "rescaled": numpy_grda.rescaled_soft_threshold,
}


def adaptive(params, **options) -> GRDA:
    return GRDA(params, **{"lr": 0.01, "c": 0.0, **ADAM, **options})


@pytest.mark.parametrize("foreach", [None, True])
@pytest.mark.parametrize("penalty", PROXES)
@pytest.mark.parametrize("name", OPTIONS)
def test_equals_the_oracle(name: str, penalty: str, foreach: bool | None) -> None:
    rng = np.random.default_rng(0)
    start, target = rng.normal(size=(6, 5)), rng.normal(size=(6, 5)) * np.linspace(0, 2, 6)[:, None]
    rates = [0.05] * 20 + [0.01] * 20

    def gradient(n, w):
        return (w - target) * (1 + n % 3)

    expected = numpy_grda.grda(start, gradient, rates, 4.0, 0.6, prox=PROXES[penalty], **OPTIONS[name])
    w = nn.Parameter(torch.from_numpy(start.copy()))
    optimizer = GRDA([w], lr=0.1, c=4.0, penalty=penalty, foreach=foreach, **OPTIONS[name])
    for n, rate in enumerate(rates):
        optimizer.param_groups[0]["lr"] = rate
        w.grad = torch.from_numpy(gradient(n, w.detach().numpy()))
        optimizer.step()
        np.testing.assert_allclose(w.detach(), expected.weights[n], rtol=1e-10, atol=1e-11)
    if "maximize" not in OPTIONS[name]:
        assert (w == 0).any()
    assert (w != 0).any()


@pytest.mark.parametrize("foreach", [None, True])
@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("maximize", [False, True])
def test_c_zero_is_adamw(decay: float, foreach: bool | None, maximize: bool) -> None:
    ours, theirs = parameters(torch.float64), parameters(torch.float64)
    optimizer = adaptive(ours, weight_decay=decay, foreach=foreach, maximize=maximize)
    adamw = torch.optim.AdamW(theirs, lr=0.01, betas=(0.9, 0.99), weight_decay=decay, maximize=maximize)
    before = [p.detach().clone() for p in ours]
    for each in (optimizer, adamw):
        train(each, steps=30)
    for p, q, start in zip(ours, theirs, before, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-10, atol=1e-12)
        assert p.numel() == 0 or not torch.equal(p, start)


def test_the_step_does_not_depend_on_the_scale_of_the_gradient() -> None:
    """Which is what it is for: the threshold means the same to layers of small and of large gradients."""
    weights = []
    for scale in (1e-3, 1e3):
        (w,) = params = [nn.Parameter(torch.linspace(-1, 1, 9, dtype=torch.float64))]
        optimizer = adaptive(params, c=1.0, eps=1e-12)
        for step in range(20):
            w.grad = scale * torch.linspace(1, 2, 9, dtype=torch.float64) * (-1) ** (step // 3)
            optimizer.step()
        weights.append(w.detach())
    torch.testing.assert_close(*weights, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrow_weights_have_a_wide_state(dtype: torch.dtype) -> None:
    optimizer = adaptive(parameters(dtype), c=1.0)
    train(optimizer, steps=3)
    for state in optimizer.state.values():
        assert state["accumulator"].dtype == state["exp_avg_sq"].dtype == torch.float32


@pytest.mark.parametrize("accumulator_dtype", [None, torch.bfloat16])
def test_a_state_that_was_saved_goes_on_to_the_bit(accumulator_dtype) -> None:
    kept, cut = (adaptive(parameters(), c=1.0, accumulator_dtype=accumulator_dtype) for _ in range(2))
    train(kept, steps=20)
    train(cut, steps=10)
    params = [p.detach().clone().requires_grad_() for p in cut.param_groups[0]["params"]]
    resumed = adaptive(params, accumulator_dtype=accumulator_dtype)
    resumed.load_state_dict(pickle.loads(pickle.dumps(copy.deepcopy(cut.state_dict()))))
    for step in range(10, 20):
        set_gradients(params, step)
        resumed.step()
    assert all(same_bits(p, q) for p, q in zip(params, kept.param_groups[0]["params"], strict=True))


def test_it_cannot_be_switched_on_in_the_middle() -> None:
    optimizer = GRDA(parameters(), lr=0.01, c=0.0)
    train(optimizer, steps=2)
    optimizer.param_groups[0]["beta2"] = 0.9
    with pytest.raises(UsageError, match="beta2 cannot be switched on after the first step"):
        train(optimizer, steps=1)


def test_momentum_cannot_be_switched_on_in_the_middle_either() -> None:
    """AdamW with beta1 = 0 has the last gradient as its mean; one that begins at 0 would be a tenth of it."""
    optimizer = adaptive(parameters(), momentum=0.0)
    train(optimizer, steps=2)
    optimizer.param_groups[0]["momentum"] = 0.9
    before = [p.detach().clone() for p in optimizer.param_groups[0]["params"]]
    with pytest.raises(UsageError, match="momentum cannot be switched on after the first step with beta2"):
        train(optimizer, steps=1)
    assert all(map(torch.equal, before, optimizer.param_groups[0]["params"]))


@pytest.mark.parametrize("foreach", [None, True])
def test_c_zero_is_adamw_when_a_scheduler_moves_the_momentum_too(foreach: bool | None) -> None:
    ours, theirs = parameters(torch.float64), parameters(torch.float64)
    optimizer = adaptive(ours, foreach=foreach)
    adamw = torch.optim.AdamW(theirs, lr=0.01, betas=(0.9, 0.99), weight_decay=0.0)
    for n in range(12):
        momentum = 0.95 - 0.02 * n
        optimizer.param_groups[0]["momentum"] = momentum
        adamw.param_groups[0]["betas"] = (momentum, 0.99)
        for each in (optimizer, adamw):
            train(each, steps=1, first=n)
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("penalty", ["l1", "l0"])
def test_capturable_is_the_same(penalty: str) -> None:
    plain, captured = (
        adaptive(parameters(torch.float64), c=1.0, penalty=penalty, capturable=capturable)
        for capturable in (False, True)
    )
    for each in (plain, captured):
        train(each, steps=10)
    for p, q in zip(plain.param_groups[0]["params"], captured.param_groups[0]["params"], strict=True):
        torch.testing.assert_close(p, q, rtol=1e-10, atol=1e-12)


def test_compiled_is_as_eager() -> None:
    models = [small_model(), small_model()]
    eager, compiled = (adaptive(model.parameters(), c=1.0) for model in models)
    for seed in range(5):
        for model in models:
            backward(model, seed)
        eager.step()
        torch.compile(compiled.step)()
    for p, q in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"beta2": 1.0}, r"beta2 must be in \[0, 1\), got 1.0"),
        ({"beta2": -0.1}, r"beta2 must be in \[0, 1\)"),
        ({"eps": 0.0}, "eps must be a finite number > 0"),
        ({"momentum": 1.0}, "beta2 needs momentum < 1"),
        ({"nesterov": True}, "nesterov=True does not go with beta2"),
        ({"fused": True}, "fused=True does not go with beta2"),
        ({"differentiable": True}, "differentiable=True does not go with beta2"),
    ],
)
def test_what_does_not_go_together_is_said(options, words: str) -> None:
    with pytest.raises(HyperparameterError, match=words):
        adaptive(parameters(), **options)
