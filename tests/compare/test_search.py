"""What is tried next: reproducible, within its range, and steered to the wanted sparsity."""

import math
from dataclasses import replace

import numpy as np
import pytest

from dirprune.compare import Candidate, Space, Trial
from dirprune.compare.search import best
from dirprune.methods import METHODS
from dirprune.train import TrainConfig
from dirprune.train.method import make_method

BASE = TrainConfig(recipe="test", dataset="digits", model="lenet-300-100", c=2e-3, mu=0.55, lr=0.1)


def trial(candidate, index, sparsity=0.5, accuracy=0.9):
    return Trial(candidate, index, f"run{index}", sparsity, accuracy, 1.0)


@pytest.mark.parametrize("method", METHODS)
def test_every_proposal_is_a_run_that_its_method_accepts(method):
    target = 0.9 if METHODS[method].facts.needs_target or METHODS[method].facts.strength else None
    space, past = Space(method, BASE), []
    for index in range(6):
        candidate = space.propose(target, past, index)
        config = candidate.config(BASE)
        settings = vars(make_method(config).settings)  # each within its own bounds
        for name, value in candidate.values.items():
            held = settings.get(name, config.lr)
            assert held == pytest.approx(value, rel=1e-5)
        past.append(trial(candidate, index, sparsity=0.1 + 0.1 * index))
    assert len({str(t.candidate.values) for t in past}) > 1
    assert past[0].candidate.values == space.default()


def test_proposals_are_the_same_at_every_call_and_differ_between_targets():
    space = Space("rigl", BASE)
    assert space.propose(0.9, [], 3) == space.propose(0.9, [], 3)
    assert space.propose(0.9, [], 3).values != space.propose(0.95, [], 3).values


def test_the_first_candidate_is_the_recipe():
    config = Space("grda", BASE).propose(0.9, [], 0).config(BASE)
    assert config == BASE.with_method("grda")


def test_random_draws_fill_a_logarithmic_range_evenly():
    space = Space("rigl", BASE)
    generator = np.random.default_rng(0)
    rates = [math.log10(space.drawn(generator)["lr"]) for _ in range(400)]
    low, high = math.log10(0.01), math.log10(0.3)
    assert low <= min(rates)
    assert max(rates) <= high
    assert np.mean(rates) == pytest.approx((low + high) / 2, abs=0.05)


@pytest.mark.parametrize("wanted", [0.8, 0.9, 0.98])
def test_the_strength_is_steered_to_the_sparsity(wanted):
    """A made-up method whose sparsity follows a logistic in mu and c; the search is told nothing of it."""
    space, past = Space("grda", BASE), []

    def sparsity(values):
        return 1 / (1 + math.exp(-(20 * (values["mu"] - 0.55) + 1.5 * math.log(values["c"] / 1e-3))))

    reached = []
    for index in range(8):
        candidate = space.propose(wanted, past, index)
        reached.append(sparsity(candidate.values))
        past.append(trial(candidate, index, reached[-1]))
    near = [s for s in reached if abs(s - wanted) <= 0.25 * (1 - wanted)]
    assert len(near) >= 2


def test_a_correction_keeps_the_other_settings():
    space = Space("grda", BASE)
    past = [trial(space.propose(0.9, [], 0), 0, 0.2)]
    before, after = past[0].candidate.values, space.propose(0.9, past, 1).values
    assert after["c"] == before["c"]
    assert after["lr"] == before["lr"]
    assert after["mu"] > before["mu"]  # it was too dense


def test_the_most_accurate_of_the_near_ones_is_taken():
    def candidate(mu):
        return Candidate("grda", 0.9, {"mu": mu})

    dense = trial(candidate(0.5), 0, sparsity=0.6, accuracy=0.99)
    near = trial(candidate(0.6), 1, sparsity=0.88, accuracy=0.95)
    nearer = trial(candidate(0.61), 2, sparsity=0.9, accuracy=0.94)
    lost = trial(candidate(0.7), 3, sparsity=None, accuracy=None)
    assert best([dense, near, nearer, lost], 0.9) == near
    assert best([dense, lost], 0.9) == dense  # nothing is near: the nearest
    assert best([lost], 0.9) is None
    # A method that is told the target has it: accuracy alone decides.
    told = [replace(each, candidate=Candidate("rigl", 0.9, {})) for each in (dense, near)]
    assert best(told, 0.9).accuracy == 0.99
