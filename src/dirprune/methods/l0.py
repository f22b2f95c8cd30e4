"""L0 regularisation through hard concrete gates."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from dirprune.core.dtypes import wide
from dirprune.methods.base import Facts, Search, require
from dirprune.methods.parametrised import Parametrised

BETA, GAMMA, ZETA = 2 / 3, -0.1, 1.1  # temperature and stretch of the gates, as the paper chose them


@dataclass(frozen=True, kw_only=True)
class L0Settings:
    """Settings of :class:`L0`."""

    lr: float = 1e-3
    """Learning rate of Adam, for weights and gates (Adam and its rate as in the paper's MNIST runs)."""
    strength: float = 1.0
    """lambda, the price of a weight; divided by the number of training examples. Ours, within what is
    searched: the paper prices neurons, where this is the price of each weight."""
    drop_rate: float = 0.3
    """Initial probability that a gate is closed, before the stretch (the paper's Wide ResNet)."""

    def __post_init__(self) -> None:
        require(self, lr=(0, None), strength=(0, None), drop_rate=(1e-6, 1 - 1e-6))


class HardConcrete(nn.Module):
    r"""A gate for every weight, that is exactly 0 or 1 with positive probability.

    .. math::
        s = \sigma\bigl((\log u - \log(1 - u) + \log \alpha) / \beta\bigr), \qquad
        z = \min(1, \max(0, s (\zeta - \gamma) + \gamma)), \qquad u \sim U(0, 1)

    and in evaluation z with s = sigma(log alpha).
    """

    def __init__(self, weight: Tensor, drop_rate: float) -> None:
        super().__init__()
        start = math.log(1 - drop_rate) - math.log(drop_rate)
        noise = torch.empty_like(weight, dtype=wide(weight.dtype)).normal_(std=0.01)
        self.log_alpha = nn.Parameter(start + noise)

    def gate(self) -> Tensor:
        """Return z: drawn while training, the deterministic one in evaluation."""
        if self.training:
            # the logistic noise log u - log(1 - u), with u away from 0 and 1
            noise = torch.empty_like(self.log_alpha).uniform_(1e-6, 1 - 1e-6).logit()
            s = torch.sigmoid((noise + self.log_alpha) / BETA)
        else:
            s = torch.sigmoid(self.log_alpha)
        return (s * (ZETA - GAMMA) + GAMMA).clamp(0, 1)

    def open_probability(self) -> Tensor:
        """Return P(z != 0) = sigma(log alpha - beta log(-gamma / zeta))."""
        return torch.sigmoid(self.log_alpha - BETA * math.log(-GAMMA / ZETA))

    def forward(self, v: Tensor) -> Tensor:
        """Return z v."""
        return (self.gate() * v).to(v.dtype)


class L0(Parametrised[L0Settings]):
    r"""Train weights and gates together, at a price for every gate that may open.

    .. math:: \min_{v, \alpha} \; E_z L(z \odot v) + \frac{\lambda}{N} \sum_j P(z_j \neq 0 \mid \alpha_j)

    One gate for each weight and one draw for each batch; the paper's own experiments gate whole neurons.

    References:
        Louizos, Welling, Kingma 2018, "Learning sparse neural networks through L0 regularization", sections
        2.2 and 4, equations 10 to 13.
    """

    facts = Facts(
        title="L0 (hard concrete)",
        paper="Louizos et al. 2018, Learning sparse neural networks through L0 regularization, 1712.01312",
        momentum=False,
        strength="strength",
        search=(Search("strength", 0.1, 20), Search("lr", 1e-4, 1e-2)),
    )

    def parametrisation(self, weight: nn.Parameter) -> nn.Module:
        """Return gates."""
        return HardConcrete(weight, self.settings.drop_rate)

    def _make_optimizer(self) -> Optimizer:
        others, gates = self._apart()
        groups: list[dict[str, Any]] = [
            {"params": others, "weight_decay": self.plan.weight_decay},
            {"params": gates},
        ]
        return Adam(groups, lr=self.settings.lr)

    def penalty(self, step: int) -> Tensor:  # noqa: ARG002
        """Return lambda / N times the expected number of open gates."""
        expected = [module.open_probability().sum() for module in self.modules.values()]
        return self.settings.strength / self.plan.examples * torch.stack(expected).sum()
