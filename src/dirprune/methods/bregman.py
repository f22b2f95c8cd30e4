"""LinBreg and AdaBreg: linearised Bregman iterations, which begin sparse and grow."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from dirprune.core.threshold import SoftThreshold
from dirprune.errors import HyperparameterError
from dirprune.methods.base import DENSE_GRADIENT_WORK, Facts, Method, Search, Work, require
from dirprune.methods.dual import DualOptimizer, direction


@dataclass(frozen=True, kw_only=True)
class BregmanSettings:
    """Settings of :class:`LinBreg`."""

    l1: float = 1e-3
    """lambda, the weight of the penalty and the constant threshold. Ours, a weak one: what gives a wanted
    sparsity depends on rate, steps and network, so that it is searched."""
    delta: float = 1.0
    """delta, the elastic-net parameter (the paper's value)."""
    density: float = 0.01
    """Fraction of weights that are not zero at the start (the paper: 1 %)."""

    def __post_init__(self) -> None:
        require(self, l1=(0, None), delta=(1e-12, None), density=(1e-12, 1))


@dataclass(frozen=True, kw_only=True)
class AdaBregSettings(BregmanSettings):
    """Settings of :class:`AdaBreg`."""

    lr: float = 1e-3
    """Learning rate, Adam's default, as in the paper."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of the two moments."""
    eps: float = 1e-8
    """Added to the root of the second."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, lr=(0, None), eps=(1e-12, None))
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise HyperparameterError(f"betas must be two numbers in [0, 1), got {self.betas}")


class LinBregOptimizer(DualOptimizer):
    """v <- v - lr d, w = delta S(v, l1); options ``lr``, ``l1``, ``delta`` of each group."""

    def start(self, weight: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        """Return the subgradient w / delta + l1 sign(w) of the elastic net."""
        return {"subgradient": weight / group["delta"] + group["l1"] * weight.sign(), "t": 0}

    def update(
        self, gradient: Tensor, weight: Tensor, state: dict[str, Any], group: dict[str, Any]
    ) -> Tensor:
        """Step in the dual, and map back."""
        state["t"] += 1
        v: Tensor = state["subgradient"]
        v.sub_(self.dual_direction(gradient, weight, state, group), alpha=group["lr"])
        return SoftThreshold()(v, group["l1"]) * float(group["delta"])

    def dual_direction(
        self, gradient: Tensor, weight: Tensor, state: dict[str, Any], group: dict[str, Any]
    ) -> Tensor:
        """Return the direction of SGD."""
        return direction(gradient, weight, state, group)


class AdaBregOptimizer(LinBregOptimizer):
    """The same with Adam's direction; options ``betas`` and ``eps`` besides."""

    def dual_direction(
        self, gradient: Tensor, weight: Tensor, state: dict[str, Any], group: dict[str, Any]
    ) -> Tensor:
        """Return the first moment over the root of the second, both without bias."""
        if group["weight_decay"] != 0:
            gradient = gradient.add(weight, alpha=group["weight_decay"])
        beta1, beta2 = group["betas"]
        for key, beta, value in (("m1", beta1, gradient), ("m2", beta2, gradient**2)):
            if key not in state:
                state[key] = torch.zeros_like(gradient)
            state[key].lerp_(value, 1 - beta)
        m1 = state["m1"] / (1 - beta1 ** state["t"])
        m2 = state["m2"] / (1 - beta2 ** state["t"])
        return torch.div(m1, m2.sqrt() + group["eps"])


class LinBreg(Method[BregmanSettings]):
    r"""Linearised Bregman iterations: an inverse scale space, where weights wake one after the other.

    .. math:: v \leftarrow v - \gamma \, m, \qquad w = \delta \, S(v, \lambda), \qquad
              v_0 = w_0 / \delta + \lambda \, \mathrm{sign}(w_0)

    with m the direction of SGD, and w_0 the initial weights of which a few are kept at random, scaled up to
    keep their variance. What is not pruned at all has lambda = 0. With delta = 1 this is gRDA with a constant
    threshold.

    References:
        Bungert, Roith, Tenbrinck, Burger 2022, "A Bregman learning framework for sparse neural networks",
        algorithms 1 and 2, section 4.1 (initialisation).
    """

    facts = Facts(
        title="LinBreg",
        paper="Bungert et al. 2022, A Bregman learning framework, JMLR 23, 2105.04319",
        adaptive=False,
        strength="l1",
        search=(Search("l1", 1e-4, 0.5), Search("density", 1e-3, 0.3)),
    )

    @torch.no_grad()
    def _prepare(self) -> None:
        density = self.settings.density
        for parameter in self.prunable.values():
            kept = self._drawn(parameter) < density
            parameter.mul_(kept.to(parameter.dtype) / density**0.5)

    def _make_optimizer(self) -> Optimizer:
        plan = self.plan
        defaults = {
            "lr": plan.lr,
            "momentum": plan.momentum,
            "weight_decay": plan.weight_decay,
            "nesterov": plan.nesterov,
        }
        return LinBregOptimizer(self._groups(), defaults)

    def _groups(self) -> list[dict[str, Any]]:
        """Return the groups of what may be sparse and of what is dense."""
        sparse = {"l1": self.settings.l1, "delta": self.settings.delta}
        return [
            {"params": list(self.prunable.values()), **sparse},
            {"params": self._dense(), "l1": 0.0, "delta": 1.0},
        ]

    def work(self, step: int) -> Work:  # noqa: ARG002
        """Return the gradient of the weights as dense."""
        return DENSE_GRADIENT_WORK


class AdaBreg(LinBreg):
    r"""LinBreg with the direction of Adam.

    .. math:: v \leftarrow v - \gamma \hat m_1 / (\sqrt{\hat m_2} + \epsilon), \quad w = \delta S(v, \lambda)

    References:
        Bungert et al. 2022, as above, algorithm 3.
    """

    facts = Facts(
        title="AdaBreg",
        paper="Bungert et al. 2022, A Bregman learning framework, JMLR 23, 2105.04319",
        momentum=False,
        strength="l1",
        search=(Search("l1", 4e-3, 3.0), Search("lr", 1e-4, 1e-2), Search("density", 1e-3, 0.3)),
    )
    settings: AdaBregSettings

    def _make_optimizer(self) -> Optimizer:
        settings = self.settings
        defaults = {
            "lr": settings.lr,
            "betas": settings.betas,
            "eps": settings.eps,
            "weight_decay": self.plan.weight_decay,
        }
        return AdaBregOptimizer(self._groups(), defaults)
