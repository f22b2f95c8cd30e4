"""Whether one method's accuracy is comparable with another's, with the uncertainty of the answer."""

import math
from dataclasses import dataclass
from typing import Literal

from scipy.special import stdtrit
from torch import Tensor

Verdict = Literal["comparable", "worse", "undecided"]


@dataclass(frozen=True)
class Comparison:
    """A paired difference of accuracies, fractions in [-1, 1].

    Attributes:
        difference: Mean over images and seeds.
        lower: One-sided lower bound.
        upper: One-sided upper bound.
        verdict: Whether the loss of accuracy is shown to be smaller than the margin, shown to be greater, or
            neither.
    """

    difference: float
    lower: float
    upper: float
    verdict: Verdict


def non_inferiority(
    correct: Tensor, reference: Tensor, *, margin: float, confidence: float = 0.95
) -> Comparison:
    r"""Test for non-inferiority on the same images and seeds.

    With :math:`d_{si} = 1, 0, -1` where, for seed s and image i, only the method, both or neither, or only
    the reference is right,

    .. math:: \mathrm{SE}^2 = \mathrm{var}_i(\bar d_{\cdot i}) / n + \mathrm{var}_s(\bar d_{s \cdot}) / S

    The first term is McNemar's, the second what seeds add. Noise that is in both counts twice, which widens
    the interval; with two or three seeds the estimated degrees of freedom narrow it, and a bound may be
    missed somewhat more often than the confidence says. With one seed there is no second term, and the answer
    holds for that seed alone.
    The bounds are difference -/+ t * SE with Student's quantile at Satterthwaite's degrees of freedom, and
    never closer than :math:`1 - (1 - q)^{1/n}` with the confidence q, about 3 / n for q = 0.95: from n
    answers that are all alike, seeds times images, no less can be concluded, whatever SE says.
    *Comparable* means that the lower bound lies above minus the margin, *worse* that the upper bound lies
    below it.

    Args:
        correct: bool [S, n], whether the method is right on each image, for each seed.
        reference: bool [S, n], the same for the reference.
        margin: The loss of accuracy that does not matter, a fraction.
        confidence: Of each one-sided bound.

    Returns:
        The difference, its bounds and the verdict.

    Example:
        >>> import torch
        >>> right = torch.arange(1000).expand(3, -1) % 10 > 0
        >>> non_inferiority(right, right, margin=0.005).verdict
        'comparable'
    """
    d = correct.double() - reference.double()
    seeds, images = d.shape
    means = ((d.mean(0), images), (d.mean(1), seeds))
    terms = [(float(mean.var()) / count, count - 1) for mean, count in means if count > 1]
    variance = sum(term for term, _ in terms)
    width = 1 - (1 - confidence) ** (1 / d.numel())
    if variance > 0:
        freedom = variance**2 / sum(term**2 / df for term, df in terms)
        width = max(width, float(stdtrit(freedom, confidence)) * math.sqrt(variance))
    difference = float(d.mean())
    lower, upper = difference - width, difference + width
    verdict: Verdict = "comparable" if lower > -margin else "worse" if upper < -margin else "undecided"
    return Comparison(difference, lower, upper, verdict)
