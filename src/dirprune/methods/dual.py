"""What optimisers with a state beside the weight share: exact dtypes, and the direction of SGD."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import StateDict

from dirprune.core.dtypes import wide


class DualOptimizer(Optimizer, ABC):
    """An optimiser whose weights follow from an accumulator by a soft threshold.

    State is float32 or wider whatever the dtype of the parameters, after ``load_state_dict`` too.
    """

    @abstractmethod
    def start(self, weight: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        """Return the state of a weight (in wide dtype) before its first step."""

    @abstractmethod
    def update(
        self, gradient: Tensor, weight: Tensor, state: dict[str, Any], group: dict[str, Any]
    ) -> Tensor:
        """Change the state by one step and return the new weight, all in wide dtype."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step; returns what the closure returned, or None."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                weight, state = parameter.to(wide(parameter.dtype)), self.state[parameter]
                if not state:
                    state.update(self.start(weight, group))
                parameter.copy_(self.update(parameter.grad.to(weight.dtype), weight, state, group))
        return loss

    def load_state_dict(self, state_dict: StateDict) -> None:
        """Restore the state; torch would cast it to the dtype of the parameters."""
        super().load_state_dict(state_dict)
        ids = [index for group in state_dict["param_groups"] for index in group["params"]]
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        for index, parameter in zip(ids, parameters, strict=True):
            for key, value in state_dict["state"].get(index, {}).items():
                if isinstance(value, Tensor):
                    self.state[parameter][key] = value.to(parameter.device, copy=True)


def direction(gradient: Tensor, weight: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
    """Return the direction that SGD would step along: with weight decay and momentum, as torch forms them."""
    if group["weight_decay"] != 0:
        gradient = gradient.add(weight, alpha=group["weight_decay"])
    if group["momentum"] == 0:
        return gradient
    if "momentum_buffer" not in state:
        state["momentum_buffer"] = torch.zeros_like(gradient)
    buffer: Tensor = state["momentum_buffer"]
    buffer.mul_(group["momentum"]).add_(gradient)
    return gradient.add(buffer, alpha=group["momentum"]) if group["nesterov"] else buffer
