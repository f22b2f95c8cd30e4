"""The options of GRDA, checked."""

import math
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from dirprune.core.threshold import ThresholdRule
from dirprune.errors import HyperparameterError, UsageError
from dirprune.optim.paths import FUSED_RULES, why_not_fused
from dirprune.optim.update import host_float

_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def without_numpy(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options whose NumPy scalars are Python's: a checkpoint of others is not read by weights only."""
    return {name: value.item() if isinstance(value, np.generic) else value for name, value in options.items()}


def check_options(options: dict[str, Any], rules: Mapping[str, ThresholdRule]) -> None:
    """Raise HyperparameterError for the first option outside its range; ``rules`` are by penalty."""
    lr = options["lr"]
    if isinstance(lr, Tensor) and lr.numel() != 1:
        raise HyperparameterError(f"lr as a tensor must have one element, got shape {tuple(lr.shape)}")
    for name in ("lr", "c", "momentum", "weight_decay"):
        if not 0 <= (value := _number(name, options[name])) < math.inf:
            raise HyperparameterError(f"{name} must be a finite number >= 0, got {value}")
    if not 0 < _number("mu", options["mu"]) <= 1:
        raise HyperparameterError(f"mu must be in (0, 1], got {options['mu']}")
    if not 0 <= _number("beta2", options["beta2"]) < 1:
        raise HyperparameterError(f"beta2 must be in [0, 1), got {options['beta2']}")
    if options["beta2"] != 0:
        _check_adaptive(options)
    if options["nesterov"] and options["momentum"] == 0:
        raise HyperparameterError("nesterov needs momentum > 0, got momentum=0")
    for name, other in (
        ("foreach", "differentiable"),
        ("fused", "differentiable"),
        ("fused", "capturable"),
        ("foreach", "fused"),
    ):
        if options[name] and options[other]:
            raise HyperparameterError(f"{name} and {other} cannot both be True: pass {name}=False")
    if (penalty := options["penalty"]) not in rules:
        raise HyperparameterError(f"penalty must be {' or '.join(map(repr, rules))}, got {penalty!r}")
    if options["fused"] and type(rules[penalty]) not in FUSED_RULES:
        raise HyperparameterError(f"there is no fused kernel for penalty={penalty!r}: pass fused=None")
    if options["accumulator_dtype"] not in (None, torch.bfloat16):
        raise HyperparameterError(
            f"accumulator_dtype must be None or torch.bfloat16, got {options['accumulator_dtype']}"
        )
    if options["accumulator_dtype"] is not None and options["differentiable"]:
        raise HyperparameterError(
            "differentiable needs an accumulator that is not rounded: accumulator_dtype=None"
        )


def _check_adaptive(options: dict[str, Any]) -> None:
    """Raise HyperparameterError for the first option that does not go with Adam's means."""
    if not 0 < _number("eps", options["eps"]) < math.inf:
        raise HyperparameterError(f"eps must be a finite number > 0, got {options['eps']}")
    if not options["momentum"] < 1:
        raise HyperparameterError(f"beta2 needs momentum < 1, got {options['momentum']}")
    for name in ("nesterov", "fused", "differentiable"):
        if options[name]:
            raise HyperparameterError(f"{name}=True does not go with beta2: leave {name} as it is by default")


def _number(name: str, value: Any) -> float:
    """Return an option as a float, or raise HyperparameterError."""
    if not isinstance(value, str):  # which float would read, and a step would not
        with suppress(TypeError, ValueError):
            return host_float(value)
    raise HyperparameterError(f"{name} must be a number, got {value!r}")


def check_params(group: dict[str, Any]) -> None:
    """Raise UsageError for the first parameter that the options of its group do not suit."""
    check_dtypes(group)
    for parameter in group["params"]:
        if group["fused"] and (reason := why_not_fused(parameter.device)):
            raise UsageError(f"fused=True: {reason}; pass fused=None to go another way")


def check_dtypes(group: dict[str, Any]) -> None:
    """Raise UsageError for the first parameter whose dtype, or that of its accumulator, cannot be."""
    for parameter in group["params"]:
        if parameter.dtype not in _DTYPES:
            names = ", ".join(str(dtype).removeprefix("torch.") for dtype in _DTYPES)
            raise UsageError(f"GRDA needs parameters of {names}, got one of {parameter.dtype}")
        if group["accumulator_dtype"] is not None and parameter.dtype == torch.float64:
            raise UsageError(
                "accumulator_dtype=torch.bfloat16 needs parameters of at most 32 bits, got one of float64: "
                "leave accumulator_dtype=None"
            )


def check_sharding(group: dict[str, Any], rule: ThresholdRule) -> None:
    """Raise UsageError for the first parameter whose rows are cut, where the rule needs them whole."""
    if rule.elementwise:
        return
    for parameter in group["params"]:
        if not isinstance(parameter, DTensor) or parameter.ndim < 2:
            continue
        # FSDP2 over tensor parallelism has a placement that is no Shard, and has its dim all the same.
        if not all(w.is_replicate() or getattr(w, "dim", None) == 0 for w in parameter.placements):
            raise UsageError(
                f"penalty={group['penalty']!r} needs whole output channels in each process, but a parameter "
                f"of shape {tuple(parameter.shape)} is placed as {parameter.placements}: shard it along "
                "dimension 0, or give it penalty='l1'"
            )
