"""Masks, and how many weights each layer keeps, against torch's own pruning and the papers' formulae."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import prune

from dirprune.core.masks import Masks, all_kept, allocate, keep_largest, kth_smallest, number_kept
from dirprune.errors import UsageError

RESNET20 = [
    (16, 3, 3, 3),
    *[(16, 16, 3, 3)] * 6,
    (32, 16, 3, 3),
    *[(32, 32, 3, 3)] * 5,
    (64, 32, 3, 3),
    (10, 64),
]
SHAPES = st.lists(st.lists(st.integers(0, 9), min_size=0, max_size=4), min_size=1, max_size=6)


def erk_densities(shapes, density):
    """Evci et al. 2020: 1 - s_l = eps (sum of dimensions) / (product), capped at 1 by making layers dense."""
    sums = np.array([sum(s) for s in shapes], float)
    sizes = np.array([np.prod(s) for s in shapes], float)
    dense = np.zeros(len(shapes), bool)
    while True:
        epsilon = (density * sizes.sum() - sizes[dense].sum()) / sums[~dense].sum()
        densities = np.where(dense, 1.0, epsilon * sums / sizes)
        if (densities <= 1).all():
            return densities, sizes
        dense[np.argmax(densities)] = True


@pytest.mark.parametrize("density", [0.02, 0.1, 0.2, 0.5, 0.9])
def test_erk_is_the_papers_formula(density):
    densities, sizes = erk_densities(RESNET20, density)
    shares = allocate([torch.Size(s) for s in RESNET20], round(density * sizes.sum()), "erk")
    assert np.abs(shares - densities * sizes).max() <= 1
    assert sum(shares) == round(density * sizes.sum())


def test_erk_gives_lenet_300_100_the_densities_of_hand():
    # 784 x 300, 300 x 100, 100 x 10 at 90 %: claims 1084, 400, 110; the last is dense (110 eps > 1000).
    epsilon = (26620 - 1000) / (1084 + 400)
    shapes = [torch.Size(s) for s in ((300, 784), (100, 300), (10, 100))]
    assert allocate(shapes, 26620, "erk") == [round(1084 * epsilon), round(400 * epsilon), 1000]


@given(SHAPES, st.sampled_from(["uniform", "erk"]), st.data())
@settings(max_examples=150)
def test_shares_are_exact_within_the_layers_and_never_grow_when_less_is_kept(shapes, distribution, data):
    shapes = [torch.Size(s) for s in shapes]
    total = sum(s.numel() for s in shapes)
    keep = data.draw(st.integers(0, total))
    shares = allocate(shapes, keep, distribution)
    assert sum(shares) == keep
    assert all(0 <= share <= s.numel() for share, s in zip(shares, shapes, strict=True))
    if distribution == "uniform":
        slack = (len(shapes) + 1) / 2  # each layer is rounded by up to 1/2, and the others make up for it
        assert all(
            abs(n - keep / max(total, 1) * s.numel()) <= slack for n, s in zip(shares, shapes, strict=True)
        )
    if keep:
        fewer = allocate(shapes, keep - 1, distribution)
        assert all(a <= b for a, b in zip(fewer, shares, strict=True))


@pytest.mark.parametrize("sparsity", [0.0, 0.37, 0.9, 1.0])
def test_the_global_choice_is_torchs(sparsity):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 30), nn.Linear(30, 7))
    scores = {name: p.detach().abs() for name, p in model.named_parameters()}
    masks = keep_largest(scores, number_kept(847, sparsity))
    pairs = [(layer, name) for layer in model for name in ("weight", "bias")]
    prune.global_unstructured(pairs, prune.L1Unstructured, amount=round(sparsity * 847))
    for index, layer in enumerate(model):
        for name in ("weight", "bias"):
            assert torch.equal(masks[f"{index}.{name}"], getattr(layer, f"{name}_mask").bool())


def test_the_choice_within_a_layer_is_torchs():
    torch.manual_seed(0)
    layer = nn.Linear(20, 30)
    masks = keep_largest({"weight": layer.weight.abs()}, number_kept(600, 0.9), "uniform")
    prune.l1_unstructured(layer, "weight", amount=0.9)
    assert torch.equal(masks["weight"], layer.weight_mask.bool())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_ties_do_not_change_the_number(dtype):
    scores = {"a": torch.ones(50, dtype=dtype), "b": torch.ones(3, 5, dtype=dtype)}
    assert [keep_largest(scores, keep).kept for keep in (0, 1, 33, 65)] == [0, 1, 33, 65]


def test_there_is_a_kth_smallest_from_1_to_their_number_only():
    values = torch.tensor([3.0, 1.0, 2.0])
    assert kth_smallest(values, 3) == 3
    for k, of in ((0, values), (4, values), (1, values[:0])):
        with pytest.raises(UsageError, match=f"from 1 to the number of values, {len(of)}, got {k}"):
            kth_smallest(of, k)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_the_kth_smallest_is_torchs(dtype):
    values = torch.randn(7, 11, generator=torch.Generator().manual_seed(0)).to(dtype)
    for k in (1, 40, 77):
        found = kth_smallest(values, k)
        assert found == values.flatten().kthvalue(k).values
        assert found.dtype == torch.promote_types(dtype, torch.float32)


def test_zero_removes_what_is_not_finite_too():
    weight = torch.tensor([float("nan"), float("inf"), 2.0])
    Masks({"w": torch.tensor([False, False, True])}).zero_({"w": weight})
    assert weight.tolist() == [0, 0, 2]


def test_masks_that_are_not_boolean_are_refused():
    with pytest.raises(UsageError, match=r"must be boolean; the one of w is torch\.float32"):
        Masks({"w": torch.ones(2)})


def test_counts_and_names_out_of_range_are_refused():
    scores = all_kept({"w": torch.ones(3)})
    with pytest.raises(UsageError, match="between 0 and 3 weights can be kept, not 4"):
        keep_largest({"w": torch.ones(3)}, 4)
    with pytest.raises(UsageError, match="between 0 and 3 weights can be kept, not -1"):
        allocate([torch.Size([3])], -1, "erk")
    with pytest.raises(UsageError, match="unknown distribution 'global'"):
        allocate([torch.Size([3])], 1, "global")
    with pytest.raises(UsageError, match="unknown distribution 'erc'; did you mean 'erk'"):
        keep_largest(scores, 1, "erc")
