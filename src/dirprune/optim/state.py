"""State that is loaded: checked against the parameters, and kept in its own dtype."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, StateDict

from dirprune.core.dtypes import wide
from dirprune.errors import UsageError


def accumulator_dtype(group: dict[str, Any], parameter: Tensor) -> torch.dtype:
    """Dtype of a parameter's accumulator: as asked, else the parameter's own, but at least float32."""
    asked: torch.dtype | None = group["accumulator_dtype"]
    return wide(parameter.dtype) if asked is None else asked


@dataclass(frozen=True)
class _Shielded:
    """A state tensor that torch's load_state_dict passes on without casting it."""

    tensor: Tensor


_REQUIRED_STATE = ("accumulator", "step", "threshold")
_ALIKE = ("accumulator", "momentum_buffer", "exp_avg_sq")  # shaped as the parameter


def check_and_shield(optimizer: Optimizer, state_dict: StateDict) -> StateDict:
    """Check a state to be loaded against the parameters, and shield its tensors from torch's cast."""
    saved_ids = [index for group in state_dict["param_groups"] for index in group["params"]]
    parameters = (parameter for group in optimizer.param_groups for parameter in group["params"])
    for index, parameter in zip(saved_ids, parameters, strict=False):  # torch checks the number
        held = state_dict["state"].get(index)
        if not held:
            continue
        missing = [key for key in _REQUIRED_STATE if key not in held]
        if missing:
            raise UsageError(
                f"the state of parameter {index} lacks {', '.join(missing)}: it was not saved by GRDA; "
                "load a GRDA state_dict, or start a new GRDA without one"
            )
        for key in _ALIKE:
            if key in held and held[key].shape != parameter.shape:
                raise UsageError(
                    f"the {key} of parameter {index} has shape {tuple(held[key].shape)}, "
                    f"the parameter {tuple(parameter.shape)}: the state belongs to another model"
                )
    known = set(saved_ids)
    shielded = {
        index: {key: _Shielded(value) if isinstance(value, Tensor) else value for key, value in held.items()}
        for index, held in state_dict["state"].items()
        if index in known
    }
    return {**state_dict, "state": {**state_dict["state"], **shielded}}


def typed_state(key: str, value: Any, parameter: Tensor, group: dict[str, Any]) -> Any:
    """Return a piece of state in its own dtype and on its own device; a copy where it was just loaded."""
    loaded = isinstance(value, _Shielded)
    if loaded:
        value = value.tensor
    if key in ("step", "threshold"):
        device = parameter.device if group["capturable"] else "cpu"
        return torch.as_tensor(value).to(device=device, dtype=torch.float64, copy=loaded)
    if isinstance(value, Tensor):
        dtype = accumulator_dtype(group, parameter) if key == "accumulator" else wide(parameter.dtype)
        return value.to(device=parameter.device, dtype=dtype, copy=loaded)
    return value
