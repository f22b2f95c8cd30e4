"""The time of one step of an optimiser, beside torch's own."""

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adam, Optimizer

from dirprune.bench.interleave import Timing, interleave, waiting_for
from dirprune.core.threshold import tuning_function
from dirprune.errors import UsageError, unknown
from dirprune.models import create_model
from dirprune.optim import GRDA
from dirprune.optim.paths import why_not_fused

Shapes = Sequence[tuple[int, ...]]

_LR = 1e-6  # so small that hundreds of steps leave the weights what they are
BASE, MOMENTUM, OURS = "SGD, fused", "SGD with momentum, fused", "gRDA"
SMALL = "gRDA, bfloat16 accumulator"


class PlainGRDA(Optimizer):
    """gRDA as its equations are written, an operation at a time: what a first implementation does."""

    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, {"lr": lr})
        self.steps = 0

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Take one step."""
        self.steps += 1
        for group in self.param_groups:
            tau = tuning_function(float(self.steps), group["lr"], c=5e-4, mu=0.6)
            for p in group["params"]:
                state = self.state[p]
                if not state:
                    state["accumulator"] = p.clone()
                v = state["accumulator"]
                v.copy_(v - group["lr"] * p.grad)
                p.copy_(v.sign() * (v.abs() - tau).clamp(min=0))


OPTIMISERS: dict[str, Callable[[list[Tensor]], Optimizer]] = {
    BASE: lambda params: SGD(params, lr=_LR, fused=True),
    "SGD, foreach": lambda params: SGD(params, lr=_LR, foreach=True),
    MOMENTUM: lambda params: SGD(params, lr=_LR, momentum=0.9, fused=True),
    "Adam, fused": lambda params: Adam(params, lr=_LR, fused=True),
    OURS: lambda params: GRDA(params, lr=_LR),
    "gRDA, fused=False": lambda params: GRDA(params, lr=_LR, fused=False),
    "gRDA, foreach": lambda params: GRDA(params, lr=_LR, foreach=True),
    SMALL: lambda params: GRDA(params, lr=_LR, accumulator_dtype=torch.bfloat16),
    "gRDA, rescaled": lambda params: GRDA(params, lr=_LR, penalty="rescaled"),
    "gRDA, plain operations": lambda params: PlainGRDA(params, lr=_LR),
}


@dataclass(frozen=True)
class StepTable:
    """Times of one step, all measured in one run."""

    parameters: int
    tensors: int
    dtype: str
    device: str
    kernel: str  # "fused", or why gRDA goes without a kernel
    times: dict[str, Timing]

    def ratio(self, name: str, base: str) -> float:
        """Return how many times as long one step takes as another."""
        return self.times[name].median / self.times[base].median

    def as_json(self) -> dict[str, Any]:
        """Return what JSON can hold, with the ratios to torch's optimisers."""
        bases = [base for base in (BASE, "SGD, foreach", MOMENTUM) if base in self.times]
        ratios = {name: {base: self.ratio(name, base) for base in bases} for name in self.times}
        return {**asdict(self), "ratios": ratios}


def parameter_shapes(model: str) -> list[tuple[int, ...]]:
    """Return the shapes of a network's parameters, for images and classes that suit it.

    Args:
        model: A name that :func:`dirprune.models.create_model` knows.

    Example:
        >>> parameter_shapes("lenet-300-100")[:2]
        [(300, 784), (300,)]
    """
    if model.startswith("lenet"):
        kind = {"num_classes": 10, "in_channels": 1, "image_size": 28}
    elif model == "resnet50":
        kind = {"num_classes": 1000, "in_channels": 3, "image_size": 224}
    elif vit := re.fullmatch(r"vit\d+x\d+p([1-9]\d*)", model):
        patch = int(vit[1])
        size = max(32 // patch, 1) * patch  # whole patches: 28 pixels for those of 7, as grey images have
        kind = {"num_classes": 10, "in_channels": 1 if size == 28 else 3, "image_size": size}
    else:
        kind = {"num_classes": 10, "in_channels": 3, "image_size": 32}
    with torch.device("meta"):
        return [tuple(p.shape) for p in create_model(model, **kind).parameters()]


def measure_step(
    shapes: Shapes,
    *,
    names: Sequence[str] = tuple(OPTIMISERS),
    repetitions: int = 30,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    shared: bool = False,
) -> StepTable:
    """Time one step of each optimiser on parameters of given shapes, in turns.

    Args:
        shapes: Of the parameters.
        names: Which of ``OPTIMISERS``; the one with a bfloat16 accumulator is left out for float64.
        repetitions: Rounds, 2 or more; the table has their median.
        device: Where the parameters are.
        dtype: Of the parameters.
        shared: All step the same parameters with the same gradients, each with a state of its own. Takes
            less memory; but then what is read by all is in the cache, and what is an optimiser's own is not.

    Returns:
        The table.

    Raises:
        UsageError: There are no parameters or optimisers, one of these is unknown, or too few repetitions.

    Example:
        >>> table = measure_step([(10, 10), (10,)], names=["SGD, fused", "gRDA"], repetitions=3)
        >>> table.parameters, list(table.times)
        (110, ['SGD, fused', 'gRDA'])
    """
    if not shapes:
        raise UsageError("there are no parameters to step")
    if repetitions < 2:
        raise UsageError(f"repetitions must be >= 2, got {repetitions}")
    for name in names:
        if name not in OPTIMISERS:
            raise UsageError(unknown("optimiser", name, OPTIMISERS))
    device = torch.device(device)
    if dtype is torch.float64:  # there is no smaller accumulator for it
        names = [name for name in names if name != SMALL]
    if not names:
        raise UsageError(f"there is no optimiser to time for {dtype}; known: {', '.join(OPTIMISERS)}")
    made = [_parameters(shapes, device, dtype) for _ in names[: 1 if shared else None]]
    optimisers = {name: OPTIMISERS[name](made[i % len(made)]) for i, name in enumerate(names)}
    times = interleave(
        {name: optimiser.step for name, optimiser in optimisers.items()},
        repetitions,
        synchronise=waiting_for(device),
    )
    return StepTable(
        parameters=sum(p.numel() for p in made[0]),
        tensors=len(shapes),
        dtype=str(dtype).removeprefix("torch."),
        device=device.type,
        kernel=why_not_fused(device) or "fused",
        times=times,
    )


def _parameters(shapes: Shapes, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    """Make parameters with gradients, the same at every call."""
    generator = torch.Generator(device).manual_seed(0)
    params: list[Tensor] = []
    for shape in shapes:
        values = torch.empty(shape, device=device, dtype=dtype).normal_(0, 0.05, generator=generator)
        p = torch.nn.Parameter(values)
        p.grad = torch.empty_like(values).normal_(0, 0.01, generator=generator)
        params.append(p)
    return params
