"""Every scheduler of torch drives the learning rate, and the threshold with it."""

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.optim import lr_scheduler

from dirprune.optim import GRDA
from tests.optim.common import ones, parameters, train
from tests.oracles import numpy_grda


class Halving(lr_scheduler.LRScheduler):
    def get_lr(self) -> list[float]:
        return [
            0.5 * group["lr"] if self.last_epoch else group["lr"] for group in self.optimizer.param_groups
        ]


SCHEDULERS: dict[str, Callable[[GRDA], Any]] = {
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda n: 1 / (n + 1)),
    "MultiplicativeLR": lambda o: lr_scheduler.MultiplicativeLR(o, lambda _: 0.9),
    "StepLR": lambda o: lr_scheduler.StepLR(o, 4),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [3, 6]),
    "ConstantLR": lambda o: lr_scheduler.ConstantLR(o, 0.3, 4),
    "LinearLR": lambda o: lr_scheduler.LinearLR(o, 1.0, 0.0, 8),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.8),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.ConstantLR(o, 0.1, 3), lr_scheduler.ExponentialLR(o, 0.9)], [3]
    ),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 8),
    "ChainedScheduler": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(o, 0.1, 3), lr_scheduler.ExponentialLR(o, 0.9)], optimizer=o
    ),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=1),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.1, step_size_up=3, cycle_momentum=False),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 5),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 0.2, total_steps=12, cycle_momentum=False),
    "PolynomialLR": lambda o: lr_scheduler.PolynomialLR(o, 8, 2.0),
    "LRScheduler": Halving,
    "SWALR": lambda o: torch.optim.swa_utils.SWALR(o, 0.01, anneal_epochs=5),
}


def test_every_scheduler_of_torch_is_tried() -> None:
    public = {
        name
        for name, thing in inspect.getmembers(lr_scheduler, inspect.isclass)
        if issubclass(thing, lr_scheduler.LRScheduler) and not name.startswith("_")
    }
    assert public | {"SWALR"} == SCHEDULERS.keys()
    assert set(lr_scheduler.__all__) <= SCHEDULERS.keys()


@pytest.mark.parametrize("tensor_lr", [False, True])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_schedulers_drive_rate_and_threshold(name: str, tensor_lr: bool) -> None:
    p = ones(4, dtype=torch.float64)
    gradients = torch.randn(12, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    lr = torch.tensor(0.1, dtype=torch.float64) if tensor_lr else 0.1
    optimizer = GRDA([p], lr=lr, c=0.2)
    scheduler = SCHEDULERS[name](optimizer)
    rates = []
    for gradient in gradients:
        rates.append(float(optimizer.param_groups[0]["lr"]))
        p.grad = gradient.clone()
        optimizer.step()
        scheduler.step(1.0) if name == "ReduceLROnPlateau" else scheduler.step()
    assert len(set(rates)) > 1
    expected = numpy_grda.grda(np.ones(4), lambda n, _: gradients[n].numpy(), np.maximum(rates, 0), 0.2, 0.6)
    np.testing.assert_allclose(p.detach(), expected.weights[-1], rtol=0, atol=1e-14)
    tau = optimizer.state[p]["threshold"].item()
    assert tau == pytest.approx(expected.thresholds[-1], rel=1e-13)


@pytest.mark.parametrize("name", ["CyclicLR", "OneCycleLR"])
def test_schedulers_that_cycle_the_momentum_do_so_as_for_sgd(name: str) -> None:
    options = {"CyclicLR": (0.01, 0.1, 3), "OneCycleLR": (0.2, 12)}[name]
    pair = (
        GRDA(parameters(), lr=0.1, c=0.0, momentum=0.5),
        torch.optim.SGD(parameters(), lr=0.1, momentum=0.5),
    )
    schedulers = [getattr(lr_scheduler, name)(o, *options) for o in pair]
    for n in range(12):
        for optimizer, scheduler in zip(pair, schedulers, strict=True):
            train(optimizer, steps=1, first=n)
            scheduler.step()
    ours, theirs = (o.param_groups[0]["params"] for o in pair)
    assert all(torch.equal(p, q) for p, q in zip(ours, theirs, strict=True))
