"""A training step in several ways: each does what its name says."""

import pytest
import torch
from torch import nn

from dirprune.bench import WAYS, measure_training
from dirprune.errors import UsageError


class Spy(nn.Module):
    """A convolution that notes how it is called."""

    def __init__(self, seen):
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3)
        self.seen = seen

    def forward(self, images):
        logits = self.layer(images)
        last = images.is_contiguous(memory_format=torch.channels_last)
        self.seen.append((last, logits.dtype, torch.compiler.is_compiling(), self.training))
        return logits.mean((2, 3))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("float32", (False, torch.float32, False, True)),
        ("channels_last", (True, torch.float32, False, True)),
        ("bf16", (False, torch.bfloat16, False, True)),
        ("bf16, channels_last", (True, torch.bfloat16, False, True)),
    ],
)
def test_a_way_is_what_its_name_says(name, expected):
    seen = []
    table = measure_training(lambda: Spy(seen), (3, 8, 8), 4, batch_size=2, names=[name], repetitions=2)
    assert list(table.times) == list(dict.fromkeys(["float32", name]))
    assert expected in seen
    assert set(seen) <= {expected, (False, torch.float32, False, True)}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("compiled", (False, torch.float32)),
        ("compiled, channels_last", (True, torch.float32)),
        ("bf16, channels_last, compiled", (True, torch.bfloat16)),
    ],
)
def test_compilation_is_asked_for_and_timed_apart(name, expected, monkeypatch):
    compiled, seen = [], []
    monkeypatch.setattr(torch, "compile", lambda model: compiled.append(model) or model)
    table = measure_training(lambda: Spy(seen), (3, 8, 8), 4, batch_size=2, names=[name], repetitions=2)
    assert len(compiled) == 1
    assert list(table.compilation) == [name]
    assert {call[:2] for call in seen} == {(False, torch.float32), expected}


def test_ratios_are_to_the_plain_way():
    table = measure_training(lambda: Spy([]), (3, 8, 8), 4, batch_size=2, names=["bf16"], repetitions=2)
    assert table.ratio("float32") == 1
    assert not table.pays("float32")
    assert table.as_json()["ratios"]["bf16"] == table.times["bf16"].median / table.times["float32"].median
    assert set(WAYS) >= set(table.times)


def test_one_repetition_has_no_median():
    with pytest.raises(UsageError, match="repetitions"):
        measure_training(lambda: Spy([]), (3, 8, 8), 4, repetitions=1)


def test_an_unknown_way_is_named_before_anything_is_built():
    built = []
    with pytest.raises(UsageError, match="unknown way 'bf61'; did you mean 'bf16'"):
        measure_training(lambda: built.append(1), (3, 8, 8), 4, names=["bf61"])
    assert not built
