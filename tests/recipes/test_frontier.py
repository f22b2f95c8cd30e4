"""The variants of the frontier: rules against their definitions, and the steering of their strengths."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import frontier
from dirprune.data import load_dataset
from dirprune.methods import METHODS
from dirprune.runs import RunFolder
from dirprune.train.trainer import Trainer
from frontier_variants import Variants

W = np.linspace(-8, 8, 160_001)
ONE = np.abs(W)  # at tau = 1
PENALTIES = {
    # with slope 1 at zero; MCP to 3, SCAD to 3.7
    "firm": np.where(ONE <= 3, ONE - W**2 / 6, 1.5),
    "scad": np.where(
        ONE <= 1, ONE, np.where(ONE <= 3.7, (2 * 3.7 * ONE - W**2 - 1) / (2 * 2.7), (3.7**2 - 1) / (2 * 2.7))
    ),
    "half": (4 / 54 ** (1 / 3)) ** 1.5 / 2 * ONE**0.5,
}


@pytest.mark.parametrize("name", PENALTIES)
def test_a_rule_is_the_proximal_map_of_its_penalty(name):
    rule = Variants.threshold_rules[name]
    values = torch.tensor([-5.0, -3.2, -1.7, -0.9, 0.0, 0.4, 1.05, 2.4, 2.9, 3.6, 4.2], dtype=torch.float64)
    scale = {"half": 2.0}.get(name, 1.0)  # Xu et al. have no half before the square
    expected = [W[np.argmin(scale * 0.5 * (W - v) ** 2 + scale * PENALTIES[name])] for v in values.tolist()]
    np.testing.assert_allclose(rule(values, 1.0), expected, atol=2e-4)
    np.testing.assert_allclose(rule(0.1 * values, 0.1), 0.1 * np.array(expected), atol=2e-5)


@pytest.mark.parametrize("name", ["firm", "scad", "garrote", "half"])
def test_a_rule_is_zero_within_the_threshold_and_alone_there(name):
    rule = Variants.threshold_rules[name]
    values = torch.tensor([-1.01, -1.0, -0.5, 0.0, 0.99, 1.01, 30.0], dtype=torch.float64)
    assert (rule(values, 1.0) == 0).tolist() == [False, True, True, True, True, False, False]
    assert rule(values, 1.0)[-1] == pytest.approx(30, rel=0.02)  # the bias falls off
    assert torch.equal(rule(values, 0.0), values)


def test_strengths_are_steered_to_the_sparsity():
    def sparsity(c):
        return 1 / (1 + math.exp(-3 * math.log(c / 2e-3)))

    points = []
    for target in frontier.FIRST_SEED:
        c = frontier.aim(points, target, 1e-4)
        points.append((c, sparsity(c)))
    assert points[0] == (1e-4, sparsity(1e-4))
    for target in frontier.TARGETS:
        assert sparsity(frontier.aim(points, target, 1e-4)) == pytest.approx(target, abs=0.2 * (1 - target))


def test_accuracy_is_interpolated_on_the_logit_and_not_told_far_from_the_runs():
    points = [(0.9, 0.8), (0.99, 0.7)]
    middle = 1 / (1 + math.exp(-(math.log(9) + math.log(99)) / 2))
    assert frontier.at(points, middle) == pytest.approx(0.75)
    assert frontier.at(points, 0.9) == pytest.approx(0.8)
    assert frontier.at(points, 0.5) is None
    assert frontier.at(points, 0.999) is None
    assert frontier.at([], 0.9) is None


@pytest.mark.parametrize("name", [n for n, v in frontier.VARIANTS.items() if v.method == "frontier"])
def test_every_variant_trains_and_prunes(name, tmp_path, monkeypatch):
    monkeypatch.setitem(METHODS, "frontier", frontier.ENTRY)
    small = {"dataset": "digits", "mean": (0.3,), "std": (0.38,), "epochs": 2, "precision": "no"}
    monkeypatch.setattr(frontier, "BASE", replace(frontier.BASE, **small))
    monkeypatch.setattr(frontier, "SEEDS", (0,))
    monkeypatch.setattr(frontier, "FIRST_SEED", (0.9,))
    monkeypatch.setattr(frontier, "TARGETS", (0.9,))
    (run,) = frontier.train_variant(name, tmp_path, None)
    assert run["status"] == "finished"
    told = frontier.VARIANTS[name].start is None
    assert run["sparsity"] > (0.88 if told else 0.0)  # seven blocks of ten hold 64 inputs
    assert frontier.train_variant(name, tmp_path, None) == [run]  # what is done is not done again


def trained(name, tmp_path, monkeypatch, epochs=4, target=0.0):
    """A run of a variant and the states of its weights, by name."""
    monkeypatch.setitem(METHODS, "frontier", frontier.ENTRY)
    small = {"dataset": "digits", "mean": (0.3,), "std": (0.38,), "epochs": epochs, "precision": "no"}
    monkeypatch.setattr(frontier, "BASE", replace(frontier.BASE, **small))
    trainer = Trainer(
        frontier.configuration(name, seed=0, c=2e-3, target=target),
        load_dataset("digits"),
        RunFolder(tmp_path),
    )
    trainer.run()
    return trainer._method


def test_what_a_variant_changes(tmp_path, monkeypatch):
    runs = {
        name: trained(name, tmp_path / name, monkeypatch)
        for name in ("hard", "stop growing", "decay of v", "by deviation", "averaging")
    }

    def taus(name):
        return [state["threshold"].item() for state in runs[name].states]

    plain, *_ = taus("hard")
    assert taus("hard") == [plain] * 3
    assert taus("stop growing")[0] < plain
    first, second, third = taus("by deviation")
    assert first > third > second  # of 64, 100 and 300 inputs: the more, the smaller they begin
    v = {name: torch.cat([s["accumulator"].flatten() for s in run.states]) for name, run in runs.items()}
    assert 0 < (v["hard"] - v["decay of v"]).norm() < 0.1 * v["hard"].norm()
    weights = {
        name: torch.cat([w.detach().flatten() for w in run.prunable.values()]) for name, run in runs.items()
    }
    assert torch.equal(v["hard"], v["averaging"])
    assert not torch.equal(weights["hard"], weights["averaging"])
    assert torch.equal(
        weights["averaging"],
        torch.hardshrink(torch.cat([m.flatten() for m in runs["averaging"].averages[:3]]), plain),
    )


def test_a_pattern_keeps_the_greatest_of_every_block(tmp_path, monkeypatch):
    run = trained("pattern", tmp_path, monkeypatch, target=0.9)
    for weight, state in zip(run.prunable.values(), run.states, strict=True):
        v, kept = state["accumulator"].numpy(), weight.detach().numpy()
        expected = np.zeros_like(v)
        for row in range(len(v)):
            for start in range(0, v.shape[1], 10):
                column = start + np.argmax(np.abs(v[row, start : start + 10]))
                expected[row, column] = v[row, column]
        np.testing.assert_array_equal(kept, expected)


def test_a_layer_s_threshold_grows_with_its_gradients(tmp_path, monkeypatch):
    run = trained("by gradient", tmp_path, monkeypatch, epochs=1)
    weights = list(run.prunable.values())
    noise = [1.0, 3.0, 2.0]
    for weight, scale in zip(weights, noise, strict=True):
        weight.grad = torch.full_like(weight, scale)
    run.averages = []
    run.after_step(1)
    sizes = np.array([w.numel() for w in weights])
    mean = (sizes * noise).sum() / sizes.sum()
    *each, dense = run.optimizer.param_groups
    assert [group["c"] for group in each] == pytest.approx([2e-3 * x / mean for x in noise])
    assert dense["c"] == 0
    for weight in weights:
        weight.grad *= 2.0  # a thousandth of the squares is new, and quadrupled
    run.after_step(2)
    assert [float(mean.sqrt()) for mean in run.averages] == pytest.approx([x * 1.003**0.5 for x in noise])
