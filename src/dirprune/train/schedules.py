"""Learning-rate schedules: the factor on the base rate as a function of the fraction of training done.

The fraction is epoch / epochs with epochs counted from 1, as in the paper's experiments, so that the last
epoch has fraction 1.
"""

import math
from collections.abc import Callable
from typing import Literal

ScheduleName = Literal["constant", "drop", "half-linear", "cosine"]

_FINAL_FACTOR = 0.01
_DROP_FACTOR = 0.1
# The published ImageNet runs lower the rate after epoch 140 of 150.
_DROP_AFTER = 140 / 150


def constant(fraction: float) -> float:  # noqa: ARG001 - the shape that all schedules have
    """Return 1 throughout: what suits gRDA best."""
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
    """Return half a period of the cosine from 1 towards 0 (not from the paper; it does not suit gRDA)."""
    return 0.5 * (1.0 + math.cos(math.pi * fraction))


SCHEDULES: dict[ScheduleName, Callable[[float], float]] = {
    "constant": constant,
    "drop": drop,
    "half-linear": half_linear,
    "cosine": cosine,
}
