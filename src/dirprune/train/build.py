"""The network of a run, placed on its devices."""

import copy
import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, GradientAccumulationPlugin, is_bf16_available
from torch import nn

from dirprune.errors import UsageError
from dirprune.models import create_model
from dirprune.train.config import TrainConfig
from dirprune.train.execution import Execution
from dirprune.train.method import run_width
from dirprune.train.ranks import shard


def make_accelerator(config: TrainConfig) -> Accelerator:
    """Return what knows the devices, the processes and the mixed precision.

    Raises:
        UsageError: fp16 on a CPU, where Accelerate would compute in float32 and not say so; bf16 on a device
            that has none.
    """
    if config.precision == "bf16" and not is_bf16_available():
        raise UsageError(
            "this device cannot compute in bf16: train this run elsewhere, or a run of its own with "
            "`precision` no"
        )
    if AcceleratorState._shared_state and AcceleratorState().mixed_precision != config.precision:
        AcceleratorState._reset_state()  # one process may train runs of several precisions
    # Several processes on CPUs are only seen where the CPU is asked for.
    accelerator = Accelerator(
        cpu=not torch.accelerator.is_available(),
        mixed_precision=config.precision,
        # Said here, or Accelerate takes them from the environment, of which the run's folder knows nothing.
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
        dynamo_backend="no",
        # The statistics of all processes count, not those of process 0: see running_statistics.
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
    )
    if config.precision == "fp16" and accelerator.device.type == "cpu":
        raise UsageError("`precision` fp16 needs a GPU; on a CPU use bf16, or no for float32")
    return accelerator


def build_model(config: TrainConfig, shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    """Return the network of a configuration with the initial weights of its seed.

    Args:
        config: What to train.
        shape: (channels, height, width) of the images.
        num_classes: Number of outputs.
    """
    return initial_model(model_arguments(config, shape, num_classes), config.seed)


def initial_model(arguments: Mapping[str, Any], seed: int) -> nn.Module:
    """Return the network of these arguments of ``create_model`` with the initial weights of a seed."""
    torch.manual_seed(seed)
    return create_model(**arguments)


@torch.no_grad()
def takes_one_image(model: nn.Module, shape: tuple[int, int, int]) -> bool:
    """Whether a network can be trained on a batch of one image: BatchNorm on maps of one pixel cannot.

    Args:
        model: On the CPU; it is left as it was.
        shape: (channels, height, width) of the images.
    """
    probe = copy.deepcopy(model).train()
    with torch.random.fork_rng(devices=[]):  # dropout draws
        try:
            probe(torch.zeros(1, *shape))
        except ValueError as error:
            if "more than 1 value per channel" in str(error):
                return False
            raise
    return True


def model_arguments(config: TrainConfig, shape: tuple[int, int, int], num_classes: int) -> dict[str, Any]:
    """Return the arguments of ``create_model`` that build a configuration's network, at its method's width.

    Args:
        config: What to train.
        shape: (channels, height, width) of the images.
        num_classes: Number of outputs.

    Example:
        >>> config = TrainConfig(recipe="mine", dataset="digits", model="lenet5", sparsity=0.9)
        >>> config = config.with_method("small-dense")
        >>> round(model_arguments(config, (1, 28, 28), 10)["width"], 3)
        0.31
    """
    arguments: dict[str, Any] = {
        "name": config.model,
        "num_classes": num_classes,
        "in_channels": shape[0],
        "image_size": shape[1],
    }
    width = run_width(config, lambda width: create_model(**arguments, width=width))
    return {**arguments, "width": width}


def place_model(
    model: nn.Module, config: TrainConfig, accelerator: Accelerator, execution: Execution
) -> nn.Module:
    """Bring a network to this process's device, and divide or wrap it where there are several processes."""
    sharded = accelerator.num_processes > 1 and execution.parallel == "fsdp2"
    if config.channels_last and not sharded:  # a part of a tensor has no channels
        model = model.to(memory_format=torch.channels_last)
    if not sharded:
        prepared: nn.Module = accelerator.prepare_model(model)
        return prepared
    # Accelerate shards on GPUs only; torch's own function is the same everywhere.
    model = model.to(accelerator.device)
    shard(model)
    return model


def weights_digest(model: nn.Module) -> str:
    """Return a short hash of all weights and buffers."""
    total = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        total.update(name.encode())
        total.update(_bytes(tensor))
    return total.hexdigest()[:16]


def _bytes(tensor: torch.Tensor) -> Any:
    return tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
