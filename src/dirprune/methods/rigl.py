"""RigL: grow where the dense gradient is greatest."""

from dataclasses import dataclass

import torch
from torch import Tensor

from dirprune.core.schedules import CosineDecay
from dirprune.methods.base import DENSE_GRADIENT_WORK, SPARSE_WORK, Facts, Search, Work, require
from dirprune.methods.drop_and_grow import DropAndGrow


@dataclass(frozen=True, kw_only=True)
class RigLSettings:
    """Settings of :class:`RigL`; the defaults are the paper's."""

    drop: float = 0.3
    """alpha, the fraction of each layer's weights that the first updates replace."""
    every: int = 100
    """Delta T, steps between two updates."""
    end: float = 0.75
    """Fraction of training after which connections stay."""

    def __post_init__(self) -> None:
        require(self, drop=(0, 1), every=(1, None), end=(0, 1))


class RigL(DropAndGrow[RigLSettings]):
    r"""Drop the smallest weights, grow those of the greatest gradient.

    .. math:: f_t = \frac{\alpha}{2} \Bigl(1 + \cos \frac{t \pi}{T_{end}}\Bigr), \qquad
              \text{grow: the greatest } |\nabla_w L| \text{ among those not kept}

    Starts from a random network with Erdos-Renyi-kernel densities.

    References:
        Evci et al. 2020, "Rigging the lottery: making all tickets winners", section 3 and algorithm 1.
    """

    facts = Facts(
        title="RigL (ERK)",
        paper="Evci et al. 2020, Rigging the lottery, 1911.11134",
        needs_target=True,
        search=(Search("drop", 0.1, 0.5, log=False), Search("every", 50, 500)),
    )

    def fraction(self, step: int) -> float:
        """Return the cosine decay, every Delta T steps until the end."""
        schedule = CosineDecay(self.settings.drop, self.plan.steps(self.settings.end))
        return schedule(step) if step % self.settings.every == 0 else 0.0

    def growth(self, name: str) -> Tensor:
        """Return the magnitude of the gradient of the step just taken; it is dense."""
        parameter = self.prunable[name]
        return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.abs()

    def work(self, step: int) -> Work:
        """Return sparse passes, with a dense gradient where connections move."""
        return DENSE_GRADIENT_WORK if self.fraction(step) > 0 else SPARSE_WORK
