"""Both searches, on answers that are known and on real short runs."""

import io
from dataclasses import replace

import pytest
import torch
from rich.console import Console

from dirprune.data import load_dataset
from dirprune.errors import DivergenceError, UsageError
from dirprune.runs import RunFolder
from dirprune.train import TrainConfig
from dirprune.tune import Prediction, Trial, c_for_sparsity, greatest, greatest_comparable_c
from dirprune.tune.target import epochs_to_keep, next_c, reaches
from dirprune.tune.trials import TrialRunner

CONFIG = TrainConfig(
    recipe="test",
    dataset="digits",
    model="lenet-300-100",
    c=0.01,
    mu=0.6,
    batch_size=64,
    epochs=16,
    mean=(0.305,),
    std=(0.376,),
)


@pytest.fixture
def runner(tmp_path):
    console = Console(file=io.StringIO())
    return TrialRunner(dataset=load_dataset("digits"), folder=tmp_path, console=console, threads=1, at_once=1)


def test_the_next_c_finds_the_root_of_any_increasing_curve():
    def curve(c):
        return 1 / (1 + (c / 0.004) ** -3.1)

    trials, c = [], 0.05
    while c is not None:
        trials.append(Trial(c, 0.6, 0.1, Prediction(curve(c), 0, 1)))
        c = next_c(trials, 0.9)
    assert abs(curve(trials[-1].c) - 0.9) <= 0.005
    assert len(trials) <= 5


def test_where_the_search_stops_the_target_is_reached():
    """Near 1 an interval is narrower than what the search takes for close enough."""
    narrow = Trial(0.01, 0.6, 0.1, Prediction(0.9946, 0.9931, 0.9958))
    assert next_c([narrow], 0.99) is None
    assert reaches(narrow, 0.99)
    assert not reaches(narrow, 0.98)
    assert not reaches(Trial(0.01, 0.6, None, None), 0.9)


def test_after_a_diverged_trial_c_is_halved():
    assert next_c([Trial(0.5, 0.6, None, None)], 0.9) == 0.25
    good = [Trial(c, 0.6, 0.1, Prediction(s, s - 0.1, s + 0.1)) for c, s in ((0.01, 0.706), (0.0208, 0.823))]
    lost = Trial(0.03, 0.6, None, None)
    after = next_c([*good, lost], 0.9)
    assert 0.0208 < after < 0.03  # 0.0208 is known to be good, and too dense
    third = Trial(after, 0.6, 0.1, Prediction(0.85, 0.8, 0.9))
    assert after < next_c([*good, lost, third], 0.9) < 0.03


@pytest.mark.parametrize(("epochs", "expected"), [(4, (1, 2, 4)), (7, (2, 4, 7)), (50, (3, 6, 12, 25, 50))])
def test_accumulators_double(epochs, expected):
    assert epochs_to_keep(epochs) == expected
    assert len(set(expected)) == len(expected)


@pytest.mark.parametrize("penalty", ["l1", "rescaled"])
def test_a_target_is_found_from_the_beginnings_of_runs(penalty, runner):
    tried = []
    config = replace(CONFIG, penalty=penalty)
    (best,) = c_for_sparsity(config, (0.6,), 0.4, 4, runner, tried.append)
    assert best in tried
    assert abs(best.prediction.sparsity - 0.4) < 0.01
    whole = replace(runner, folder=runner.folder / "whole")
    (run,) = whole.train([replace(config, c=best.c)])
    assert run.result()["sparsity"] == pytest.approx(best.prediction.sparsity, abs=0.04)


@pytest.mark.parametrize("target", [0, 1])
def test_a_target_out_of_range_is_refused(target, runner):
    with pytest.raises(UsageError, match="`target` must be in"):
        c_for_sparsity(CONFIG, (0.6,), target, 4, runner)


def test_a_target_with_another_penalty_is_refused(runner):
    with pytest.raises(UsageError, match="of `penalty` l1, l0, rescaled, not those of `penalty` group"):
        c_for_sparsity(replace(CONFIG, penalty="group"), [0.6], 0.9, 4, runner)


@pytest.mark.parametrize("limit", [0.0, 1e-4, 0.0009, 0.02, 1.0])
def test_bisection_finds_the_last_comparable_value(limit, runner, monkeypatch):
    reference = torch.ones(1, 1000, dtype=torch.bool)
    half = torch.arange(1000)[None] % 2 == 0

    def correct(config, seeds, runner):
        right = config.method == "sgd" or config.c <= limit
        return reference if right else None if config.c > 0.05 else half

    monkeypatch.setattr(greatest, "_correct", correct)
    tried = []
    found = greatest_comparable_c(replace(CONFIG, validation=0.2), 1, 0.005, runner, tried.append)
    assert found == max((c for c in greatest.grid() if c <= limit), default=None)
    assert len(tried) <= 4


def test_accuracies_are_measured_on_held_back_images(runner):
    config = replace(CONFIG, epochs=1, validation=0.2)
    tried = []
    found = greatest_comparable_c(config, 2, 0.5, runner, tried.append)
    assert found is not None
    for candidate in tried:
        runs = [
            RunFolder(runner.folder / f"grda-c{candidate.c:g}-mu0.6-seed{seed}").result() for seed in (0, 1)
        ]
        assert {run["measured_on"] for run in runs} == {"validation"}
        mean = sum(run["test_accuracy"] for run in runs) / 2
        assert candidate.accuracy == pytest.approx(mean)
        sgd = sum(RunFolder(runner.folder / f"sgd-seed{s}").result()["test_accuracy"] for s in (0, 1)) / 2
        assert candidate.comparison.difference == pytest.approx(mean - sgd)


def test_without_held_back_images_nothing_is_compared(runner):
    with pytest.raises(UsageError, match="`validation` must be > 0"):
        greatest_comparable_c(CONFIG, 1, 0.005, runner)


def test_divergence(runner):
    wild = replace(CONFIG, lr=1e30, epochs=4, validation=0.2)
    with pytest.raises(DivergenceError, match="SGD diverged"):
        greatest_comparable_c(wild, 1, 0.005, runner)
