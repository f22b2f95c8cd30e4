"""What the methods with a reparametrised weight share: w = f(v, more), with v and more trained."""

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from dirprune.core.prunable import Include, prunable_parameters
from dirprune.methods.base import Method, Settings


class Parametrised(Method[Settings]):
    """A method that puts a parametrisation on every prunable weight, and bakes the weights at the end.

    A parametrisation is a module from v to w; in evaluation mode it gives the sparse weight.
    """

    modules: dict[str, Any]  # the parametrisations, by the names of their weights

    @abstractmethod
    def parametrisation(self, weight: nn.Parameter) -> nn.Module:
        """Return a new parametrisation of a weight: the one decision of such a method."""

    @classmethod
    def refusal(cls, model: nn.Module, include: Include) -> str | None:
        """A parametrisation belongs to one module."""
        homes = [p for m in model.modules() for _, p in m.named_parameters(recurse=False)]
        for name, parameter in prunable_parameters(model, include).items():
            if parameter.requires_grad and sum(other is parameter for other in homes) > 1:
                return f"cannot reparametrise {name}, which several modules share: exclude it"
        return super().refusal(model, include)

    def _prepare(self) -> None:
        self.modules = {}
        self._order: dict[str, list[str]] = {}
        for name, parameter in self.prunable.items():
            path, attribute = _split(name)
            module = self.model.get_submodule(path)
            self._order.setdefault(path, list(module._parameters))
            self.modules[name] = self.parametrisation(parameter).train(self.model.training)
            parametrize.register_parametrization(module, attribute, self.modules[name])

    def _apart(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """Return what is trained beside the parametrisations, and their own parameters."""
        own = [parameter for module in self.modules.values() for parameter in module.parameters()]
        known = set(own)
        return [parameter for parameter in self._trainable() if parameter not in known], own

    def weights(self) -> dict[str, Tensor]:
        """Return all trainable weights under their original names, as they are in evaluation."""
        with self._evaluating(), torch.no_grad():
            homes = {name: _split(name) for name in self._names}
            return {
                name: getattr(self.model.get_submodule(path), attribute)
                for name, (path, attribute) in homes.items()
            }

    def finish(self) -> None:
        """Write the sparse weights into plain parameters, in their original order."""
        with self._evaluating():
            for name in self.prunable:
                path, attribute = _split(name)
                parametrize.remove_parametrizations(self.model.get_submodule(path), attribute)
        for path, names in self._order.items():
            held = self.model.get_submodule(path)._parameters
            for name in names:
                held[name] = held.pop(name)

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """Have the parametrisations give the weights of evaluation."""
        modes = [(module, module.training) for module in self.modules.values()]
        for module, _ in modes:
            module.eval()
        try:
            yield
        finally:
            for module, training in modes:
                module.train(training)


def _split(name: str) -> tuple[str, str]:
    """Split a parameter's name into its module's and its own."""
    path, _, attribute = name.rpartition(".")
    return path, attribute
