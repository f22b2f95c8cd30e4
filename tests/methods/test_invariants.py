"""What must hold of every method in the registry."""

import dataclasses
import math

import pytest
import torch

from dirprune.core.masks import Masks
from dirprune.errors import HyperparameterError, UsageError
from dirprune.methods import METHODS, create_method
from dirprune.methods.base import NoSettings, Work
from dirprune.methods.drop_and_grow import DropAndGrow
from dirprune.methods.dual import DualOptimizer
from dirprune.methods.masked import Gradual, OneShot
from dirprune.methods.parametrised import Parametrised
from tests.methods.common import (
    CHANGES,
    FREE,
    NAMES,
    PRUNING,
    STEPS,
    TARGET,
    TARGETED,
    Run,
    batch,
    finished,
    network,
    plan_for,
    prunable_zeros,
)
from tests.optim.common import same_bits

MASKED = [name for name in PRUNING if hasattr(METHODS[name].method, "apply")]


def same_states(a, b):
    return list(a) == list(b) and all(same_bits(a[key], b[key]) for key in a)


@pytest.mark.parametrize("name", TARGETED)
def test_the_target_is_hit_within_one_weight(name):
    zeros, elements = prunable_zeros(finished(name))
    assert abs(zeros - TARGET * elements) <= 1


@pytest.mark.parametrize("name", FREE)
def test_a_method_without_target_prunes_and_more_strength_prunes_more(name):
    strength = METHODS[name].facts.strength
    base = getattr(create_method(name, **CHANGES[name]).settings, strength)
    weak = create_method(name, **{**CHANGES[name], strength: base / 3})
    zeros, elements = prunable_zeros(finished(name))
    fewer, _ = prunable_zeros(finished(name, method=weak))
    assert fewer < zeros < elements
    assert zeros > 0.05 * elements


@pytest.mark.parametrize("name", MASKED)
def test_masks_are_binary_and_hold_weights_and_momentum_at_zero(name):
    def watch(run):
        assert isinstance(run.method.masks, Masks)
        for key, mask in run.method.masks.items():
            parameter = run.method.prunable[key]
            assert mask.dtype == torch.bool
            assert mask.shape == parameter.shape
            assert (parameter[~mask] == 0).all()
            assert (run.optimizer.state[parameter]["momentum_buffer"][~mask] == 0).all()

    Run(name).train(watch=watch)


@pytest.mark.parametrize("name", [n for n in MASKED if METHODS[n].facts.monotone])
def test_monotone_methods_are_nested(name):
    before = {}

    def watch(run):
        for key, mask in run.method.masks.items():
            if key in before:
                assert not (mask & ~before[key]).any()
            before[key] = mask

    Run(name).train(watch=watch)


@pytest.mark.parametrize("name", NAMES)
def test_a_network_of_which_nothing_can_become_sparse_is_refused(name):
    model = network()
    for index in (0, 4, 7):
        model[index].weight.requires_grad_(False)
    with pytest.raises(UsageError, match="all have requires_grad=False"):
        create_method(name).start(model, plan_for(name))


@pytest.mark.parametrize("name", ["gradual", "gradual-uniform", "gradual-erk", "random"])
def test_pruned_weights_do_not_come_back_in_the_place_of_others_that_are_zero(name):
    run = Run(name).train(10)
    before = dict(run.method.masks)
    for parameter in run.method.prunable.values():
        torch.nn.init.zeros_(parameter)
    run.method.after_step(12)
    assert sum(int(mask.sum()) for mask in before.values()) > run.method.masks.kept
    assert not any((mask & ~before[key]).any() for key, mask in run.method.masks.items())


@pytest.mark.parametrize("name", [n for n in MASKED if not METHODS[n].facts.monotone])
def test_weights_come_back_where_the_facts_say_so(name):
    came_back, before = [], {}

    def watch(run):
        for key, mask in run.method.masks.items():
            came_back.append(bool((mask & ~before.get(key, mask)).any()))
            before[key] = mask

    Run(name).train(watch=watch)
    assert any(came_back)


@pytest.mark.parametrize("name", NAMES)
def test_the_end_is_a_plain_network_that_computes_what_evaluation_showed(name):
    run = Run(name).train()
    inputs, _ = batch(99)
    run.model.eval()
    with torch.no_grad():
        shown = run.model(inputs)
    run.model.train()
    weights = {key: weight.detach().clone() for key, weight in run.method.weights().items()}
    report = run.method.sparsity()
    state = run.finish()
    plain = network()
    assert list(state) == list(plain.state_dict())
    assert type(run.model[0]) is type(plain[0])
    plain.load_state_dict(state)
    assert torch.equal(plain.eval()(inputs), shown)
    assert all(same_bits(state[key], weight) for key, weight in weights.items())
    assert report.zeros == sum(int((p == 0).sum()) for p in plain.parameters())


@pytest.mark.parametrize("name", PRUNING)
def test_excluded_layers_are_never_pruned(name):
    only = lambda parameter, module: parameter == "weight" and getattr(module, "in_features", 0) == 216  # noqa: E731
    run = Run(name, include=only).train()
    state = run.finish()
    assert (state["4.weight"] == 0).any()
    for key in ("0.weight", "1.weight", "1.bias", "4.bias", "7.weight", "7.bias"):
        assert (state[key] != 0).all(), key
        assert not torch.equal(state[key], network().state_dict()[key]), f"{key} was not trained"


@pytest.mark.parametrize("name", [n for n in PRUNING if not METHODS[n].facts.weights_only])
def test_everything_can_be_pruned(name):
    run = Run(name, include="all").train()
    report = run.method.sparsity()
    assert list(run.method.prunable) == [n for n, _ in network().named_parameters()]
    if name in TARGETED:
        assert abs(report.zeros - TARGET * report.numel) <= 1


@pytest.mark.parametrize("name", [n for n in PRUNING if METHODS[n].facts.weights_only])
def test_methods_for_weights_only_say_so(name):
    with pytest.raises(UsageError, match="include 'weights' instead"):
        Run(name, include="all")


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_gives_the_same_result(name):
    assert same_states(finished(name, seed=3), finished(name, seed=3))


@pytest.mark.parametrize("name", ["random", "set", "rigl", "linbreg", "adabreg"])
def test_another_seed_gives_another_choice(name):
    a, b = finished(name, seed=3), finished(name, seed=4)
    assert not torch.equal(a["4.weight"] == 0, b["4.weight"] == 0)


@pytest.mark.parametrize("name", ["random", "set", "rigl", "linbreg", "adabreg", "st3"])
def test_the_default_device_makes_no_difference(name):
    def elsewhere(part):
        def called(*arguments):
            with torch.device("meta"):
                return part(*arguments)

        return called

    method = create_method(name, **CHANGES.get(name, {}))
    method.start, method.after_step = elsewhere(method.start), elsewhere(method.after_step)
    assert same_states(finished(name, method=method), finished(name))


def test_random_choices_do_not_repeat_the_draws_of_the_initial_weights():
    run = Run("random", seed=0)  # the network's own seed
    weight, score = run.model[0].weight.flatten(), run.method.score()["0.weight"].flatten()
    assert abs(torch.corrcoef(torch.stack([weight.detach(), score]))[0, 1]) < 0.3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_a_resume_in_the_middle_is_exact(name, dtype):
    whole = Run(name, dtype)
    whole.train(17)
    checkpoint = whole.checkpoint()
    whole.train(STEPS - 17)
    resumed = Run(name, dtype).restore(checkpoint)
    assert resumed.optimizer.param_groups[0]["initial_lr"] == whole.optimizer.param_groups[0]["initial_lr"]
    resumed.train(STEPS - 17)
    assert same_states(whole.finish(), resumed.finish())


@pytest.mark.parametrize("name", MASKED)
def test_masks_of_another_network_are_refused(name):
    run = Run(name)
    state = run.method.state_dict()
    state["masks"]["0.weight"] = state["masks"]["0.weight"][:1]
    with pytest.raises(UsageError, match="other parameters"):
        run.method.load_state_dict(state)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_only_read(name):
    run = Run(name)
    for step in range(1, STEPS + 1):
        inputs, labels = batch(step)
        loss = run.plan.loss(run.model(inputs), labels)
        penalty = run.method.penalty(step)
        (loss if penalty is None else loss + penalty).backward()
        before = {p: p.grad.clone() for p in run.model.parameters()}
        held = {p: p.grad for p in before}
        run.optimizer.step()
        run.method.after_step(step)
        for p, grad in before.items():
            assert p.grad is held[p]
            assert same_bits(p.grad, grad)
        run.optimizer.zero_grad()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_the_dtype_is_kept(name, dtype):
    state = Run(name, dtype).train().finish()
    for key, tensor in state.items():
        assert tensor.dtype == (torch.int64 if "tracked" in key else dtype)
        assert torch.isfinite(tensor).all()


@pytest.mark.parametrize("name", NAMES)
def test_it_works_under_autocast(name):
    run = Run(name)
    with torch.autocast("cpu", torch.bfloat16):
        logits = run.model(batch(1)[0])
    loss = run.plan.loss(logits, batch(1)[1])
    penalty = run.method.penalty(1)
    (loss if penalty is None else loss + penalty).backward()
    run.optimizer.step()
    run.method.after_step(1)
    assert all(torch.isfinite(weight).all() for weight in run.method.weights().values())


@pytest.mark.parametrize("name", NAMES)
def test_a_target_is_wanted_where_the_facts_say_so(name):
    target = None if METHODS[name].facts.needs_target else 0.5
    with pytest.raises(UsageError, match="target"):
        create_method(name).start(network(), plan_for(name, sparsity=target))


@pytest.mark.parametrize("name", NAMES)
def test_facts_and_settings_are_complete(name):
    entry = METHODS[name]
    settings = {field.name for field in dataclasses.fields(entry.settings)}
    assert any(character.isdigit() for character in entry.facts.paper)
    assert entry.method.__doc__.count("References:") == 1
    for search in entry.facts.search:
        assert search.setting in settings
        assert search.low < search.high
        if search.setting != entry.facts.strength:  # which is steered from the first trial on
            assert search.low <= getattr(entry.settings, search.setting) <= search.high
        assert search.low > 0 or not search.log
    searched = {search.setting for search in entry.facts.search}
    assert (entry.facts.strength in searched) == (name in FREE)


COSTS = {
    (3, 0): ("sgd", "small-dense", "l0"),
    (1, 2): (  # gradient of the weights: dense
        *("grda", "grda-l0", "grda-rescaled", "st3", "l1", "rda", "linbreg", "adabreg"),
    ),
    (0, 3): (  # nothing that is pruned is multiplied
        *("magnitude", "directional", "gradual", "gradual-uniform", "gradual-erk", "random", "snip"),
        *("set", "rigl", "acdc", "str"),
    ),
    (6, 0): ("variational-dropout",),  # means and variances
}
USUAL = {name: Work(*work) for work, names in COSTS.items() for name in names}


@pytest.mark.parametrize("name", NAMES)
def test_what_a_step_costs(name):
    method = Run(name).method
    expected = dict.fromkeys(range(1, STEPS + 1), USUAL[name])
    if name == "rigl":  # every=5, until three quarters of the steps
        expected |= dict.fromkeys((5, 10, 15, 20, 25), Work(1, 2))
    if name == "snip":  # one batch for the saliency
        expected[1] = Work(3, 3)
    assert {step: method.work(step) for step in expected} == expected


@pytest.mark.parametrize("name", PRUNING)
def test_settings_outside_their_range_are_refused(name):
    number = next(
        f.name for f in dataclasses.fields(METHODS[name].settings) if f.type is int or f.type is float
    )
    if name == "str":
        number = "decay"
    with pytest.raises(HyperparameterError, match=f"{number} must be .*, got -1"):
        create_method(name, **{number: -1})
    for value in ("0.5", None, math.nan, math.inf):
        with pytest.raises(HyperparameterError, match=f"{number} must be .*, got {value!r}"):
            create_method(name, **{number: value})


@pytest.mark.parametrize("base", [OneShot, Gradual, DropAndGrow, Parametrised, DualOptimizer])
def test_what_methods_share_is_no_method(base):
    with pytest.raises(TypeError, match="abstract"):
        base([torch.nn.Parameter(torch.ones(1))], {}) if base is DualOptimizer else base(NoSettings())


@pytest.mark.parametrize("name", ["acdc", "magnitude", "snip", "gradual"])
def test_an_unknown_distribution_is_refused_at_once(name):
    with pytest.raises(HyperparameterError, match="did you mean 'erk'"):
        create_method(name, distribution="erx")


@pytest.mark.parametrize("settings", [{"lr": -1.0}, {"eps": 0.0}, {"betas": (1.0, 0.9)}, {"betas": (0.9,)}])
def test_settings_of_adabreg_out_of_range_are_refused(settings):
    with pytest.raises(HyperparameterError, match=next(iter(settings))):
        create_method("adabreg", **settings)
