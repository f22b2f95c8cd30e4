"""Curves between two points, by the coefficients of their control points."""

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from dirprune.errors import UsageError, unknown

CurveName = Literal["bezier", "chain"]


def coefficients(curve: CurveName, control_points: int, t: float) -> list[float]:
    r"""What each control point contributes to the curve at t.

    .. math:: \phi(t) = \sum_{i=0}^{n} \binom{n}{i} (1-t)^{n-i} t^i \, p_i

    for the Bezier curve of n + 1 points; the chain goes straight from one point to the next, in equal times.
    At t = 0 and t = 1 the first and the last coefficient are 1, the others 0, exactly.

    Args:
        curve: "bezier" or "chain".
        control_points: n + 1 >= 2, both ends included.
        t: Where on the curve, in [0, 1].

    Returns:
        n + 1 coefficients, of sum 1.

    Raises:
        UsageError: A value is out of range.

    Example:
        >>> coefficients("bezier", 3, 0.5), coefficients("chain", 3, 0.25)
        ([0.25, 0.5, 0.25], [0.5, 0.5, 0.0])

    References:
        Garipov et al. 2018, section 3.2.
    """
    if curve not in get_args(CurveName):
        raise UsageError(unknown("curve", curve, get_args(CurveName)))
    if control_points < 2 or not 0 <= t <= 1:
        raise UsageError(f"a curve needs 2 points or more and t in [0, 1]; got {control_points} and {t}")
    n = control_points - 1
    if curve == "bezier":
        return [math.comb(n, i) * (1 - t) ** (n - i) * t**i for i in range(control_points)]
    return [max(0.0, 1 - abs(t * n - i)) for i in range(control_points)]


def point_on_curve(curve: CurveName, ends: tuple[Tensor, Tensor], bends: Tensor, t: float) -> Tensor:
    """Return the weights phi(t).

    Args:
        curve: "bezier" or "chain".
        ends: First and last point, each [d].
        bends: The points between them [n - 1, d]; gradients flow to them.
        t: In [0, 1]; 0 and 1 give the ends to the bit.

    Returns:
        phi(t) [d].

    Example:
        >>> a, b = torch.zeros(2), torch.ones(2)
        >>> point_on_curve("bezier", (a, b), torch.tensor([[0.0, 2.0]]), 0.5)
        tensor([0.2500, 1.2500])
    """
    points = [ends[0], *bends, ends[1]]
    weighted = zip(coefficients(curve, len(points), t), points, strict=True)
    terms = [point if c == 1 else c * point for c, point in weighted if c != 0]
    return torch.stack(terms).sum(dim=0) if len(terms) > 1 else terms[0]


def straight_bends(ends: tuple[Tensor, Tensor], bends: int) -> Tensor:
    """Return bends [n, d] at equal distances on the straight line: where training starts."""
    first, last = ends
    return torch.stack([torch.lerp(first, last, i / (bends + 1)) for i in range(1, bends + 1)])
