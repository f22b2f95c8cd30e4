"""Methods with Adam's direction: the same pruning over AdamW, and gRDA's own adaptive form."""

from dataclasses import replace

import pytest
import torch
from torch.optim import AdamW

from dirprune.errors import UsageError
from dirprune.methods import METHODS, create_method
from dirprune.models import create_model
from dirprune.optim import GRDA
from tests.methods.common import CHANGES, NAMES, TARGET, TARGETED, Run, plan_for

OWN = {name for name in NAMES if not METHODS[name].facts.momentum}  # Adam anyway
REFUSED = {name for name in NAMES if not METHODS[name].facts.adaptive}
ADAM = {"lr": 0.01, "beta2": 0.99, "weight_decay": 0.1}


def test_who_has_no_such_form():
    """SGD's nearest relatives; and STR, whose strength is a weight decay, which AdamW decouples."""
    assert {"l1", "rda", "linbreg", "str"} == REFUSED


@pytest.mark.parametrize("name", sorted({*NAMES} - REFUSED - OWN))
def test_the_optimiser_is_adamw_or_grda(name):
    optimizer = Run(name, **ADAM).optimizer
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


@pytest.mark.parametrize("name", ["sgd", "gradual", "rigl", "st3", "l0", "grda", "grda-l0", "grda-rescaled"])
def test_attention_can_be_pruned(name):
    model = create_model("vit1x16p4", num_classes=3, in_channels=1, image_size=8)
    inputs, labels = torch.randn(12, 1, 8, 8), torch.arange(12) % 3
    plan = replace(plan_for(name, **ADAM), batches=lambda: iter([(inputs, labels)] * 2), total_steps=8)
    method = create_method(name, **CHANGES.get(name, {}))
    optimizer = method.start(model, plan)
    attention = "encoder.layers.encoder_layer_0.self_attention.in_proj_weight"
    assert attention in method.prunable
    before = method.weights()[attention].clone()
    for step in range(1, 9):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(inputs), labels)
        penalty = method.penalty(step)
        (loss if penalty is None else loss + penalty).backward()
        optimizer.step()
        method.after_step(step)
    method.finish()
    assert not torch.equal(model.get_parameter(attention), before)


def test_variational_dropout_has_no_rule_for_attention():
    model = create_model("vit1x16p4", num_classes=3, in_channels=1, image_size=8)
    with pytest.raises(UsageError, match="no rule for MultiheadAttention"):
        create_method("variational-dropout").start(model, plan_for("variational-dropout"))
