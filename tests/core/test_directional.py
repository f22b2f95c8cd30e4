"""Oracles: NumPy, and minimisation of the definition on a grid."""

import numpy as np
import pytest
import torch
from torch import nn

from dirprune.core.directional import (
    direction_scores,
    directional_prune,
    directional_solution,
    strength_for,
    vanishing_strengths,
)
from dirprune.errors import UsageError


@pytest.fixture
def case():
    torch.manual_seed(0)
    w = torch.randn(50, dtype=torch.float64)
    u = torch.linalg.qr(torch.randn(50, 20, dtype=torch.float64)).Q.T.contiguous()
    return w, u


def test_scores_are_the_definition_in_numpy(case):
    w, u = (x.numpy() for x in case)
    flat = np.eye(50) - u.T @ u
    np.testing.assert_allclose(direction_scores(*case), np.sign(w) * (flat @ np.sign(w)), rtol=1e-12)


def test_the_mean_score_is_the_squared_length_in_the_flat_subspace(case):
    w, u = case
    flat = torch.eye(50, dtype=torch.float64) - u.T @ u
    expected = (flat @ w.sign()).square().sum() / 50
    assert direction_scores(w, u).mean().item() == pytest.approx(expected.item(), rel=1e-12)


def test_the_solution_minimises_the_definition(case):
    w, u = case
    s, strength = direction_scores(w, u), 0.4
    v = directional_solution(w, s, strength)
    grid = torch.linspace(-4, 4, 80001, dtype=torch.float64)
    for j in torch.nonzero(s > 0).flatten().tolist():
        cost = 0.5 * (w[j] - grid).square() + strength * s[j] * grid.abs()
        assert abs(grid[cost.argmin()] - v[j]) <= 1e-4
    grows = s < 0
    assert grows.any()
    assert (v[grows].abs() > w[grows].abs()).all()
    assert (v[grows].sign() == w[grows].sign()).all()


def test_without_sharp_directions_it_is_the_soft_threshold(case):
    w, _ = case
    s = direction_scores(w, torch.empty(0, 50, dtype=torch.float64))
    assert (s == 1).all()
    expected = np.sign(w.numpy()) * np.maximum(np.abs(w.numpy()) - 0.3, 0)
    np.testing.assert_allclose(directional_solution(w, s, 0.3), expected, atol=1e-15)


def test_with_sharp_directions_alone_nothing_moves(case):
    w, _ = case
    s = direction_scores(w, torch.eye(50, dtype=torch.float64))
    assert torch.equal(directional_solution(w, s, 5.0), w)


def test_the_move_is_in_the_flat_subspace_while_no_weight_vanishes(case):
    w, u = case
    s = direction_scores(w, u)
    small = 0.5 * vanishing_strengths(w, s).min().item()
    assert (u @ (directional_solution(w, s, small) - w)).norm() < 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("target", [0.0, 0.02, 0.31, 0.5, 0.7])
def test_a_target_sparsity_is_met_to_the_weight(case, dtype, target):
    w, u = (x.to(dtype) for x in case)
    state, result = directional_prune({"w": w.view(5, 10)}, u, target)
    zeros = int((state["w"] == 0).sum())
    assert zeros == int(np.ceil(round(target * 50, 6)))
    assert result.sparsity == zeros / 50
    assert state["w"].dtype == dtype
    if zeros:
        below = directional_solution(w, result.scores, result.strength * (1 - 1e-6))
        assert int((below == 0).sum()) < zeros


def test_a_count_of_many_weights_is_met_too():
    numel, kept = 20_000_003, 18_644_637  # of which 1 - kept / numel, times numel, is rounded up
    assert strength_for(1 - kept / numel, torch.arange(numel, dtype=torch.float32)) == numel - kept - 1


def test_a_strength_in_place_of_a_sparsity(case):
    w, u = case
    pruned, result = directional_prune({"w": w}, u, strength=0.4)
    signs = np.sign(w.numpy())
    s = signs * (signs - u.numpy().T @ (u.numpy() @ signs))
    expected = signs * np.maximum(np.abs(w.numpy()) - 0.4 * s, 0)
    np.testing.assert_allclose(pruned["w"].numpy(), expected, atol=1e-14)
    assert (result.strength, result.sparsity) == (0.4, np.mean(expected == 0))


def test_each_tensor_keeps_its_dtype_beside_wider_ones():
    state = {
        "w": torch.tensor([1.0, 3.0], dtype=torch.bfloat16),
        "v": torch.tensor([2.0], dtype=torch.float64),
    }
    pruned, _ = directional_prune(state, torch.empty(0, 3), 1 / 3)
    assert pruned["w"].tolist() == [0.0, 2.0]
    assert {name: tensor.dtype for name, tensor in pruned.items()} == {
        "w": torch.bfloat16,
        "v": torch.float64,
    }


def test_what_is_not_named_stays():
    state = {"w": torch.tensor([1.0, 3.0]), "mean": torch.tensor([1e-3])}
    pruned, _ = directional_prune(state, torch.empty(0, 2), 0.5, names=("w",))
    assert torch.equal(pruned["w"], torch.tensor([0.0, 2.0]))
    assert pruned["mean"] is state["mean"]
    assert torch.equal(state["w"], torch.tensor([1.0, 3.0]))


def test_shared_weights_are_pruned_under_all_of_their_names():
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    net[1].weight = net[0].weight
    state = net.state_dict()
    before = net[0].weight.detach().clone()
    for name in ("0.weight", "1.weight"):
        pruned, _ = directional_prune(state, torch.empty(0, 16), 0.5, names=(name,))
        net.load_state_dict(pruned)
        assert int((net[0].weight == 0).sum()) == 8
        assert torch.equal(net[1].weight, pruned[name])
        with torch.no_grad():
            net[0].weight.copy_(before)


@pytest.mark.parametrize("frozen", [nn.BatchNorm1d(3), nn.Linear(3, 3).requires_grad_(False)])
def test_what_the_eigenvectors_are_of_must_be_named_where_more_is_held(frozen):
    net = nn.Sequential(nn.Linear(4, 3), frozen)
    trained = tuple(name for name, weight in net.named_parameters() if weight.requires_grad)
    d = sum(net.state_dict()[name].numel() for name in trained)
    with pytest.raises(UsageError, match=r"\(0, \d+\): name the tensors that they are of \(names=\.\.\.\)"):
        directional_prune(net.state_dict(), torch.empty(0, d), 0.5)
    pruned, result = directional_prune(net.state_dict(), torch.empty(0, d), 0.5, names=trained)
    assert sum(int((pruned[name] == 0).sum()) for name in trained) == round(result.sparsity * d)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: direction_scores(torch.ones(3), torch.ones(1, 2)), "got (3,) and (1, 2)"),
        (lambda: direction_scores(torch.ones(2), torch.ones(1, 2)), "orthonormal"),
        *(
            (lambda s=s: directional_solution(torch.ones(2), torch.ones(2), s), "a finite number >= 0")
            for s in (-1.0, float("nan"), float("inf"))
        ),
        (lambda: directional_prune({}, torch.ones(1, 1)), "either a sparsity or a strength"),
        (lambda: directional_prune({}, torch.ones(1, 1), 0.5, strength=1.0), "either a sparsity or"),
        (lambda: directional_prune({"w": torch.ones(1)}, torch.ones(1, 1), 0.5, names=("v",)), "'v'"),
        (lambda: strength_for(1.2, torch.ones(2)), "in [0, 1]"),
        (lambda: strength_for(0.9, torch.tensor([1.0, torch.inf])), "the most is 0.5000"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(UsageError) as caught:
        call()
    assert message in str(caught.value)
