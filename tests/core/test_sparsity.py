"""Counting zeros."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dirprune.core.sparsity import LayerSparsity, SparsityReport, count_zeros, sparsity_report


def filled(shape: tuple[int, ...], zeros: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """A tensor with so many zeros, in no particular place."""
    flat = torch.ones(torch.Size(shape).numel(), dtype=dtype)
    flat[torch.randperm(len(flat), generator=torch.Generator().manual_seed(0))[:zeros]] = 0
    return flat.reshape(shape)


@settings(max_examples=50)
@given(
    st.lists(
        st.lists(st.integers(0, 5), max_size=3).flatmap(
            lambda shape: st.tuples(st.just(tuple(shape)), st.integers(0, torch.Size(shape).numel()))
        ),
        max_size=8,
    ),
    st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.bool]),
)
def test_count_zeros(cases: list[tuple[tuple[int, ...], int]], dtype: torch.dtype) -> None:
    assert count_zeros(filled(shape, zeros, dtype) for shape, zeros in cases) == [zeros for _, zeros in cases]


def test_minus_zero_counts_and_what_is_small_or_not_a_number_does_not() -> None:
    values = [0.0, -0.0, 1e-45, -1e-45, float("nan"), float("inf"), 1.0]
    assert count_zeros([torch.tensor(values)]) == [2]


def test_layouts_and_gradients_do_not_matter() -> None:
    t = filled((4, 6), 7).requires_grad_()
    assert count_zeros([t.t(), t * 1.0, t.unflatten(1, (2, 3)).permute(1, 2, 0)]) == [7, 7, 7]


def model() -> nn.Module:
    net = nn.Sequential(nn.Conv2d(2, 3, 2), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(6, 2, bias=False))
    with torch.no_grad():
        net[0].weight.copy_(filled((3, 2, 2, 2), 10))
        net[0].bias.copy_(filled((3,), 1))
        net[3].weight.copy_(filled((2, 6), 12))
    return net


def test_report_counts_every_trainable_parameter() -> None:
    report = sparsity_report(model())
    assert report.layers == (
        LayerSparsity("0.weight", (3, 2, 2, 2), 10),
        LayerSparsity("0.bias", (3,), 1),
        LayerSparsity("1.weight", (3,), 0),
        LayerSparsity("1.bias", (3,), 3),
        LayerSparsity("3.weight", (2, 6), 12),
    )
    assert (report.numel, report.zeros, report.sparsity) == (45, 26, 26 / 45)
    assert [layer.sparsity for layer in report.layers] == [10 / 24, 1 / 3, 0, 1, 1]


def test_frozen_parameters_and_buffers_are_not_counted() -> None:
    net = model()
    net[0].requires_grad_(False)
    assert [layer.name for layer in sparsity_report(net).layers] == ["1.weight", "1.bias", "3.weight"]


def test_a_shared_parameter_is_counted_once() -> None:
    table = nn.Embedding(6, 4)
    head = nn.Linear(4, 6, bias=False)
    head.weight = table.weight
    report = sparsity_report(nn.Sequential(table, head, head))
    assert [layer.name for layer in report.layers] == ["0.weight"]
    assert report.numel == 24


@pytest.mark.parametrize("net", [nn.ReLU(), nn.Linear(3, 2).requires_grad_(False)])
def test_a_model_without_trainable_parameters(net: nn.Module) -> None:
    report = sparsity_report(net)
    assert (report.numel, report.zeros, report.sparsity) == (0, 0, 0.0)
    assert "total" in str(report)


def test_scalars_and_empty_tensors() -> None:
    net = nn.Module()
    net.scale = nn.Parameter(torch.tensor(0.0))
    net.none = nn.Parameter(torch.empty(0, 3))
    report = sparsity_report(net)
    assert [layer.sparsity for layer in report.layers] == [1.0, 0.0]
    assert report.numel == report.zeros == 1


def test_the_table() -> None:
    lines = str(sparsity_report(model())).splitlines()
    assert [line.split() for line in lines] == [
        ["shape", "elements", "zeros", "sparsity"],
        ["0.weight", "3x2x2x2", "24", "10", "41.67", "%"],
        ["0.bias", "3", "3", "1", "33.33", "%"],
        ["1.weight", "3", "3", "0", "0.00", "%"],
        ["1.bias", "3", "3", "3", "100.00", "%"],
        ["3.weight", "2x6", "12", "12", "100.00", "%"],
        ["total", "45", "26", "57.78", "%"],
    ]
    assert len({len(line) for line in lines[1:]}) == 1


def test_a_large_count_stays_readable() -> None:
    report = SparsityReport((LayerSparsity("layer.with.a.long.name", (1000, 36489), 36_000_000),))
    assert "36,489,000" in str(report)
    assert "36,000,000" in str(report)
    assert "98.66 %" in str(report)


def test_a_report_cannot_be_edited() -> None:
    report = sparsity_report(model())
    with pytest.raises(dataclasses.FrozenInstanceError):
        report.layers[0].zeros = 0
