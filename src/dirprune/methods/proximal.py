"""Proximal SGD with an l1 penalty: what pruning by a convex penalty gives."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.optim import SGD, Optimizer

from dirprune.core.threshold import SoftThreshold
from dirprune.methods.base import DENSE_GRADIENT_WORK, Facts, Method, Search, Work, require


@dataclass(frozen=True, kw_only=True)
class ProximalSettings:
    """Settings of :class:`ProximalL1`."""

    l1: float = 1e-4
    """lambda, the weight of the penalty (ours; it is the one number to tune)."""

    def __post_init__(self) -> None:
        require(self, l1=(0, None))


class ProximalSGD(SGD):
    """torch's SGD followed by the proximal map of ``lr * l1 * |w|_1``; ``l1`` is an option of each group."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step; returns what the closure returned, or None."""
        loss = super().step(closure)
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None and group["l1"] > 0:
                    threshold = max(0.0, float(group["lr"] * group["l1"]))  # schedules miss 0 by rounding
                    SoftThreshold().write(parameter.clone(), threshold, parameter)
        return loss


class ProximalL1(Method[ProximalSettings]):
    r"""Stochastic proximal gradient with the l1 norm.

    .. math:: w \leftarrow S(w - \gamma \, m, \; \gamma \lambda), \qquad
              S(v, \tau)_j = \mathrm{sign}(v_j) \max(|v_j| - \tau, 0)

    with m the direction of SGD. Zeros come and go: the threshold of a step is small, and so is the noise that
    it has to beat.

    References:
        Duchi and Singer 2009, "Efficient online and batch learning using forward backward splitting",
        section 2 and equation 19.
    """

    facts = Facts(
        title="proximal SGD, l1",
        paper="Duchi and Singer 2009, Forward backward splitting, JMLR 10",
        adaptive=False,
        strength="l1",
        search=(Search("l1", 1e-4, 6e-3, momentum_power=-1),),
    )

    def _make_optimizer(self) -> Optimizer:
        plan = self.plan
        groups = [
            {"params": list(self.prunable.values()), "l1": self.settings.l1},
            {"params": self._dense(), "l1": 0.0},
        ]
        return ProximalSGD(
            groups, lr=plan.lr, momentum=plan.momentum, weight_decay=plan.weight_decay, nesterov=plan.nesterov
        )

    def work(self, step: int) -> Work:  # noqa: ARG002
        """Return the gradient of the weights as dense."""
        return DENSE_GRADIENT_WORK
