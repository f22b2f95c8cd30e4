"""RDA: regularised dual averaging with the l1 norm, the ancestor of gRDA."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from dirprune.core.threshold import SoftThreshold
from dirprune.methods.base import DENSE_GRADIENT_WORK, Facts, Method, Search, Work, require
from dirprune.methods.dual import DualOptimizer, direction


@dataclass(frozen=True, kw_only=True)
class RdaSettings:
    """Settings of :class:`RDA`."""

    lr: float = 1.0
    """gamma. Ours: steps shrink as 1 / sqrt(t), so that the rate that suits SGD is far too small."""
    l1: float = 1e-4
    """lambda, the weight of the penalty (ours)."""

    def __post_init__(self) -> None:
        require(self, lr=(0, None), l1=(0, None))


class RDAOptimizer(DualOptimizer):
    """The optimiser; options ``lr``, ``initial_lr`` and ``l1`` of each group."""

    def start(self, weight: Tensor, group: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG002
        """Return an empty sum; time is that of the rates, 1 for a step at the initial one."""
        return {"start": weight.clone(), "sum": torch.zeros_like(weight), "t": 0.0}

    def update(
        self, gradient: Tensor, weight: Tensor, state: dict[str, Any], group: dict[str, Any]
    ) -> Tensor:
        """Add the gradient, and solve the regularised problem."""
        base = group["initial_lr"]
        share = max(group["lr"], 0.0) / base if base else 0.0  # a cosine ends below 0 by rounding
        state["t"] += share
        state["sum"].add_(direction(gradient, weight, state, group), alpha=share)
        if state["t"] == 0:
            return weight
        root = math.sqrt(state["t"])
        return SoftThreshold()(state["start"] - state["sum"] * (base / root), base * group["l1"] * root)


class RDA(Method[RdaSettings]):
    r"""l1-regularised dual averaging.

    .. math::
        w_{n+1} = \arg\min_w \; \sum_{i \le n} a_i \bigl(\langle g_i, w \rangle + \lambda |w|_1\bigr)
                  + \frac{\sqrt t}{2 \gamma} |w - w_1|^2
                = S\Bigl(w_1 - \frac{\gamma}{\sqrt t} \sum_{i \le n} a_i g_i, \;
                  \gamma \lambda \sqrt t\Bigr), \qquad
        a_i = \frac{\gamma_i}{\gamma}, \quad t = \sum_{i \le n} a_i

    With a constant rate t is the number of steps. A schedule weighs gradient and penalty of a step alike: if
    only the gradient were weighed, a falling rate would pull the network back to its start and to zero. gRDA
    differs in that what has accumulated is not divided by sqrt(t), and in the threshold's exponent.

    References:
        Xiao 2010, "Dual averaging methods for regularized stochastic learning and online optimization",
        algorithm 1 and equation 10 (there with w_1 = 0 and gamma for 1 / gamma); weights of the steps:
        Nesterov 2009, "Primal-dual subgradient methods for convex problems".
    """

    facts = Facts(
        title="RDA, l1",
        paper="Xiao 2010, Dual averaging methods, JMLR 11",
        adaptive=False,
        strength="l1",
        search=(
            Search("l1", 1e-4, 2e-3, momentum_power=-1),
            Search("lr", 0.1, 30, momentum_power=1),
        ),
    )

    def _make_optimizer(self) -> Optimizer:
        plan = self.plan
        defaults = {
            "lr": self.settings.lr,
            "initial_lr": self.settings.lr,
            "momentum": plan.momentum,
            "weight_decay": plan.weight_decay,
            "nesterov": plan.nesterov,
        }
        groups = [
            {"params": list(self.prunable.values()), "l1": self.settings.l1},
            {"params": self._dense(), "l1": 0.0},
        ]
        return RDAOptimizer(groups, defaults)

    def work(self, step: int) -> Work:  # noqa: ARG002
        """Return the gradient of the weights as dense."""
        return DENSE_GRADIENT_WORK
