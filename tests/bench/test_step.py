"""Measuring: in turns, with medians, and every optimiser that is named."""

import time

import pytest
import torch

from dirprune.bench import OPTIMISERS, Timing, interleave, measure_step, parameter_shapes
from dirprune.bench.step import PlainGRDA
from dirprune.errors import UsageError
from dirprune.optim import GRDA
from tests.optim.common import parameters, train


def test_actions_take_turns_and_every_round_begins_with_another() -> None:
    calls: list[str] = []
    actions = {name: lambda name=name: calls.append(name) for name in "abc"}
    times = interleave(actions, repetitions=4, warm_up=2)
    rounds = ["".join(calls[i : i + 3]) for i in range(0, len(calls), 3)]
    assert rounds == ["abc", "bca", "cab", "abc", "bca", "cab"]
    assert {timing.repetitions for timing in times.values()} == {4}


def test_times_are_those_of_the_action() -> None:
    times = interleave({"long": lambda: time.sleep(0.02), "short": lambda: time.sleep(0.005)}, repetitions=3)
    assert 0.02 <= times["long"].lower <= times["long"].median <= times["long"].upper < 0.5
    assert 0.005 <= times["short"].median < times["long"].median


def test_the_warm_up_does_not_count() -> None:
    seconds = iter([0.2, 0.0, 0.0, 0.0])
    times = interleave({"slow at first": lambda: time.sleep(next(seconds))}, repetitions=3, warm_up=1)
    assert times["slow at first"].upper < 0.1


def test_a_timing_is_made_of_quartiles() -> None:
    assert Timing.of([5.0, 1.0, 3.0, 2.0, 4.0]) == Timing(median=3.0, lower=2.0, upper=4.0, repetitions=5)


@pytest.mark.parametrize("shared", [False, True])
def test_every_optimiser_steps(shared: bool) -> None:
    table = measure_step([(20, 3), (3,)], repetitions=2, shared=shared)
    assert list(table.times) == list(OPTIMISERS)
    assert (table.parameters, table.tensors, table.dtype, table.device) == (63, 2, "float32", "cpu")
    ratios = table.as_json()["ratios"]
    assert ratios["SGD, fused"]["SGD, fused"] == 1
    assert ratios["gRDA"]["SGD, fused"] == pytest.approx(
        table.times["gRDA"].median / table.times["SGD, fused"].median
    )


def test_the_baseline_is_the_method() -> None:
    """What is compared with is slow, not wrong."""
    plain, ours = PlainGRDA(parameters(torch.float64), lr=0.1), GRDA(parameters(torch.float64), lr=0.1)
    for optimizer in (plain, ours):
        train(optimizer, steps=5)
    for p, q in zip(plain.param_groups[0]["params"], ours.param_groups[0]["params"], strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("network", "parameters_"), [("lenet5", 431_080), ("vgg16", 15_245_130), ("wrn28x10", 36_489_290)]
)
def test_shapes_are_those_of_the_papers_networks(network: str, parameters_: int) -> None:
    assert sum(torch.Size(shape).numel() for shape in parameter_shapes(network)) == parameters_


@pytest.mark.parametrize(
    ("patch", "channels", "patches"),
    [(7, 1, 16), (14, 1, 4), (8, 3, 16), (12, 3, 4), (48, 3, 1)],
)
def test_images_are_whole_patches(patch: int, channels: int, patches: int) -> None:
    shapes = parameter_shapes(f"vit1x16p{patch}")
    assert {(16, channels, patch, patch), (1, patches + 1, 16)} <= set(shapes)  # and the class token


def test_nothing_to_measure_is_said() -> None:
    with pytest.raises(UsageError, match="no parameters"):
        measure_step([])
    with pytest.raises(UsageError, match="repetitions must be >= 2, got 1"):
        measure_step([(3,)], repetitions=1)
    with pytest.raises(UsageError, match="no optimiser to time"):
        measure_step([(3,)], names=[])
    with pytest.raises(UsageError, match=r"no optimiser to time for torch\.float64"):
        measure_step([(3,)], names=["gRDA, bfloat16 accumulator"], dtype=torch.float64)


def test_an_unknown_optimiser_is_named() -> None:
    with pytest.raises(UsageError, match="unknown optimiser 'gRDAA'; did you mean 'gRDA'"):
        measure_step([(3,)], names=["SGD, fused", "gRDAA"])
