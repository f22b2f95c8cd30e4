"""The state of a run as one checkpoint, whatever the number of processes that hold it."""

from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from dirprune.core.sharding import placed_like, whole
from dirprune.methods import Method


def state_of(
    accelerator: Accelerator, model: nn.Module, optimizer: torch.optim.Optimizer, method: Method[Any]
) -> dict[str, Any]:
    """Gather everything that the rest of a run depends on, except its position.

    Collective: call it on every rank.

    Args:
        accelerator: Holds the scaler of mixed precision, if there is one.
        model: Without wrappers.
        optimizer: Its optimiser.
        method: The method that made the optimiser.

    Returns:
        What `restore` takes; tensors of the model and the optimiser are whole, never sharded.
    """
    state = {
        "model": whole(dict(model.state_dict())),
        "optimizer": whole(optimizer.state_dict()),
        "method": method.state_dict(),
        "cpu_rng": torch.get_rng_state(),
        "device_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }
    if accelerator.scaler is not None:
        state["scaler"] = accelerator.scaler.state_dict()
    return state


def restore(
    state: dict[str, Any],
    accelerator: Accelerator,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    method: Method[Any],
) -> None:
    """Put a state back, divided as this run's processes hold it.

    Args:
        state: From `state_of`, perhaps of a run with another number of processes.
        accelerator: Holds the scaler of mixed precision, if there is one.
        model: Without wrappers.
        optimizer: Its optimiser.
        method: The method that made the optimiser.
    """
    here = model.state_dict()
    model.load_state_dict({name: placed_like(value, here[name]) for name, value in state["model"].items()})
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    held = {
        index: {key: _placed(value, parameters[index]) for key, value in entries.items()}
        for index, entries in state["optimizer"]["state"].items()
    }
    optimizer.load_state_dict({**state["optimizer"], "state": held})
    if "method" in state:  # SGD and gRDA of earlier versions had no state of their own
        method.load_state_dict(state["method"])
    torch.set_rng_state(state["cpu_rng"])
    if state["device_rng"] and len(state["device_rng"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["device_rng"])
    if accelerator.scaler is not None and "scaler" in state:
        accelerator.scaler.load_state_dict(state["scaler"])


def _placed(value: Any, parameter: Tensor) -> Any:
    return placed_like(value, parameter) if isinstance(value, Tensor) else value
