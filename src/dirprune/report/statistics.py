"""Means, deviations, and paired differences with their confidence intervals."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from scipy.special import stdtrit

from dirprune.errors import UsageError


@dataclass(frozen=True)
class Estimate:
    """Mean and sample standard deviation of n values, and the confidence interval of the mean.

    ``std``, ``low`` and ``high`` are NaN for a single value, which says nothing about its spread, and where a
    value is not finite.
    """

    n: int
    mean: float
    std: float
    low: float
    high: float


def estimate(values: Sequence[float], confidence: float = 0.95) -> Estimate:
    r"""Estimate a mean from a few runs.

    .. math:: \bar x \pm t_{(1 + p) / 2, \, n - 1} \; s / \sqrt n

    with Student's t: the values are taken for independent and normal.

    Args:
        values: One number for each run, at least one.
        confidence: p, in (0, 1).

    Returns:
        The estimate, in the unit of the values.

    Raises:
        UsageError: There are no values, or the confidence is out of range.

    Example:
        >>> round(estimate([1.0, 2.0, 3.0]).high, 6)
        4.484138

    References:
        Student 1908, "The probable error of a mean".
    """
    if not values:
        raise UsageError("a mean needs at least one value, got none")
    if not 0 < confidence < 1:
        raise UsageError(f"the confidence must be in (0, 1), got {confidence}")
    n, mean = len(values), fmean(values)
    if n == 1 or not math.isfinite(mean):
        return Estimate(n, mean, math.nan, math.nan, math.nan)
    deviation = stdev(values)
    reach = float(stdtrit(n - 1, (1 + confidence) / 2)) * deviation / math.sqrt(n)
    return Estimate(n, mean, deviation, mean - reach, mean + reach)


def paired_difference(
    values: Sequence[float], reference: Sequence[float], confidence: float = 0.95
) -> Estimate:
    """Estimate the mean of ``values - reference``, run by run: the same seed, initial weights and data order.

    What the runs of a seed have in common cancels, so that a few seeds say more than two means would.

    Args:
        values: One number for each seed.
        reference: Those of the reference, in the same order of seeds.
        confidence: Of the interval.

    Returns:
        The estimate; the difference is distinguishable from zero where the interval does not hold it.

    Raises:
        UsageError: The numbers of runs differ.

    Example:
        >>> paired_difference([91.0, 92.5, 90.0], [90.0, 91.0, 89.5]).mean
        1.0
    """
    if len(values) != len(reference):
        raise UsageError(f"paired runs come in equal numbers, got {len(values)} and {len(reference)}")
    return estimate([a - b for a, b in zip(values, reference, strict=True)], confidence)
