"""The comparison against McNemar's standard error, and against its promise on simulated experiments."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import binom, t

from dirprune.tune import non_inferiority


def test_one_seed_is_mcnemar():
    n, only_method, only_reference = 2000, 30, 50
    correct = torch.ones(1, n, dtype=torch.bool)
    reference = correct.clone()
    correct[0, :only_reference] = False
    reference[0, only_reference : only_reference + only_method] = False
    found = non_inferiority(correct, reference, margin=0.005)
    difference = (only_method - only_reference) / n
    error = math.sqrt(only_method + only_reference - (only_method - only_reference) ** 2 / n) / n
    assert found.difference == pytest.approx(difference)
    assert found.lower == pytest.approx(difference - 1.6456 * error, rel=2e-3)
    assert found.upper == pytest.approx(difference + 1.6456 * error, rel=2e-3)


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("n", [1, 50, 287])
def test_answers_that_are_all_alike_show_no_more_than_their_number_allows(n, seeds):
    """The bound is the loss at which no difference among all answers has a probability of 5 %."""
    right = torch.ones(seeds, n, dtype=torch.bool)
    found = non_inferiority(right, right, margin=0.005)
    assert binom.pmf(0, seeds * n, -found.lower) == pytest.approx(0.05)
    assert found.difference == 0
    assert found.upper == -found.lower
    assert found.verdict == ("comparable" if seeds * n > 600 else "undecided")


@pytest.mark.parametrize(
    ("lost", "n", "verdict"), [(0, 1000, "comparable"), (30, 1000, "worse"), (1, 100, "undecided")]
)
def test_verdicts(lost, n, verdict):
    reference = torch.ones(2, n, dtype=torch.bool)
    correct = reference.clone()
    correct[:, :lost] = False
    assert non_inferiority(correct, reference, margin=0.005).verdict == verdict


def test_seeds_that_disagree_widen_the_interval():
    reference = torch.ones(3, 1000, dtype=torch.bool)
    alike, apart = reference.clone(), reference.clone()
    for seed, (same, other) in enumerate(((20, 0), (20, 20), (20, 40))):
        alike[seed, :same] = False
        apart[seed, :other] = False
    widths = [non_inferiority(each, reference, margin=0.005) for each in (alike, apart)]
    assert widths[0].difference == widths[1].difference
    assert widths[1].upper - widths[1].lower > 2 * (widths[0].upper - widths[0].lower)


def test_bounds_are_students_with_satterthwaites_degrees_of_freedom():
    """Of three seeds, whose disagreement makes most of the variance, the degrees are little more than two."""
    lost = np.zeros((3, 1000))
    for seed, count in enumerate((0, 20, 70)):
        lost[seed, :count] = 1
    reference = torch.ones(3, 1000, dtype=torch.bool)
    found = non_inferiority(reference & (torch.from_numpy(lost) == 0), reference, margin=0.005)
    images, seeds = lost.mean(0).var(ddof=1) / 1000, lost.mean(1).var(ddof=1) / 3
    degrees = (images + seeds) ** 2 / (images**2 / 999 + seeds**2 / 2)
    assert 2 < degrees < 3
    reach = t.ppf(0.95, degrees) * math.sqrt(images + seeds)
    assert found.lower == pytest.approx(-lost.mean() - reach)
    assert found.upper == pytest.approx(-lost.mean() + reach)


def test_the_lower_bound_holds_in_at_least_95_of_100_experiments():
    """Images and seeds are both drawn at random; the true difference is that of the generator."""
    draw = torch.Generator().manual_seed(0)
    held = 0
    for _ in range(400):
        ease = torch.rand(400, generator=draw) * 0.3 + 0.7
        shift = 0.02 * torch.randn(3, 1, generator=draw)
        reference = torch.rand(3, 400, generator=draw) < ease
        correct = torch.rand(3, 400, generator=draw) < ease - 0.03 + shift
        held += (
            non_inferiority(correct, reference, margin=0.01).lower <= -0.03 + 0.0015
        )  # clipping at 1 costs a little
    assert held >= 0.95 * 400
