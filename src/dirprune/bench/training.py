"""The time of a training step in the ways that a machine can compute it."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from dirprune.bench.interleave import Timing, interleave, waiting_for
from dirprune.errors import UsageError, unknown
from dirprune.optim import GRDA

PLAIN = "float32"
PAYS = 0.95  # a way pays where it takes at most this part of the plain time: less is noise


@dataclass(frozen=True)
class Way:
    """How a training step is computed."""

    channels_last: bool = False
    bf16: bool = False
    compiled: bool = False


WAYS: dict[str, Way] = {
    PLAIN: Way(),
    "channels_last": Way(channels_last=True),
    "bf16": Way(bf16=True),
    "bf16, channels_last": Way(bf16=True, channels_last=True),
    "compiled": Way(compiled=True),
    "compiled, channels_last": Way(compiled=True, channels_last=True),
    "bf16, channels_last, compiled": Way(bf16=True, channels_last=True, compiled=True),
}


@dataclass(frozen=True)
class TrainingTable:
    """Times of one training step of gRDA, all measured in one run; compilation apart, in seconds."""

    batch_size: int
    device: str
    threads: int
    times: dict[str, Timing]
    compilation: dict[str, float]

    def ratio(self, name: str) -> float:
        """Return how many times as long a step takes as the plain one."""
        return self.times[name].median / self.times[PLAIN].median

    def pays(self, name: str) -> bool:
        """Whether a way is faster than the plain one by more than noise."""
        return self.ratio(name) <= PAYS

    def as_json(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        return {**asdict(self), "ratios": {name: self.ratio(name) for name in self.times}}


def measure_training(
    build: Callable[[], nn.Module],
    shape: tuple[int, int, int],
    num_classes: int,
    *,
    batch_size: int = 128,
    names: Sequence[str] = tuple(WAYS),
    repetitions: int = 10,
    warm_up: int = 3,
    device: torch.device | str = "cpu",
) -> TrainingTable:
    """Time a whole training step (forward, backward, gRDA) on random images, in turns.

    Args:
        build: Returns the network.
        shape: (channels, height, width) of the images.
        num_classes: Number of outputs.
        batch_size: Images in a step.
        names: Which of ``WAYS``; the plain one is always measured.
        repetitions: Rounds, 2 or more; the table has their median.
        warm_up: Rounds before them, beside a first step of each way.
        device: Where it is trained.

    Returns:
        The table.

    Raises:
        UsageError: A way is unknown, or too few repetitions for a median.

    Example:
        >>> build = lambda: nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
        >>> table = measure_training(build, (3, 2, 2), 2, batch_size=4, names=["bf16"], repetitions=2)
        >>> list(table.times)
        ['float32', 'bf16']
    """
    if repetitions < 2:
        raise UsageError(f"repetitions must be >= 2, got {repetitions}")
    for name in names:
        if name not in WAYS:
            raise UsageError(unknown("way", name, WAYS))
    device = torch.device(device)
    steps = {
        name: _training_step(build, WAYS[name], shape, num_classes, batch_size, device)
        for name in dict.fromkeys([PLAIN, *names])
    }
    compilation = {}
    for name, step in steps.items():
        started = time.perf_counter()
        step()
        if WAYS[name].compiled:
            compilation[name] = time.perf_counter() - started
    times = interleave(
        steps,
        repetitions,
        warm_up=warm_up,
        synchronise=waiting_for(device),
    )
    return TrainingTable(batch_size, device.type, torch.get_num_threads(), times, compilation)


def _training_step(
    build: Callable[[], nn.Module],
    way: Way,
    shape: tuple[int, int, int],
    num_classes: int,
    batch_size: int,
    device: torch.device,
) -> Callable[[], None]:
    """Return a step of a fresh network on images that stay the same."""
    torch.manual_seed(0)
    model = build().to(device).train()
    images = torch.randn(batch_size, *shape, device=device)
    labels = torch.randint(num_classes, (batch_size,), device=device)
    if way.channels_last:
        model = model.to(memory_format=torch.channels_last)
        images = images.contiguous(memory_format=torch.channels_last)
    optimizer = GRDA(model.parameters(), lr=1e-3)
    forward = torch.compile(model) if way.compiled else model

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=way.bf16):
            logits = forward(images)
        torch.autograd.backward(functional.cross_entropy(logits.float(), labels))
        optimizer.step()

    return step
