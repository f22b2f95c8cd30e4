"""What GRDA refuses, and with which words: errors as data."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from dirprune.errors import DirpruneError, HyperparameterError, UsageError
from dirprune.optim import GRDA
from tests.optim.common import ones, train


@dataclass(frozen=True)
class ErrorCase:
    what: str
    exception: type[Exception]
    message: str
    options: dict[str, Any] = field(default_factory=dict)
    params: Callable[[], Any] = lambda: [ones(2)]


shared = ones(2)
ERRORS = [
    ErrorCase("negative lr", HyperparameterError, r"lr must be .* >= 0, got -0.1", {"lr": -0.1}),
    ErrorCase("lr not a number", HyperparameterError, "lr must be a number, got 'fast'", {"lr": "fast"}),
    ErrorCase("lr in words", HyperparameterError, "lr must be a number, got '1e-3'", {"lr": "1e-3"}),
    ErrorCase("c in words", HyperparameterError, "c must be a number, got '5e-4'", {"c": "5e-4"}),
    ErrorCase("lr None", HyperparameterError, "lr must be a number, got None", {"lr": None}),
    ErrorCase("lr NaN", HyperparameterError, "lr must be a finite number", {"lr": math.nan}),
    ErrorCase("lr infinite", HyperparameterError, "lr must be a finite number", {"lr": math.inf}),
    ErrorCase("two lr", HyperparameterError, r"one element, got shape \(2,\)", {"lr": torch.ones(2)}),
    ErrorCase("negative tensor lr", HyperparameterError, "got -1.0", {"lr": torch.tensor(-1.0)}),
    ErrorCase("negative c", HyperparameterError, "c must be .* >= 0, got -1.0", {"c": -1}),
    ErrorCase("c NaN", HyperparameterError, "c must be a finite number", {"c": math.nan}),
    ErrorCase("mu 0", HyperparameterError, r"mu must be in \(0, 1\], got 0", {"mu": 0}),
    ErrorCase("mu above 1", HyperparameterError, r"mu must be in \(0, 1\], got 1.1", {"mu": 1.1}),
    ErrorCase("mu NaN", HyperparameterError, r"mu must be in \(0, 1\], got nan", {"mu": math.nan}),
    ErrorCase("mu not a number", HyperparameterError, "mu must be a number, got 'x'", {"mu": "x"}),
    ErrorCase("momentum", HyperparameterError, "momentum must be .* got -0.5", {"momentum": -0.5}),
    ErrorCase("weight decay", HyperparameterError, "weight_decay must be", {"weight_decay": -0.5}),
    ErrorCase("nesterov alone", HyperparameterError, "nesterov needs momentum > 0", {"nesterov": True}),
    ErrorCase("penalty", HyperparameterError, "'group' or 'rescaled', got 'l2'", {"penalty": "l2"}),
    ErrorCase("kernel", HyperparameterError, "no fused kernel", {"penalty": "group", "fused": True}),
    ErrorCase("cliques", HyperparameterError, "foreach=False", {"foreach": True, "differentiable": True}),
    ErrorCase(
        "group option", HyperparameterError, "mu must be", params=lambda: [{"params": [ones(2)], "mu": 2.0}]
    ),
    ErrorCase("complex", UsageError, "torch.complex64", params=lambda: [ones(2, dtype=torch.complex64)]),
    ErrorCase(
        "integer",
        UsageError,
        "needs parameters of float16, bfloat16, float32, float64, got one of torch.int64",
        params=lambda: [torch.ones(2).long()],
    ),
    ErrorCase(
        "float8", UsageError, "float8_e4m3fn", params=lambda: [torch.ones(2).to(torch.float8_e4m3fn)]
    ),
    ErrorCase("overlapping groups", ValueError, "more than one parameter group",
              params=lambda: [{"params": [shared]}, {"params": [shared]}]),
    ErrorCase("twice in a group", UserWarning, "duplicate parameters", params=lambda: [shared, shared]),
    ErrorCase("a tensor", TypeError, "should be an iterable of Tensors or dicts", params=lambda: ones(2)),
    ErrorCase("nothing", ValueError, "empty parameter list", params=list),
    ErrorCase("a set", TypeError, "ordered collections", params=lambda: [{"params": {ones(2)}}]),
    ErrorCase("not a tensor", TypeError, "can only optimize Tensors", params=lambda: [3.0]),
    ErrorCase("not a leaf", ValueError, "non-leaf", params=lambda: [ones(2) * 2]),
    ErrorCase("some names", ValueError, "names are missing", params=lambda: [("a", ones(2)), ones(2)]),
]  # fmt: skip


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("case", ERRORS, ids=lambda case: case.what)
def test_errors(case: ErrorCase) -> None:
    with pytest.raises(case.exception, match=case.message) as caught:
        GRDA(case.params(), **{"lr": 0.1, **case.options})
    assert "\n" not in str(caught.value)
    if isinstance(caught.value, DirpruneError):
        assert isinstance(caught.value, ValueError)


def test_a_group_that_is_no_dict_is_refused_as_torch_does() -> None:
    with pytest.raises(TypeError, match="must be a dict"):
        GRDA([ones(2)], lr=0.1).add_param_group([ones(2)])
    with pytest.raises(ValueError, match="more than one parameter group"):
        GRDA([shared], lr=0.1).add_param_group({"params": [shared]})


@pytest.mark.filterwarnings("error")
def test_a_rate_that_requires_a_gradient_is_no_cause_for_warnings() -> None:
    for lr in (torch.tensor(0.1, requires_grad=True), torch.tensor([0.1], requires_grad=True)):
        p = ones(2)
        train(GRDA([p], lr=lr), steps=2)
        assert p.requires_grad
        assert p.is_leaf
