"""Learning-rate schedules: the factor on the base rate as a function of the fraction of training done.

The fraction is epoch / epochs with epochs counted from 1, as in the paper's experiments, so that the last
epoch has fraction 1. Any scheduler of torch.optim.lr_scheduler that needs no measurements can be named
instead; it is stepped once an epoch, from a base rate of 1.
"""

import ast
import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch

from dirprune.errors import UsageError, unknown

# These wrap other schedulers, take functions, or wait for a measurement.
_NOT_BY_NAME = (
    "LRScheduler",
    "ChainedScheduler",
    "LambdaLR",
    "MultiplicativeLR",
    "ReduceLROnPlateau",
    "SequentialLR",
)
_FINAL_FACTOR = 0.01
_DROP_FACTOR = 0.1
# The published ImageNet runs lower the rate after epoch 140 of 150.
_DROP_AFTER = 140 / 150


def constant(fraction: float) -> float:  # noqa: ARG001 - the shape that all schedules have
    """Return 1 throughout: what suits gRDA as published."""
    return 1.0


def drop(fraction: float) -> float:
    """Return 1, then 0.1 once 140/150 of the epochs are over (Chao et al. 2020, ImageNet)."""
    return 1.0 if fraction <= _DROP_AFTER else _DROP_FACTOR


def half_linear(fraction: float) -> float:
    """Return 1 for the first half, then fall linearly to 0.01 at 90 %, then stay (Chao et al. 2020, CIFAR).

    Example:
        >>> [half_linear(fraction) for fraction in (0.5, 0.7, 0.9, 1.0)]
        [1.0, 0.505, 0.01, 0.01]
    """
    if fraction <= 0.5:
        return 1.0
    if fraction >= 0.9:
        return _FINAL_FACTOR
    return round(1.0 - (1.0 - _FINAL_FACTOR) * (fraction - 0.5) / 0.4, 12)


def cosine(fraction: float) -> float:
    """Return half a period of the cosine, 0 in the last epoch (not from the paper; training warns of it).

    An epoch takes the rate of its end, as all schedules here; ``CosineAnnealingLR`` that of its beginning.
    """
    return 0.5 * (1.0 + math.cos(math.pi * fraction))


SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": constant,
    "drop": drop,
    "half-linear": half_linear,
    "cosine": cosine,
}


def check_schedule(name: str, arguments: tuple[str, ...], epochs: int) -> None:
    """Raise UsageError if there is no such schedule, or its arguments do not suit it and so many epochs."""
    if name not in SCHEDULES:
        learning_rate_factor(name, arguments, 1, epochs)
    elif arguments:
        raise UsageError(f"`schedule_args` belong to a torch scheduler; `schedule` {name} takes none")
    elif not SCHEDULES[name](1 / epochs):
        raise UsageError(f"`schedule` {name} ends at a rate of 0, which would be the only one: train longer")


def learning_rate_factor(name: str, arguments: tuple[str, ...], epoch: int, epochs: int) -> float:
    """Return the factor on the base rate in one epoch.

    Args:
        name: A key of `SCHEDULES`, or a class of torch.optim.lr_scheduler.
        arguments: For the class, each ``name=value`` with a Python literal.
        epoch: Counted from 1.
        epochs: Of the whole schedule.

    Raises:
        UsageError: There is no such schedule, or its arguments do not suit it.

    Example:
        >>> [learning_rate_factor("StepLR", ("step_size=2", "gamma=0.5"), epoch, 4) for epoch in (1, 2, 3, 4)]
        [1.0, 1.0, 0.5, 0.5]
    """
    if name in SCHEDULES:
        return SCHEDULES[name](epoch / epochs)
    return _torch_factors(name, arguments, max(epoch, epochs))[epoch - 1]


@lru_cache(maxsize=16)
def _torch_factors(name: str, arguments: tuple[str, ...], epochs: int) -> list[float]:
    """Let a torch scheduler run over all epochs on its own: the rate then depends on the epoch alone."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))], lr=1.0, momentum=0.9)
    scheduler = _torch_scheduler(name, arguments, optimizer)
    factors = []
    for _ in range(epochs):
        factors.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        try:
            scheduler.step()
        except (TypeError, ValueError, ZeroDivisionError) as error:
            raise UsageError(f"`schedule` {name} fails after epoch {len(factors)}: {error}") from error
    if wrong := [factor for factor in factors if not 0 <= factor < math.inf]:
        raise UsageError(f"`schedule` {name}: a rate cannot be {wrong[0]:g} times the base rate")
    return factors


def _torch_scheduler(
    name: str, arguments: tuple[str, ...], optimizer: torch.optim.Optimizer
) -> torch.optim.lr_scheduler.LRScheduler:
    """Make a scheduler from its name and its arguments as text."""
    known = {
        key: value
        for key, value in vars(torch.optim.lr_scheduler).items()
        if isinstance(value, type)
        and issubclass(value, torch.optim.lr_scheduler.LRScheduler)
        and not key.startswith("_")
        and key not in _NOT_BY_NAME
    }
    if name in _NOT_BY_NAME:
        raise UsageError(
            f"`schedule` {name} takes functions, schedulers or measurements, which a run's "
            "settings cannot hold: name another, or write a loop of your own"
        )
    if name not in known:
        raise UsageError(unknown("schedule", name, [*SCHEDULES, *sorted(known)]))
    if bare := [argument for argument in arguments if "=" not in argument]:
        raise UsageError(f"`schedule_args` must be name=value each, got {bare[0]}")
    try:
        pairs = [argument.split("=", 1) for argument in arguments]
        keywords: dict[str, Any] = {key: ast.literal_eval(value) for key, value in pairs}
        scheduler: torch.optim.lr_scheduler.LRScheduler = known[name](optimizer, **keywords)
    except (TypeError, ValueError, SyntaxError) as error:
        raise UsageError(
            f"`schedule_args` {' '.join(arguments) or '(none)'} do not suit {name}: {error}; "
            "give name=value for each"
        ) from error
    return scheduler
