"""The prediction where the answer is known in closed form."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from dirprune.core.threshold import tuning_function
from dirprune.errors import RunFolderError, UsageError
from dirprune.runs import RunFolder
from dirprune.train import Accumulators, TrainConfig, read_accumulators
from dirprune.tune import predict_sparsity
from dirprune.tune.crossing import thresholds_after

CONFIG = TrainConfig(recipe="", dataset="digits", model="lenet5", c=0.01, mu=0.6, lr=0.1, epochs=200)
STEPS = 10


def accumulators_at(epoch, weights, scores, hidden=0):
    """Directional pruning itself: |v| = |w| + (1 - s) tau."""
    threshold = tuning_function(float(epoch * STEPS), lr=0.1, c=0.01, mu=0.6)
    return Accumulators(weights + (1 - scores) * threshold, threshold, epoch * STEPS, len(weights) + hidden)


@pytest.fixture
def valley():
    draw = torch.Generator().manual_seed(0)
    return torch.rand(20000, generator=draw) * 0.1, torch.rand(20000, generator=draw)


def test_directional_pruning_is_predicted_exactly(valley):
    weights, scores = valley
    accumulators = [accumulators_at(epoch, weights, scores) for epoch in (3, 6, 12, 25, 50)]
    end = accumulators_at(200, weights, scores)
    found = predict_sparsity(accumulators, CONFIG, STEPS)
    assert found.sparsity == pytest.approx(end.sparsity, abs=2e-4)
    odds = math.log(found.sparsity / (1 - found.sparsity))
    assert math.log(found.lower / (1 - found.lower)) == pytest.approx(odds - 0.25)
    assert math.log(found.upper / (1 - found.upper)) == pytest.approx(odds + 0.25)


def test_slopes_that_fall_from_doubling_to_doubling_are_followed():
    """Weights move by a slope of their own, which by every doubling becomes 0.7 of itself plus 0.1."""
    draw = np.random.default_rng(0)
    height, slope = draw.uniform(0.01, 0.06, 20000), draw.uniform(-1, 2, 20000)
    epochs = (10, 20, 40, 80, 160)
    at = [tuning_function(float(epoch * STEPS), lr=0.1, c=0.01, mu=0.6) for epoch in epochs]
    accumulators, dead = [], np.zeros(20000, dtype=bool)
    for epoch, threshold, following in zip(epochs, at, [*at[1:], math.nan], strict=True):
        dead |= height <= threshold
        if epoch <= 40:  # what died before the last of them may come back until then
            dead = height <= threshold
            accumulators.append(
                Accumulators(torch.from_numpy(height.copy()), threshold, epoch * STEPS, len(height))
            )
        height = height + slope * (following - threshold)
        slope = 0.7 * slope + 0.1
    found = predict_sparsity(accumulators, replace(CONFIG, epochs=160), STEPS)
    assert 0.1 < accumulators[-1].sparsity < found.sparsity - 0.2
    assert found.sparsity == pytest.approx(dead.mean(), abs=2e-3)


def test_what_is_never_thresholded_counts_as_dense(valley):
    accumulators = [accumulators_at(epoch, *valley) for epoch in (12, 25, 50)]
    half = [accumulators_at(epoch, *valley, hidden=20000) for epoch in (12, 25, 50)]
    whole, shared = (predict_sparsity(each, CONFIG, STEPS).sparsity for each in (accumulators, half))
    assert shared == pytest.approx(whole / 2)


def test_a_rule_that_errs_within_the_accumulators_widens_the_interval(valley):
    weights, scores = valley
    early = [accumulators_at(epoch, weights, scores) for epoch in (3, 6, 12)]
    late = [accumulators_at(epoch, weights, scores * 0.3) for epoch in (25, 50)]
    straight = predict_sparsity([*early[2:], *late], CONFIG, STEPS)
    wary = predict_sparsity([*early, *late], CONFIG, STEPS)
    assert wary.sparsity == straight.sparsity
    assert wary.upper - wary.lower > 1.5 * (straight.upper - straight.lower)
    more = [accumulators_at(1, weights, scores), accumulators_at(2, weights, scores)]
    assert predict_sparsity([*more, *early, *late], CONFIG, STEPS) == wary


def test_two_accumulators_are_too_few(valley):
    with pytest.raises(UsageError, match="three accumulators"):
        predict_sparsity([accumulators_at(epoch, *valley) for epoch in (25, 50)], CONFIG, STEPS)


def test_thresholds_are_those_of_the_schedule():
    config = replace(CONFIG, schedule="half-linear", epochs=20)
    found = thresholds_after(config, 3).numpy()
    expected, n = [0.0], 0
    for epoch in range(1, 21):
        for _ in range(3):
            rate = config.learning_rate(epoch)
            expected.append(expected[-1] + 0.01 * rate**1.1 * ((n + 1) ** 0.6 - n**0.6))
            n += 1
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_a_damaged_file_is_refused(tmp_path):
    with pytest.raises(RunFolderError, match="cannot be read"):
        read_accumulators(RunFolder(tmp_path), 3)
    (tmp_path / "accumulators").mkdir()
    (tmp_path / "accumulators" / "epoch-00003.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}      ")
    with pytest.raises(RunFolderError, match="cannot be read"):
        read_accumulators(RunFolder(tmp_path), 3)
