"""SET: grow at random."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dirprune.methods.base import Facts, Search, require
from dirprune.methods.drop_and_grow import DropAndGrow


@dataclass(frozen=True, kw_only=True)
class SetSettings:
    """Settings of :class:`SET`."""

    drop: float = 0.3
    """zeta, the fraction of each layer's weights that is replaced after every epoch (the paper's value)."""

    def __post_init__(self) -> None:
        require(self, drop=(0, 1))


class SET(DropAndGrow[SetSettings]):
    r"""Sparse evolutionary training: after every epoch the smallest weights give way to random ones.

    .. math:: \text{drop the } \zeta k_l \text{ smallest } |w|, \quad \text{grow } \zeta k_l \text{ at random}

    Positive and negative weights are ranked together (ours; the paper drops a share of each). The network
    starts as an Erdos-Renyi graph. New weights are normal, with the deviation that the layer's weights had at
    first (ours; the paper says random). The last epoch is not followed by an update, as in the paper.

    References:
        Mocanu et al. 2018, "Scalable training of artificial neural networks with adaptive sparse connectivity
        inspired by network science", algorithm 1.
    """

    facts = Facts(
        title="SET",
        paper="Mocanu et al. 2018, Scalable training with adaptive sparse connectivity, 1707.04780",
        needs_target=True,
        search=(Search("drop", 0.1, 0.5, log=False),),
    )

    def fraction(self, step: int) -> float:
        """Return zeta at the end of every epoch but the last."""
        over = step % self.plan.steps_per_epoch == 0 and step < self.plan.total_steps
        return self.settings.drop if over else 0.0

    def growth(self, name: str) -> Tensor:
        """Return random scores."""
        return self._drawn(self.prunable[name])

    def _prepare(self) -> None:
        self._deviations = {name: float(p.detach().std(correction=0)) for name, p in self.prunable.items()}
        super()._prepare()

    @torch.no_grad()
    def initialise(self, name: str, grown: Tensor) -> None:
        """Draw new weights."""
        weight = self.prunable[name]
        noise = torch.randn(weight.shape, generator=self.generator, device="cpu").to(weight)
        weight.copy_(torch.where(grown, self._deviations[name] * noise, weight))

    def state_dict(self) -> dict[str, Any]:
        """Return the deviations too."""
        return {**super().state_dict(), "deviations": dict(self._deviations)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the deviations too."""
        super().load_state_dict(state)
        self._deviations = dict(state["deviations"])
