"""What a run will take, from a few steps on random images: memory, steps, time."""

import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from dirprune.core.sharding import local
from dirprune.data import DatasetSpec
from dirprune.train.build import build_model, make_accelerator, place_model
from dirprune.train.config import TrainConfig
from dirprune.train.execution import Execution
from dirprune.train.memory import peak_bytes, reset_peak
from dirprune.train.method import start_method
from dirprune.train.ranks import Ranks

_LONG_ENOUGH = 1.0  # seconds; a step this long is not measured with more images
_STEPS = 3
_MEMORY = Path("/proc/meminfo")
_FEW_BYTES = 2**32  # where nothing tells (Windows)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What one run takes; memory in bytes per device, time in seconds.

    Attributes:
        parameters: Trainable elements of the whole network.
        weights: Parameters and buffers.
        gradients: Gradients, and what DDP exchanges them in.
        optimizer: State of the optimiser.
        activations: What the forward pass keeps for the backward pass, for `at_once` images.
        at_once: Images in one forward pass of one process.
        peak: Measured: most memory in use, with `measured_images` at once, on a CPU that of the process;
            None: unknown.
        available: Memory that can be had now.
        measured_images: Images at once in the measured steps.
        step: One optimiser step, scaled from the measured ones.
        steps_per_epoch: Steps in an epoch.
        epochs: Epochs.
        processes: Training processes.
    """

    parameters: int
    weights: int
    gradients: int
    optimizer: int
    activations: int
    at_once: int
    peak: int | None
    available: int
    measured_images: int
    step: float
    steps_per_epoch: int
    epochs: int
    processes: int

    @property
    def memory(self) -> int:
        """Weights, gradients, state and activations together."""
        return self.weights + self.gradients + self.optimizer + self.activations


def estimate(
    config: TrainConfig, execution: Execution, *, images: int, num_classes: int, shape: tuple[int, int, int]
) -> Estimate:
    """Take a few steps on random images and extrapolate; nothing is read or written.

    The activations are affine in the number of images, and are counted exactly, with two and four images.
    Time is measured with as many images as fit into half of the free memory, at most a real step's, until a
    step takes a second; the gradient's part is then scaled by the number of images, the update's is not.

    Args:
        config: What would be trained.
        execution: How the machine would be used.
        images: Number of training images.
        num_classes: Number of classes.
        shape: (channels, height, width) of an image.

    Returns:
        The estimate, for this process's device.

    Example:
        >>> config = TrainConfig(recipe="mine", dataset="digits", model="lenet-300-100", epochs=10)
        >>> found = estimate(config, Execution(), images=1437, num_classes=10, shape=(1, 8, 8))
        >>> found.parameters, found.optimizer // 4 >= found.parameters, found.steps_per_epoch
        (50610, True, 12)
    """
    accelerator = make_accelerator(config)
    ranks = Ranks(accelerator.num_processes, accelerator.process_index)
    device = accelerator.device
    model = place_model(build_model(config, shape, num_classes), config, accelerator, execution)
    bare = accelerator.unwrap_model(model)
    parameters = sum(parameter.numel() for parameter in bare.parameters() if parameter.requires_grad)

    def some() -> Iterator[tuple[Tensor, Tensor]]:
        count = min(config.batch_size, images)
        yield torch.zeros(count, *shape, device=device), torch.zeros(count, dtype=torch.int64, device=device)

    _, optimizer = start_method(config, bare, images=images, batches=some, processes=ranks.count)
    optimizer = accelerator.prepare_optimizer(optimizer)

    def forward(count: int) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        inputs = torch.randn(count, *shape, generator=generator).to(device)
        labels = torch.randint(num_classes, (count,), generator=generator).to(device)
        if config.channels_last:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        with accelerator.autocast():
            logits = model(inputs)
        return functional.cross_entropy(logits.float(), labels)

    def gradient(count: int) -> None:
        optimizer.zero_grad()
        accelerator.backward(forward(count))

    local_batch = -(-min(config.batch_size, images) // ranks.count)
    parts = execution.micro_batches(min(config.batch_size, images), ranks.count)
    at_once = -(-local_batch // parts)
    few, more = (_kept_for_backward(bare, partial(forward, count)) for count in (2, 4))
    each = (more - few) // 2

    available = available_memory(device)
    affordable = max(2, available // 2 // max(1, each))
    count = 2
    while True:
        seconds = _timed(partial(gradient, count), device, 1)
        larger = min(2 * count, at_once, affordable)
        if ranks.any(seconds > _LONG_ENOUGH or larger <= count):  # the free memory of each is its own
            break
        count = larger
    reset_peak(device)
    seconds = _timed(partial(gradient, count), device, _STEPS)
    update_seconds = _timed(optimizer.step, device, _STEPS)

    gradients = sum(local(p.grad).nbytes for p in bare.parameters() if p.grad is not None)
    state = (value for state in optimizer.state.values() for value in state.values())
    held = (value for value in state if isinstance(value, Tensor))  # some count their steps in an int
    return Estimate(
        parameters=parameters,
        weights=sum(local(tensor).nbytes for tensor in [*bare.parameters(), *bare.buffers()]),
        gradients=gradients * (2 if isinstance(model, DistributedDataParallel) else 1),
        optimizer=sum(local(tensor).nbytes for tensor in held),
        activations=few + each * (at_once - 2),
        at_once=at_once,
        peak=peak_bytes(device),
        available=available,
        measured_images=count,
        step=seconds * local_batch / count + update_seconds,
        steps_per_epoch=math.ceil(images / config.batch_size),
        epochs=config.epochs,
        processes=ranks.count,
    )


def shape_of(config: TrainConfig, spec: DatasetSpec) -> tuple[int, int, int]:
    """Return (channels, height, width) of what the network would see."""
    channels, height, width = spec.image_shape
    return (channels, config.image_size or height, config.image_size or width)


def available_memory(device: torch.device) -> int:
    """Return the bytes that can be had on a device; on a system that does not tell, a quarter of all."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    lines = _MEMORY.read_text().splitlines() if _MEMORY.is_file() else []
    told = dict(line.split()[:2] for line in lines)
    if "MemAvailable:" in told:  # MemFree leaves out what caches give back
        return 1024 * int(told["MemAvailable:"])
    if hasattr(os, "sysconf"):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4
    return _FEW_BYTES


def _kept_for_backward(model: nn.Module, forward: Callable[[], Tensor]) -> int:
    """Bytes of the tensors that autograd saves in a forward pass, parameters aside, each memory once."""
    own = {local(tensor).untyped_storage().data_ptr() for tensor in [*model.parameters(), *model.buffers()]}
    saved: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = local(tensor).untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = forward()
    total = sum(saved.values())  # the graph in `loss` keeps them alive, so that no address is used twice
    torch.autograd.backward(loss)  # wrapped models expect it after each forward pass
    return total


def _timed(action: Callable[[], None], device: torch.device, times: int) -> float:
    """Seconds of one call, the least of some."""
    taken = []
    for _ in range(times):
        started = time.perf_counter()
        action()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(time.perf_counter() - started)
    return min(taken)
