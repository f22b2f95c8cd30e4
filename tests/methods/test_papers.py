"""Each method against a closed form, a number or a table of its own paper, or against another library."""

import copy
import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import nn
from torch.func import functional_call
from torch.nn.utils import prune

from dirprune.core.masks import Masks
from dirprune.errors import HyperparameterError, UsageError
from dirprune.methods import METHODS, TrainingPlan, create_method
from dirprune.methods.acdc import AcdcSettings
from dirprune.methods.bregman import AdaBregOptimizer, LinBregOptimizer
from dirprune.methods.dense import matching_width
from dirprune.methods.l0 import BETA, GAMMA, ZETA, HardConcrete
from dirprune.methods.proximal import ProximalSGD
from dirprune.methods.rda import RDAOptimizer
from dirprune.methods.st3 import SoftTopK
from dirprune.methods.str import LearntThreshold
from dirprune.methods.variational_dropout import VariationalDropoutSettings, divergence
from dirprune.models import create_model
from dirprune.optim import GRDA
from dirprune.train.schedules import SCHEDULES
from tests.landscape.problems import blobs, mlp
from tests.methods.common import STEPS, Run, batch, network, plan_for


def soft(v, tau):
    return np.sign(v) * np.maximum(np.abs(v) - tau, 0)


def quadratic(optimizer, w, curvature, minimum, steps):
    """Minimise 1/2 sum a (w - b)^2 with exact gradients."""
    for _ in range(steps):
        w.grad = (curvature * (w - minimum)).detach()
        optimizer.step()
    return w.detach().numpy()


# -- dense references ----------------------------------------------------------------------------------


def test_dense_is_torchs_sgd():
    run = Run("sgd", weight_decay=1e-3, nesterov=True).train(8)
    model = network()
    reference = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=1e-3, nesterov=True)
    for step in range(1, 9):
        inputs, labels = batch(step)
        reference.zero_grad()
        nn.functional.cross_entropy(model(inputs), labels).backward()
        reference.step()
    assert all(torch.equal(a, b) for a, b in zip(run.model.parameters(), model.parameters(), strict=True))


@pytest.mark.parametrize("name", ["lenet-300-100", "lenet5", "vgg16"])
@pytest.mark.parametrize("sparsity", [0.5, 0.9, 0.98])
def test_the_small_network_has_as_many_parameters_as_the_pruned_one_keeps(name, sparsity):
    def build(width):
        size = 32 if name == "vgg16" else 28
        return create_model(name, num_classes=10, in_channels=1, image_size=size, width=width)

    before = torch.get_rng_state()
    width = create_method("small-dense").width(build, plan_for("small-dense", sparsity=sparsity))
    assert torch.equal(torch.get_rng_state(), before), "counting must not disturb the run's random numbers"
    with torch.device("meta"):
        full, small = build(1.0), build(width)
        neighbours = [build(width * factor) for factor in (0.97, 1.03)]
    count = lambda model: sum(p.numel() for p in model.parameters())  # noqa: E731
    weights = sum(p.numel() for p in full.parameters() if p.ndim > 1)
    wanted = count(full) - round(sparsity * weights)
    assert abs(count(small) / wanted - 1) < 0.05
    assert all(abs(count(small) - wanted) <= abs(count(other) - wanted) for other in neighbours)


def test_the_matching_width_of_a_square_law():
    assert matching_width(lambda width: int(1e6 * width**2), 40_000) == pytest.approx(0.2, abs=1e-5)


# -- masks ---------------------------------------------------------------------------------------------


def with_and_without(name, steps, **changes):
    """A run up to the step where a method acts, and the same run with other settings in that step."""
    run = Run(name, sparsity=0.7).train(steps - 1)
    other = copy.deepcopy(run)
    other.method.settings = create_method(name, **changes).settings
    for twin in (run, other):
        torch.manual_seed(0)  # the same dropout
        twin.train(1)
    return run, other


def test_one_shot_magnitude_prunes_as_torch_does():
    run, uncut = with_and_without("magnitude", STEPS // 2, prune_at=1)
    pairs = [(uncut.model[i], "weight") for i in (0, 4, 7)]
    prune.global_unstructured(pairs, prune.L1Unstructured, amount=0.7)
    for layer, (name, mask) in zip((0, 4, 7), run.method.masks.items(), strict=True):
        assert torch.equal(mask, uncut.model[layer].weight_mask.bool()), name
        assert torch.equal(run.model[layer].weight, uncut.model[layer].weight), name


def test_gradual_sparsity_follows_the_cubic_schedule():
    begin, end, every = 4, 30, 4
    seen = {}
    Run("gradual").train(watch=lambda run: seen.__setitem__(run.step, 1 - run.method.masks.kept / 2748))
    for step in range(1, STEPS + 1):
        last = end if step >= end else max(begin, begin + (step - begin) // every * every)
        expected = 0.8 * (1 - (1 - (last - begin) / (end - begin)) ** 3)
        assert seen[step] == pytest.approx(expected, abs=1 / 2748), step


@pytest.mark.parametrize(("name", "equal"), [("gradual-uniform", True), ("gradual", False)])
def test_uniform_gives_each_layer_the_target(name, equal):
    run = Run(name).train()
    sparsities = [1 - float(mask.float().mean()) for mask in run.method.masks.values()]
    assert (max(abs(s - 0.8) for s in sparsities) < 0.01) == equal


def test_random_pruning_knows_nothing_of_the_weights():
    run = Run("random").train()
    mask, weight = run.method.masks["4.weight"], network()[4].weight.detach().abs()
    assert stats.ks_2samp(weight[mask].numpy(), weight[~mask].numpy()).pvalue > 0.01


@pytest.mark.parametrize("count", [1, 2])
def test_snip_saliency_is_the_normalised_effect_of_removing_a_connection(count):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    batches = [(torch.randn(8, 3, dtype=torch.float64), torch.randint(2, (8,))) for _ in range(3)]
    method = create_method("snip", batches=count)
    method.start(model, plan_for("snip", sparsity=0.0, batches=lambda: iter(batches)))
    saliency = method.saliency()
    effects, h = {}, 1e-6
    for name in saliency:
        p = model.get_parameter(name)
        effects[name] = np.zeros(p.shape)
        for index in np.ndindex(*p.shape):  # central difference in the multiplier c_j of the connection
            w, losses = p.data[index].item(), []
            for c in (1 + h, 1 - h):
                p.data[index] = c * w
                losses.append(
                    sum(nn.functional.cross_entropy(model(x), y).item() for x, y in batches[:count])
                )
            p.data[index] = w
            effects[name][index] = abs(losses[0] - losses[1]) / (2 * h)
    total = sum(e.sum() for e in effects.values())
    for name, effect in effects.items():
        np.testing.assert_allclose(saliency[name], effect / total, atol=1e-8)
    assert sum(s.sum() for s in saliency.values()).item() == pytest.approx(1)


def test_snip_refuses_what_it_cannot_rank():
    """A last layer at zero hands no gradient on, and is nothing times its own: all saliencies are zero."""
    model = network()
    nn.init.zeros_(model[-1].weight)
    with pytest.raises(UsageError, match=r"SNIP cannot rank weights where 7\.weight starts at zero"):
        create_method("snip").start(model, plan_for("snip"))
    plan = plan_for("snip", loss=lambda outputs, _: 0 * outputs.sum())
    with pytest.raises(UsageError, match="saliencies are all zero"):
        create_method("snip").start(network(), plan)


def test_snip_leaves_statistics_and_gradients_alone():
    run = Run("snip")
    assert run.model[1].num_batches_tracked == 0
    assert torch.equal(run.model[1].running_mean, torch.zeros(6))
    assert all(p.grad is None for p in run.model.parameters())


def test_set_replaces_its_share_of_every_layer_after_each_epoch_but_the_last():
    before, moved = {}, {}

    def watch(run):
        for name, mask in run.method.masks.items():
            if name in before:
                moved.setdefault(name, {})[run.step] = int((mask & ~before[name]).sum())
                assert int(mask.sum()) == int(before[name].sum())
            before[name] = mask

    run = Run("set").train(watch=watch)
    steps = [step for step, count in moved["4.weight"].items() if count]
    assert steps == [10, 20, 30]
    share = int(0.3 * int(run.method.masks["4.weight"].sum()))
    assert all(0.6 * share < moved["4.weight"][step] <= share for step in steps)  # some are drawn again


def test_set_gives_new_weights_the_deviation_of_the_first_ones():
    first = network()[4].weight.detach().std(correction=0).item()
    run, unmoved = with_and_without("set", 10, drop=0.0)  # an epoch
    new = run.method.masks["4.weight"] & ~unmoved.method.masks["4.weight"]
    values = run.method.prunable["4.weight"].detach()[new]
    assert len(values) > 100
    assert values.std().item() == pytest.approx(first, rel=0.2)
    assert abs(values.mean().item()) < 0.3 * first


@pytest.mark.parametrize("name", ["directional", "snip"])
def test_what_needs_a_batch_says_so_where_there_is_none(name):
    with pytest.raises(UsageError, match=r"needs a training batch; the plan's batches\(\) gave none"):
        Run(name, batches=lambda: iter([])).method.prune()


def test_directional_pruning_is_the_definition_from_the_whole_hessian():
    """Scores, the strength that meets the target, and the weights pushed by it, by NumPy."""
    model, data, names = mlp(), blobs(), ("0.weight", "2.weight")
    x, y = (torch.cat(parts) for parts in zip(*data, strict=True))
    start = {name: model.get_parameter(name).detach().clone() for name in names}
    method = create_method("directional", sharp=3, images=40, tolerance=1e-8)
    plan = plan_for(
        "directional",
        sparsity=0.5,
        examples=40,
        steps_per_epoch=2,
        total_steps=8,
        batches=lambda: iter(data),
    )
    method.start(model, plan)
    masks = method.prune()

    def loss(vector):
        parts = vector.split([t.numel() for t in start.values()])
        held = {name: part.view_as(start[name]) for name, part in zip(names, parts, strict=True)}
        return nn.functional.cross_entropy(functional_call(mlp(), held, (x,)), y)

    flat = torch.cat([t.flatten() for t in start.values()])
    sharp = np.linalg.eigh(torch.autograd.functional.hessian(loss, flat).numpy())[1][:, -3:]
    w, signs = flat.numpy(), np.sign(flat.numpy())
    s = signs * (signs - sharp @ (sharp.T @ signs))
    vanish = np.where(s > 0, np.abs(w) / np.where(s > 0, s, 1), np.inf)
    strength = np.sort(vanish)[round(0.5 * len(w)) - 1]
    expected = np.where(vanish <= strength, 0, signs * (np.abs(w) - strength * s))
    got = torch.cat([model.get_parameter(name).detach().flatten() for name in names]).numpy()
    np.testing.assert_allclose(got, expected, atol=1e-9)
    assert masks.kept == np.count_nonzero(expected)
    by_magnitude = np.abs(w) <= np.sort(np.abs(w))[round(0.5 * len(w)) - 1]
    assert (by_magnitude != (expected == 0)).any()  # else magnitude pruning would do


def test_rigl_drops_the_smallest_and_grows_the_greatest_gradients():
    run, unmoved = with_and_without("rigl", 5, every=1000)
    before = unmoved.method.masks
    fraction = 0.15 * (1 + math.cos(math.pi * 5 / 30))
    for name, mask in run.method.masks.items():
        kept = before[name].numpy()
        weight, gradient = (
            t.detach().numpy() for t in (unmoved.method.prunable[name], run.method.prunable[name].grad)
        )
        count = min(int(fraction * kept.sum()), kept.size - kept.sum())
        alive = np.flatnonzero(kept)
        dropped = alive[np.argsort(np.abs(weight.ravel()[alive]), kind="stable")[:count]]
        survivors = np.setdiff1d(alive, dropped)
        candidates = np.setdiff1d(np.arange(kept.size), survivors)
        grown = candidates[np.argsort(-np.abs(gradient.ravel()[candidates]), kind="stable")[:count]]
        assert set(np.flatnonzero(mask.numpy())) == set(survivors) | set(grown), name
        new = mask & ~before[name]
        assert (run.method.prunable[name][new] == 0).all()
        assert (run.optimizer.state[run.method.prunable[name]]["momentum_buffer"][new] == 0).all()


def test_rigl_moves_nothing_by_the_gradient_of_a_skipped_step():
    """Where float16 overflowed, the scaler skips the step, and the gradient is no measure of anything."""
    run = Run("rigl", method=create_method("rigl", every=1))
    before = {name: mask.clone() for name, mask in run.method.masks.items()}
    for overflow, moved in ((True, False), (False, True)):
        for parameter in run.method.prunable.values():
            parameter.grad = torch.rand_like(parameter)
            if overflow:
                parameter.grad.flatten()[::3] = math.inf
        run.method.after_step(1)
        after = run.method.masks
        assert any(not torch.equal(after[name], mask) for name, mask in before.items()) is moved


def test_rigl_stops_moving_at_three_quarters():
    method = Run("rigl").method
    assert [method.fraction(step) > 0 for step in (5, 6, 25, 30, 35, 40)] == [
        True,
        False,
        True,
        False,
        False,
        False,
    ]


def test_acdc_has_the_phases_of_the_published_imagenet_run():
    """Compressed from epochs 10, 20, ..., 70 and 85; dense from 15, 25, ..., 65 and 75, of 100."""
    phases = AcdcSettings().phases()
    compressed = [round(100 * begin) for begin, _, is_compressed in phases if is_compressed]
    dense = [round(100 * begin) for begin, _, is_compressed in phases if not is_compressed]
    assert compressed == [10, 20, 30, 40, 50, 60, 70, 85]
    assert dense == [0, 15, 25, 35, 45, 55, 65, 75]
    assert [end for _, end, _ in phases[:-1]] == [begin for begin, _, _ in phases[1:]]


def test_acdc_is_dense_and_compressed_when_its_table_says_so():
    seen = {}
    Run("acdc").train(
        watch=lambda run: seen.__setitem__(run.step, run.method.masks.kept < run.method.masks.numel)
    )
    for begin, end, compressed in AcdcSettings().phases():
        for step in range(max(1, round(begin * STEPS)), round(end * STEPS)):
            assert seen[step] == compressed, step


# -- parametrisations ----------------------------------------------------------------------------------


def test_strs_weight_and_gradients_are_the_papers():
    v = torch.tensor([-2.0, -0.3, 0.1, 0.9], dtype=torch.float64, requires_grad=True)
    module = LearntThreshold(v, s_init=-0.5)
    g = 1 / (1 + math.exp(0.5))
    upstream = torch.tensor([1.0, 2.0, 4.0, 8.0], dtype=torch.float64)
    w = module(v)
    w.backward(upstream)
    assert w.tolist() == pytest.approx([-2 + g, 0, 0, 0.9 - g])
    assert v.grad.tolist() == [1, 0, 0, 8]  # nothing reaches a weight at zero
    assert module.s.grad.item() == pytest.approx(
        g * (1 - g) * (1 - 8)
    )  # -g'(s) sum over the rest of sign(v) u


def test_strs_thresholds_decay_towards_a_half():
    method = create_method("str", s_init=-8.0, decay=0.5)
    model = nn.Linear(3, 2)
    optimizer = method.start(model, plan_for("str", momentum=0.0, lr=0.1))
    for _ in range(7):
        for p in model.parameters():
            p.grad = torch.zeros_like(p)
        optimizer.step()
    assert method.modules["weight"].s.item() == pytest.approx(-8 * 0.95**7, rel=1e-6)


def test_st3_thresholds_softly_rescales_units_and_passes_gradients_straight_through():
    v = torch.tensor([[4.0, -3.0, 1.0], [2.5, 0.5, -0.5]], dtype=torch.float64, requires_grad=True)
    module = SoftTopK(v, rescale=True)
    module.threshold.fill_(2.0)
    w = module(v)
    first, second = 1.01 / (7 / 8 + 0.01), 1.01 / (2.5 / 3.5 + 0.01)
    np.testing.assert_allclose(w.detach(), [[2 * first, -first, 0], [0.5 * second, 0, 0]])
    upstream = torch.arange(6, dtype=torch.float64).reshape(2, 3)
    w.backward(upstream)
    assert torch.equal(v.grad, upstream)
    assert torch.equal(module.eval()(v), w)


def test_st3_keeps_exactly_as_many_as_the_schedule_says():
    seen = {}
    Run("st3").train(watch=lambda run: seen.__setitem__(run.step, run.method.sparsity().zeros))
    for step in (2, 8, 13, 20, STEPS):
        fraction = 0.8 if step >= 20 else 0.8 * (1 - (1 - (step - 2) / 18) ** 3)
        assert seen[step] == round(fraction * 2748), step


def test_the_divergence_of_variational_dropout_is_the_integral():
    """The fit against the exact KL(N(1, alpha) || log-uniform), up to its constant, at many alpha.

    -KL = 1/2 log alpha - E log |1 + sqrt(alpha) e| + C, and KL -> 0 as alpha -> infinity.
    """

    def kl(alpha):
        def integrand(e):
            return stats.norm.pdf(e) * math.log(abs(1 + math.sqrt(alpha) * e))

        pole = -1 / math.sqrt(alpha)
        expected = sum(
            integrate.quad(integrand, *sorted(ends))[0]
            for ends in ((-12, max(pole, -12)), (max(pole, -12), 12))
        )
        return expected - 0.5 * math.log(alpha)

    limit = kl(1e8)
    for log_alpha in (-6.0, -3.0, -1.0, 0.0, 1.0, 3.0):
        fitted = divergence(torch.tensor(log_alpha, dtype=torch.float64)).item()
        assert fitted == pytest.approx(kl(math.exp(log_alpha)) - limit, abs=0.01), log_alpha


def test_the_divergence_at_two_points_of_the_paper():
    at = lambda alpha: divergence(torch.tensor(math.log(alpha), dtype=torch.float64)).item()  # noqa: E731
    sigmoid = 1 / (1 + math.exp(-1.87320))
    assert at(1.0) == pytest.approx(0.63576 * (1 - sigmoid) + 0.5 * math.log(2), abs=1e-12)
    assert at(1e12) == pytest.approx(0, abs=1e-9)


def test_variational_noise_has_the_variance_of_noisy_weights():
    torch.manual_seed(0)
    for layer, shape in ((nn.Linear(5, 3), (5,)), (nn.Conv2d(2, 3, 3, padding=1, stride=2), (2, 5, 5))):
        model = nn.Sequential(layer)
        method = create_method("variational-dropout")
        x = torch.randn(1, *shape)
        clean = layer(x).detach()
        method.start(model, plan_for("variational-dropout"))
        gaussian = method.modules["0.weight"]
        gaussian.log_sigma2.data.normal_(std=0.5)
        noisy = model(x.expand(40_000, *shape)).detach()
        weights = layer.weight.detach() + gaussian.log_sigma2.detach().mul(0.5).exp() * torch.randn(
            4000, *layer.weight.shape
        )
        method.finish()
        sampled = torch.stack(
            [torch.func.functional_call(layer, {"weight": w}, (x,)) for w in weights]
        ).detach()
        assert (noisy.mean(dim=0) - clean[0]).abs().max() < 5 * noisy.std(dim=0).max() / 200
        ratio = noisy.var(dim=0) / sampled[:, 0].var(dim=0)
        assert (ratio - 1).abs().max() < 0.2


def test_variational_dropout_refuses_a_layer_without_a_rule_at_the_start():
    model = nn.Sequential(nn.Conv2d(2, 2, 3), nn.ConvTranspose2d(2, 2, 3))
    with pytest.raises(UsageError, match="no rule for ConvTranspose2d: exclude its weight"):
        create_method("variational-dropout").start(model, plan_for("variational-dropout"))
    assert [name for name, _ in model.named_parameters()] == ["0.weight", "0.bias", "1.weight", "1.bias"]


def test_variational_dropout_removes_what_is_above_the_limit():
    method = create_method("variational-dropout")
    model = nn.Linear(2, 1)
    model.weight.data.copy_(torch.tensor([[1.0, 0.1]]))
    method.start(model, plan_for("variational-dropout"))
    assert VariationalDropoutSettings().log_alpha == 3
    method.modules["weight"].log_sigma2.data.fill_(math.log(0.5))  # log alpha: -0.7 and 3.9
    assert method.weights()["weight"].tolist() == [[1.0, 0.0]]


def test_the_divergence_is_warmed_up_and_divided_by_the_examples():
    method = create_method("variational-dropout", kl=2.0, warm_up=0.25)
    model = nn.Linear(3, 2)
    method.start(model, plan_for("variational-dropout", examples=50))
    log_alpha = method.modules["weight"].log_alpha(method.prunable["weight"])
    whole = 2.0 / 50 * divergence(log_alpha).sum().item()
    assert [method.penalty(step).item() / whole for step in (1, 5, 10, 40)] == pytest.approx([0.1, 0.5, 1, 1])


def test_a_hard_concrete_gate_is_open_as_often_as_the_paper_says():
    torch.manual_seed(0)
    for log_alpha in (-2.0, 0.0, 1.5):
        gates = HardConcrete(torch.zeros(200_000), drop_rate=0.5)
        gates.log_alpha.data.fill_(log_alpha)
        z = gates.gate().detach()
        expected = 1 / (1 + math.exp(-(log_alpha - BETA * math.log(-GAMMA / ZETA))))
        assert (z != 0).float().mean().item() == pytest.approx(expected, abs=0.004)
        assert gates.open_probability()[0].item() == pytest.approx(expected, rel=1e-5)
        certainly_open = 1 - 1 / (1 + math.exp(-(BETA * math.log((1 - GAMMA) / (ZETA - 1)) - log_alpha)))
        assert (z == 1).float().mean().item() == pytest.approx(certainly_open, abs=0.004)
        still = gates.eval().gate()[0].item()
        assert still == pytest.approx(min(1, max(0, 1.2 / (1 + math.exp(-log_alpha)) - 0.1)), rel=1e-5)


def test_l0_prices_the_expected_number_of_open_gates():
    method = create_method("l0", strength=3.0, drop_rate=0.5)
    method.start(nn.Linear(10, 20), plan_for("l0", examples=60))
    expected = 3.0 / 60 * 200 / (1 + math.exp(BETA * math.log(0.1 / 1.1)))
    assert method.penalty(1).item() == pytest.approx(expected, rel=0.01)


# -- optimisers ----------------------------------------------------------------------------------------


def vector(values):
    return nn.Parameter(torch.tensor(values, dtype=torch.float64))


A = torch.tensor([1.0, 2.0, 0.5, 4.0], dtype=torch.float64)
B = torch.tensor([1.0, -0.3, 0.06, -2.0], dtype=torch.float64)


def test_proximal_sgd_ends_in_the_minimum_of_the_lasso():
    w = vector([0.5, 0.5, 0.5, 0.5])
    got = quadratic(ProximalSGD([{"params": [w], "l1": 0.2}], lr=0.1), w, A, B, 500)
    np.testing.assert_allclose(got, soft(B.numpy(), 0.2 / A.numpy()), atol=1e-12)
    assert list(got != 0) == [True, True, False, True]


def test_proximal_sgd_without_penalty_is_sgd():
    a, b = vector([1.0, 2.0]), vector([1.0, 2.0])
    options = {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1}
    got = quadratic(ProximalSGD([{"params": [a], "l1": 0.0}], **options), a, A[:2], B[:2], 5)
    assert (got == quadratic(torch.optim.SGD([b], **options), b, A[:2], B[:2], 5)).all()


def test_rda_is_xiaos_closed_form():
    gamma, l1 = 5.0, 0.3  # Xiao's gamma is one over the learning rate
    rng = np.random.default_rng(0)
    w = vector([0.0] * 6)
    options = {"lr": 1 / gamma, "initial_lr": 1 / gamma, "momentum": 0, "weight_decay": 0, "nesterov": False}
    optimizer = RDAOptimizer([{"params": [w], "l1": l1}], options)
    gradients = rng.normal(size=(30, 6)) + np.linspace(0, 1, 6)
    for t, gradient in enumerate(gradients, 1):
        w.grad = torch.tensor(gradient)
        optimizer.step()
        mean = gradients[:t].mean(axis=0)
        expected = np.where(np.abs(mean) <= l1, 0, -math.sqrt(t) / gamma * (mean - l1 * np.sign(mean)))
        np.testing.assert_allclose(w.detach(), expected, atol=1e-12)
    assert 0 < torch.count_nonzero(w) < 6


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_rda_finds_the_minimum_under_every_schedule(schedule):
    """Of (w - 1)^2 / 2 + l1 |w| from 0: 1 - l1, also where the rate has fallen to nothing."""
    w = vector([0.0])
    options = {"lr": 1.0, "initial_lr": 1.0, "momentum": 0, "weight_decay": 0, "nesterov": False}
    optimizer = RDAOptimizer([{"params": [w], "l1": 0.1}], options)
    for step in range(4000):
        optimizer.param_groups[0]["lr"] = SCHEDULES[schedule]((step // 100 + 1) / 40)
        w.grad = w.detach() - 1
        optimizer.step()
    assert w.item() == pytest.approx(0.9, abs=0.02)


def test_rda_with_a_rate_of_zero_stays_at_its_start():
    w = vector([0.5])
    options = {"lr": 0.0, "initial_lr": 1.0, "momentum": 0, "weight_decay": 0, "nesterov": False}
    optimizer = RDAOptimizer([{"params": [w], "l1": 0.1}], options)
    w.grad = torch.ones_like(w)
    optimizer.step()
    assert w.item() == 0.5


def test_a_rate_below_zero_by_rounding_leaves_zeros_zero():
    w = vector([0.0, 1.0])
    optimizer = ProximalSGD([{"params": [w], "l1": 0.2}], lr=0.1)
    optimizer.param_groups[0]["lr"] = -1e-19
    w.grad = torch.zeros_like(w)
    optimizer.step()
    assert w.tolist() == [0.0, 1.0]


def linbreg(w, l1, lr=0.01, delta=1.0, momentum=0.0):
    options = {"lr": lr, "momentum": momentum, "weight_decay": 0.0, "nesterov": False}
    return LinBregOptimizer([{"params": [w], "l1": l1, "delta": delta}], options)


def test_linbreg_is_an_inverse_scale_space():
    """From zero, w_j wakes when the dual n lr a |b| has reached l1: the greatest gradients first."""
    w = vector([0.0] * 4)
    lr = 1 / 128  # a power of two: the dual reaches l1 without rounding
    optimizer, woke = linbreg(w, l1=0.5, lr=lr), {}
    for step in range(1, 4000):
        quadratic(optimizer, w, A, B, 1)
        for j in range(4):
            if w[j] != 0:
                woke.setdefault(j, step)
    for j, step in woke.items():
        assert step == math.floor(0.5 / (lr * abs(A[j] * B[j]).item())) + 1
    assert sorted(woke, key=woke.get) == [3, 0, 1, 2]
    np.testing.assert_allclose(w.detach(), B, atol=1e-3)  # unlike the lasso, without bias in the end


def test_linbreg_without_penalty_is_sgd_with_delta_times_the_rate():
    a, b = vector([1.0, 2.0]), vector([1.0, 2.0])
    got = quadratic(linbreg(a, l1=0.0, lr=0.1, delta=0.5, momentum=0.9), a, A[:2], B[:2], 6)
    expected = quadratic(torch.optim.SGD([b], lr=0.05, momentum=0.9), b, A[:2], B[:2], 6)
    np.testing.assert_allclose(got, expected, atol=1e-14)


def test_linbreg_begins_at_its_sparse_weights():
    run = Run("linbreg")
    start = {name: p.detach().clone() for name, p in run.method.prunable.items()}
    assert 0.05 < run.method.sparsity().layers[3].sparsity < 0.95
    kept = start["4.weight"] != 0
    original = network()[4].weight.detach()
    np.testing.assert_allclose(start["4.weight"][kept], original[kept] / math.sqrt(0.1), rtol=1e-6)
    for group in run.optimizer.param_groups:
        group["lr"] = 0.0
    run.plan.loss(run.model(batch(1)[0]), batch(1)[1]).backward()
    run.optimizer.step()
    for name, p in run.method.prunable.items():
        np.testing.assert_allclose(p.detach(), start[name], rtol=1e-5, atol=1e-7)


def test_adabreg_without_penalty_is_adam():
    a, b = vector([1.0, 2.0]), vector([1.0, 2.0])
    options = {"lr": 0.1, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01}
    breg = AdaBregOptimizer([{"params": [a], "l1": 0.0, "delta": 1.0}], options)
    got = quadratic(breg, a, A[:2], B[:2], 20)
    np.testing.assert_allclose(
        got, quadratic(torch.optim.Adam([b], **options), b, A[:2], B[:2], 20), atol=1e-12
    )


def test_adabreg_wakes_all_weights_at_once_where_the_gradient_is_constant():
    """Adam's direction of a constant gradient g is its sign: w_k = -delta (k lr - l1)+ sign(g)."""
    gradient, lr, l1, delta = torch.tensor([3.0, -0.02, 500.0], dtype=torch.float64), 0.125, 0.5, 2.0
    w = vector([0.0] * 3)
    options = {"lr": lr, "betas": (0.9, 0.999), "eps": 1e-14, "weight_decay": 0.0}
    optimizer = AdaBregOptimizer([{"params": [w], "l1": l1, "delta": delta}], options)
    for step in range(1, 12):
        w.grad = gradient.clone()
        optimizer.step()
        reached = max(0.0, step * lr - l1)
        np.testing.assert_allclose(w.detach(), -delta * reached * gradient.sign(), atol=1e-11)
        if step < 4:
            assert w.detach().count_nonzero() == 0


def test_adabreg_has_no_options_of_sgd():
    assert not {"momentum", "nesterov"} & Run("adabreg").optimizer.param_groups[0].keys()


def test_grda_is_the_packages_optimiser():
    run = Run("grda", include="all").train(6)
    model = network()
    reference = GRDA(model.parameters(), lr=0.05, c=0.03, mu=0.7, momentum=0.9)
    for step in range(1, 7):
        inputs, labels = batch(step)
        reference.zero_grad()
        nn.functional.cross_entropy(model(inputs), labels).backward()
        reference.step()
    assert all(torch.equal(a, b) for a, b in zip(run.model.parameters(), model.parameters(), strict=True))


def test_hard_grda_with_a_linear_threshold_in_numpy():
    """On a quadratic: v by SGD at the thresholded weight, which is v where |v| > c sum of rates^(3/2)."""
    weight, rate, c = vector([0.0] * 4), 0.05, 2.0
    held = create_method("grda-l0").settings
    optimizer = GRDA([weight], lr=rate, c=c, mu=held.mu, penalty=held.penalty)
    got = quadratic(optimizer, weight, A, B, 30)
    v, tau = np.zeros(4), 0.0
    for _ in range(30):
        w = np.where(np.abs(v) > tau, v, 0.0)
        v -= rate * A.numpy() * (w - B.numpy())
        tau += c * rate**1.5
    np.testing.assert_allclose(got, np.where(np.abs(v) > tau, v, 0.0), atol=1e-12)
    assert 0 < np.count_nonzero(got) < 4


def test_constant_threshold_grda_is_linbreg():
    """With mu -> 0 gRDA's threshold is c sqrt(lr) from the first step on: LinBreg with delta = 1."""
    a, b = vector([0.0] * 4), vector([0.0] * 4)
    grda = GRDA([a], lr=0.01, c=0.5 / 0.1, mu=1e-12)
    quadratic(grda, a, A, B, 200)
    quadratic(linbreg(b, l1=0.5), b, A, B, 200)
    np.testing.assert_allclose(a.detach(), b.detach(), atol=1e-9)


def test_the_registry_names_every_method_of_the_comparison():
    wanted = {
        "sgd",
        "small-dense",
        "magnitude",
        "gradual",
        "gradual-erk",
        "random",
        "snip",
        "set",
        "rigl",
        "acdc",
    }
    wanted |= {"str", "variational-dropout", "l0", "st3", "l1", "rda", "linbreg", "adabreg", "grda"}
    assert wanted <= set(METHODS)


def test_plans_out_of_range_are_refused():
    with pytest.raises(ValueError, match="total_steps must be a whole number >= 1, got 0"):
        TrainingPlan(total_steps=0, steps_per_epoch=1, examples=1, lr=0.1, batches=lambda: iter([]))
    with pytest.raises(ValueError, match=r"target sparsity must be in \[0, 1\), got 1"):
        plan_for("rigl", sparsity=1)
    with pytest.raises(ValueError, match="nesterov=True does not go with beta2"):
        plan_for("sgd", nesterov=True, beta2=0.999)


@pytest.mark.parametrize("value", [1.5, 2.0, True, math.nan, 0])
def test_a_whole_number_is_asked_for_where_one_is_counted(value):
    for method, setting in (("snip", "batches"), ("rigl", "every"), ("directional", "sharp")):
        with pytest.raises(HyperparameterError, match=f"{setting} must be a whole number >= 1, got {value}"):
            create_method(method, **{setting: value})
    assert create_method("snip", batches=np.int64(2)).settings.batches == 2
    with pytest.raises(HyperparameterError, match=r"drop must be a finite number in \[0, 1\], got True"):
        create_method("set", drop=True)


def test_names_and_settings_that_are_unknown_are_refused():
    with pytest.raises(ValueError, match="unknown method 'rigel'; did you mean 'rigl'"):
        create_method("rigel")
    with pytest.raises(ValueError, match="unknown setting of rigl 'dorp'; did you mean 'drop'"):
        create_method("rigl", dorp=0.1)
    for name in ("grda-l0", "grda-rescaled"):  # which are their penalty
        with pytest.raises(ValueError, match=f"unknown setting of {name} 'penalty'"):
            create_method(name, penalty="l1")


def test_a_shared_weight_cannot_be_reparametrised():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    with pytest.raises(ValueError, match=r"cannot reparametrise 0\.weight, which several modules share"):
        create_method("str").start(model, plan_for("str"))


def test_masks_of_a_method_are_masks():
    assert isinstance(Run("snip").method.masks, Masks)
