"""Learning-rate factors against the words of the paper's section 4."""

import math

import pytest
import torch

from dirprune.errors import UsageError
from dirprune.train.schedules import SCHEDULES, check_schedule, learning_rate_factor


@pytest.mark.parametrize(
    ("name", "epoch", "epochs", "factor"),
    [
        ("constant", 1, 10, 1.0),
        ("constant", 10, 10, 1.0),
        ("drop", 140, 150, 1.0),
        ("drop", 141, 150, 0.1),
        ("half-linear", 1, 600, 1.0),
        ("half-linear", 300, 600, 1.0),
        ("half-linear", 301, 600, 1 - 0.99 / 240),  # the linear part lasts 40 % of 600 epochs
        ("half-linear", 420, 600, (1 + 0.01) / 2),
        ("half-linear", 540, 600, 0.01),
        ("half-linear", 600, 600, 0.01),
        ("cosine", 5, 10, 0.5),
        ("cosine", 10, 10, 0.0),
    ],
)
def test_factor(name, epoch, epochs, factor):
    assert SCHEDULES[name](epoch / epochs) == pytest.approx(factor, abs=1e-12)


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_stays_between_0_and_1_and_never_rises(name):
    factors = [SCHEDULES[name](epoch / 100) for epoch in range(1, 101)]
    assert all(0 <= factor <= 1 and math.isfinite(factor) for factor in factors)
    assert factors == sorted(factors, reverse=True)


@pytest.mark.parametrize(
    ("name", "arguments", "keywords"),
    [
        ("MultiStepLR", ("milestones=[2,5]", "gamma=0.2"), {"milestones": [2, 5], "gamma": 0.2}),
        ("CosineAnnealingLR", ("T_max=7",), {"T_max": 7}),
        ("OneCycleLR", ("max_lr=1.0", "total_steps=9"), {"max_lr": 1.0, "total_steps": 9}),
    ],
)
def test_a_scheduler_of_torch_gives_the_rates_that_it_gives_in_a_loop(name, arguments, keywords):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0, momentum=0.5)
    scheduler = getattr(torch.optim.lr_scheduler, name)(optimizer, **keywords)
    rates = []
    for _ in range(8):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    factors = [learning_rate_factor(name, arguments, epoch, 8) for epoch in range(1, 9)]
    assert factors == pytest.approx(rates, abs=1e-12)
    assert len(set(factors)) > 2  # else the comparison would say nothing


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("cosin", (), "did you mean 'cosine'"),
        ("StepLr", (), "did you mean 'StepLR'"),
        ("StepLR", (), "step_size"),
        ("StepLR", ("step_size",), "name=value"),
        ("StepLR", ("step_size=__import__('os')",), "name=value"),
        ("ReduceLROnPlateau", (), "takes functions, schedulers or measurements"),
        ("constant", ("gamma=1",), "takes none"),
        ("ExponentialLR", ("gamma='a'",), "fails after epoch 1"),
        ("ExponentialLR", ("gamma=-1",), "a rate cannot be -1 times the base rate"),
        ("ExponentialLR", ("gamma=1e300",), "a rate cannot be inf times the base rate"),
    ],
)
def test_a_schedule_that_cannot_be_made_is_explained(name, arguments, words):
    with pytest.raises(UsageError, match=words.replace("(", r"\(")):
        check_schedule(name, arguments, 3)


def test_a_cosine_of_one_epoch_is_refused():
    check_schedule("cosine", (), 2)
    with pytest.raises(UsageError, match="cosine ends at a rate of 0, which would be the only one"):
        check_schedule("cosine", (), 1)


def test_a_rate_below_zero_is_refused():
    with pytest.raises(UsageError, match="a rate cannot be -1 times the base rate"):
        learning_rate_factor("ExponentialLR", ("gamma=-1",), 1, 4)
