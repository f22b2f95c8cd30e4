"""Methods with Adam's direction: the same pruning over AdamW, and gRDA's own adaptive form."""

import pytest
import torch
from torch.optim import SGD, AdamW

from dirprune.errors import UsageError
from dirprune.methods import METHODS, create_method
from dirprune.optim import GRDA
from tests.methods.common import NAMES, TARGET, TARGETED, Run

OWN = {name for name in NAMES if not METHODS[name].facts.momentum}  # Adam anyway
REFUSED = {name for name in NAMES if not METHODS[name].facts.adaptive}
ADAM = {"lr": 0.01, "beta2": 0.99, "weight_decay": 0.1}


def test_the_nearest_relatives_alone_have_no_such_form():
    assert {"l1", "rda", "linbreg"} == REFUSED


@pytest.mark.parametrize("name", sorted(set(NAMES) - REFUSED))
def test_the_optimiser_is_adamw_or_grda(name):
    optimizer = Run(name, **ADAM).optimizer
    if name in OWN:
        return
    assert not isinstance(optimizer, SGD)
    if isinstance(optimizer, GRDA):
        assert {(g["momentum"], g["beta2"]) for g in optimizer.param_groups} == {(0.9, 0.99)}
    else:
        assert isinstance(optimizer, AdamW)
        assert {g["betas"] for g in optimizer.param_groups} == {(0.9, 0.99)}
    assert {g["weight_decay"] for g in optimizer.param_groups} >= {0.1}


@pytest.mark.parametrize("name", [name for name in TARGETED if name != "small-dense"])
def test_the_target_is_hit(name):
    run = Run(name, **ADAM).train()
    run.method.finish()
    zeros = sum(int((run.method.weights()[n] == 0).sum()) for n in run.method.prunable)
    total = sum(w.numel() for w in run.method.prunable.values())
    assert abs(zeros - TARGET * total) <= 1


def test_pruned_weights_have_no_momentum_left():
    run = Run("gradual", **ADAM).train()
    for name, parameter in run.method.prunable.items():
        pruned = ~run.method.masks[name].bool()
        assert pruned.any()
        assert not run.optimizer.state[parameter]["exp_avg"][pruned].any()


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_the_others_say_so(name):
    with pytest.raises(UsageError, match="has no form with Adam's direction: leave beta2 at 0"):
        Run(name, **ADAM)


def test_without_threshold_grda_is_the_dense_network_with_adamw():
    weights = []
    for name, changes in (("sgd", {}), ("grda", {"c": 0.0})):
        run = Run(name, dtype=torch.float64, method=create_method(name, **changes), **ADAM).train()
        weights.append(run.method.weights())
    for name, weight in weights[0].items():
        torch.testing.assert_close(weight, weights[1][name], rtol=1e-8, atol=1e-10)
