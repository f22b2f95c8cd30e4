"""What is tried next: reproducible, within its range, and steered to the wanted sparsity."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import logit

from dirprune.compare import Candidate, Protocol, Space, Trial
from dirprune.compare.search import best
from dirprune.core.threshold import tuning_function
from dirprune.methods import METHODS, TrainingPlan
from dirprune.train import TrainConfig
from dirprune.train.method import make_method

BASE = TrainConfig(recipe="test", dataset="digits", model="lenet-300-100", c=2e-3, mu=0.55, lr=0.1)


def trial(candidate, group, sparsity=0.5, accuracy=0.9):
    return Trial(candidate, group, (f"run{group}",), sparsity, accuracy, 1.0)


@pytest.mark.parametrize("method", METHODS)
def test_every_proposal_is_a_run_that_its_method_accepts(method):
    facts = METHODS[method].facts
    target = 0.9 if facts.needs_target or facts.strength else None
    space, past = Space(method, BASE), []
    for group in range(6):
        candidate = space.propose(target, past, group)
        config = candidate.config(BASE)
        settings = vars(make_method(config).settings)  # each within its own bounds
        for name, value in candidate.values.items():
            held = settings.get(name, config.momentum if name == "momentum" else config.lr)
            assert held == pytest.approx(value, rel=1e-5)
        past.append(trial(candidate, group, sparsity=0.1 + 0.1 * group))
    assert len({str(t.candidate.values) for t in past}) > 1
    strength = {facts.strength: 0.0} if facts.strength else {}  # steered from the first trial on
    assert {**past[0].candidate.values, **strength} == {**space.default(), **strength}
    momenta = [t.candidate.values.get("momentum") for t in past]
    assert momenta == ([0.0, 0.9] * 3 if facts.momentum else [None] * 6)


def test_proposals_are_the_same_at_every_call_and_differ_between_groups():
    space = Space("rigl", BASE)
    assert space.propose(0.9, [], 3) == space.propose(0.9, [], 3)
    assert space.propose(0.9, [], 3).values != space.propose(0.9, [], 5).values


def test_the_first_candidate_is_the_recipe_but_for_its_strength():
    first = Space("grda", BASE).propose(0.9, [], 0)
    assert replace(first.config(BASE), c=BASE.c) == BASE.with_method("grda")
    # logit(0.9) = 2.2 lies at (2.2 + 3) / 8 of a range, on its logarithmic scale
    low, high = 4e-4, 3.5e-2
    assert first.values["c"] == pytest.approx(low * (high / low) ** ((math.log(9) + 3) / 8), rel=1e-3)


def test_a_strength_that_goes_with_the_rate_keeps_its_place():
    """c at rate .1 does what c / 2 does at .2 where the power is -1, with momentum or without."""
    space = Space("grda-l0", BASE)
    places = [
        space._place(space.searches[0], {"c": c, "lr": lr, "momentum": momentum})
        for c, lr, momentum in [(1e-3, 0.1, 0.0), (5e-4, 0.2, 0.0), (5e-4 * 10**1.5, 0.02, 0.9)]
    ]
    assert places == pytest.approx([places[0]] * 3)


@pytest.mark.parametrize("method", ["sgd", "grda", "l1", "rda", "linbreg"])
def test_settings_with_the_other_momentum_do_much_the_same(method):
    """On a slowly changing gradient, which momentum adds up: weights after 400 steps, of every method."""

    def weights_after(values):
        config = Candidate(method, None, values).config(replace(BASE, prune="weights"))
        torch.manual_seed(0)
        model = torch.nn.Linear(40, 20, bias=False).double()
        plan = TrainingPlan(
            total_steps=400,
            steps_per_epoch=400,
            examples=1,
            lr=config.lr,
            momentum=config.momentum,
            batches=lambda: iter(()),
            include="weights",
        )
        method_ = make_method(config)
        optimizer = method_.start(model, plan)
        aim = torch.randn(20, 40, generator=torch.Generator().manual_seed(1)).double()
        for _ in range(400):
            optimizer.zero_grad()
            (0.01 * (model.weight - aim).square().sum()).backward()
            optimizer.step()
        return model.weight.detach()

    space = Space(method, BASE)
    plain = {**space.default(), **({"l1": 0.004} if method in ("l1", "rda") else {})}
    without, beside = weights_after(plain), weights_after(space.other_momentum(plain))
    unmoved = weights_after({**plain, "momentum": 0.9})
    assert (without - beside).norm() < 0.1 * without.norm()
    assert (without - unmoved).norm() > 3 * (without - beside).norm()


def test_all_methods_try_the_same_rates_and_another_seed_tries_others():
    """But AdaBreg's, whose rate is that of Adam: there it is the place in the range that is the same."""
    drawn = {
        name: Space(name, BASE).propose(0.95, [], 4).values for name in ("grda", "rigl", "gradual", "sgd")
    }
    assert len({values["lr"] for values in drawn.values()}) == 1
    low, high = (math.log(s) for s in (0.03, 0.5))
    place = (math.log(drawn["sgd"]["lr"]) - low) / (high - low)
    adam = Space("adabreg", BASE).propose(0.95, [], 4).values["lr"]
    assert adam == pytest.approx(1e-4 * 100**place, rel=1e-3)
    other = Space("sgd", replace(BASE, seed=1)).propose(None, [], 4).values["lr"]
    assert other != drawn["sgd"]["lr"]


def test_random_draws_fill_a_logarithmic_range_evenly():
    space = Space("rigl", BASE)
    rates = [math.log10(space.drawn(group, 0.0)["lr"]) for group in range(400)]
    low, high = math.log10(0.03), math.log10(0.5)
    assert low <= min(rates)
    assert max(rates) <= high
    assert np.mean(rates) == pytest.approx((low + high) / 2, abs=0.05)


@pytest.mark.parametrize("power", [-1.1, -0.2])
@pytest.mark.parametrize("middle", [3e-4, 2e-3, 1e-2])
def test_the_strength_is_steered_to_the_sparsity(middle, power):
    """A made-up method with a logistic in c and the rate for its sparsity, which the search is not told."""
    protocol = Protocol(
        config=replace(BASE, prune="weights", validation=0.1),
        methods=("grda",),
        sparsities=(0.9, 0.95, 0.98),
        seeds=1,
        trials=6,
    )
    space, past = Space("grda", BASE), []

    def sparsity(values):
        slow = 1 - values["momentum"]
        c = values["c"] * slow**1.1 / (values["lr"] / slow / BASE.lr) ** power
        return 1 / (1 + math.exp(-2 * math.log(c / middle)))

    for index in range(protocol.trials):
        target, group = protocol.trial_target("grda", index)
        if group is None:
            group = best(past, 0.95).group
        candidate = space.propose(target, past, group)
        past.append(trial(candidate, group, sparsity(candidate.values)))
    assert [t.candidate.target for t in past] == [0.95] * 4 + [0.9, 0.98]
    assert past[4].group == past[5].group
    for wanted in protocol.sparsities:
        final = sparsity(space.corrected(best(past, wanted), wanted, past).values)
        assert final == pytest.approx(wanted, abs=0.3 * (1 - wanted))


def test_a_group_shares_all_settings_but_the_strength():
    space = Space("grda", BASE)
    past = [trial(space.propose(0.9, [], 0), 0, 0.2)]
    before, after = past[0].candidate.values, space.propose(0.9, past, 0).values
    assert {**after, "c": 0} == {**before, "c": 0}
    assert after["c"] > before["c"]  # it was too dense
    told = Space("rigl", BASE)
    tried = trial(told.propose(0.9, [], 2), 2)
    assert told.corrected(tried, 0.98, [tried]) == replace(tried.candidate, target=0.98)


@pytest.mark.parametrize(("method", "mu"), [("grda", 0.6), ("grda-l0", 1.0), ("grda-rescaled", 1.0)])
def test_a_longer_run_ends_at_the_threshold_that_was_tried(method, mu):
    """The threshold grows as c n^mu: without a correction the run on all images would be the sparser."""
    space = Space(method, replace(BASE, mu=mu))
    tried = trial(space.propose(0.9, [], 2), 2, 0.9)
    lr, c = (tried.candidate.values[name] for name in ("lr", "c"))
    corrected = space.corrected(tried, 0.9, [tried], longer=1.25).values
    assert tuning_function(5000.0, lr, corrected["c"], mu) == pytest.approx(
        tuning_function(4000.0, lr, c, mu), rel=1e-3
    )
    assert {**corrected, "c": c} == tried.candidate.values


def test_a_method_that_is_told_its_target_is_not_corrected_for_a_longer_run():
    space = Space("gradual", BASE)
    tried = trial(space.propose(0.9, [], 2), 2, 0.9)
    assert space.corrected(tried, 0.9, [tried], longer=1.25) == tried.candidate


def at(group, sparsity, accuracy, method="grda"):
    return trial(Candidate(method, 0.95, {"lr": 0.1 * group}), group, sparsity, accuracy)


def test_the_settings_that_are_most_accurate_at_the_wanted_sparsity_are_taken():
    too_dense, near, untouched = at(0, 0.876, 0.907), at(1, 0.946, 0.869), at(2, 0.0, 0.95)
    lost = at(3, None, None)
    loses = 0.02 * (logit(0.95) - logit(0.876))
    assert 0.869 + loses < 0.907  # so that the denser one is taken, but only just beyond that:
    assert best([too_dense, near, untouched, lost], 0.95) == too_dense
    assert best([at(0, 0.876, 0.867 + loses), near, untouched], 0.95) == near
    assert best([untouched, lost], 0.95) == untouched
    assert best([lost], 0.95) is None
    # What was too sparse is taken as it is.
    assert best([near, at(4, 0.99, 0.87)], 0.95).group == 4
    # A method that is told the target has it: accuracy alone decides.
    assert best([at(0, 0.6, 0.99, "rigl"), at(1, 0.95, 0.95, "rigl")], 0.95).accuracy == 0.99


def test_between_trials_of_one_setting_accuracy_is_interpolated():
    around = [at(0, 0.9, 0.92), at(0, 0.98, 0.80)]
    share = (logit(0.95) - logit(0.9)) / (logit(0.98) - logit(0.9))
    between = (1 - share) * 0.92 + share * 0.80
    assert best([*around, at(1, 0.95, between + 1e-6)], 0.95).group == 1
    assert best([*around, at(1, 0.95, between - 1e-6)], 0.95) == around[0]  # the nearest of the two
    assert best(around, 0.97) == around[1]


@pytest.mark.parametrize(("near", "price"), [(0.96, 0.1), (0.9501, 0.02)])  # the second is too near to say
def test_what_a_denser_trial_loses_is_learnt_from_trials_that_differ_in_the_strength_alone(near, price):
    falls = [at(0, 0.95, 0.80), at(0, near, 0.80 - 0.1 * (logit(near) - logit(0.95)))]
    loses = price * (logit(0.95) - logit(0.85))
    assert best([*falls, at(1, 0.85, 0.80 + loses + 1e-6)], 0.95).group == 1
    assert best([*falls, at(1, 0.85, 0.80 + loses - 1e-6)], 0.95).group == 0


def test_an_accuracy_that_rises_with_the_sparsity_does_not_make_denser_trials_better():
    rises = [at(0, 0.8, 0.70), at(0, 0.9, 0.80)]
    assert best([*rises, at(1, 0.95, 0.7999)], 0.95).group == 1


def test_trials_of_the_same_setting_say_most_of_its_strength():
    """Their sparsity rises slowly with c, that of all other settings steeply."""
    space = Space("grda", BASE)

    def tried(group, c, momentum, per_doubling):
        reached = 1 / (1 + math.exp(-per_doubling * math.log2(c / 0.01)))
        values = {"c": c, "lr": 0.1 - 0.01 * group, "momentum": momentum}
        return trial(Candidate("grda", 0.95, values), group, reached)

    others = [tried(group, c, 0.0, 8.0) for group, c in enumerate((0.0125, 0.013, 0.0135, 0.014))]
    mates = [tried(4, c, 0.0, 2.0) for c in (0.02, 0.03)]
    c = space.corrected(mates[1], 0.98, [*others, *mates]).values["c"]
    assert tried(4, c, 0.0, 2.0).sparsity == pytest.approx(0.98, abs=0.01)


@pytest.mark.parametrize("settings", [1, 6])
def test_a_strength_may_leave_its_range_step_by_step(settings):
    """Whether one setting is tried again and again, or another each time."""
    space, past = Space("grda-l0", BASE), []
    for index in range(6):
        candidate = space.propose(0.95, past, index % settings)
        values = candidate.values
        slow = 1 - values["momentum"]
        strength = values["c"] * slow**1.5 * (values["lr"] / slow / BASE.lr)  # up to 0.002 in its range
        reached = 1 / (1 + math.exp(-2 * math.log(strength / 0.02)))
        past.append(trial(candidate, index % settings, reached))
    assert past[0].sparsity < 0.1
    assert past[-1].sparsity == pytest.approx(0.95, abs=0.03)


def test_with_adams_direction_rates_are_those_of_the_recipe_and_momentum_stays():
    adam = replace(BASE, lr=1e-3, momentum=0.9, beta2=0.999)
    space = Space("gradual", adam)
    drawn = [space.propose(0.95, [], group).values for group in range(2, 30)]
    assert all(3e-4 <= values["lr"] <= 5e-3 for values in drawn)
    assert max(values["lr"] for values in drawn) > 3e-3
    assert {values["momentum"] for values in drawn} == {0.9}
    assert space.propose(0.95, [], 0).values == space.default()
    # the threshold c lr^(3/2) of the range holds at rate .1
    first = Space("grda-l0", adam).propose(0.95, [], 0).values["c"]
    assert first == pytest.approx(Space("grda-l0", BASE).propose(0.95, [], 0).values["c"] * 1000, rel=1e-3)
