"""SET, and what RigL shares with it: drop the smallest weights, grow others, at a constant number."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dirprune.core.masks import Masks, keep_largest
from dirprune.methods.base import Facts, Search, Settings, require
from dirprune.methods.masked import Masked


class DropAndGrow(Masked[Settings]):
    """Dynamic sparse training: a sparse network from the start, whose connections move within each layer.

    At an update each layer of n_l kept weights drops the f n_l of smallest magnitude and grows as many of
    those not kept, by a score. New weights start without momentum; one that is dropped and grown at once
    keeps its value and momentum. Where the papers put an update in the place of a step of SGD, it follows
    the step here, so that all methods take the same steps.
    """

    def _prepare(self) -> None:
        noise = {name: self._drawn(parameter) for name, parameter in self.prunable.items()}
        self.masks = keep_largest(noise, self._kept(self._target), "erk")
        self.masks.zero_(self.prunable)

    def fraction(self, step: int) -> float:
        """Return the fraction f of each layer's weights that is replaced after ``step`` steps; often 0."""
        raise NotImplementedError

    def growth(self, name: str) -> Tensor:
        """Return the score by which weights of a layer are grown: the one decision of such a method."""
        raise NotImplementedError

    def after_step(self, step: int) -> None:
        """Move connections if it is time."""
        self.apply()
        fraction = self.fraction(step)
        if fraction > 0:
            before = self.masks
            self.masks = Masks({name: self._moved(name, fraction) for name in self.prunable})
            self.apply()
            for name, mask in self.masks.items():
                self.initialise(name, mask & ~before[name])

    def initialise(self, name: str, grown: Tensor) -> None:
        """Give a layer's new weights their first values, in place; they are zero."""

    @torch.no_grad()
    def _moved(self, name: str, fraction: float) -> Tensor:
        """Return a layer's new mask."""
        mask = self.masks[name]
        kept = int(mask.sum())
        dropped = min(int(fraction * kept), mask.numel() - kept)
        magnitude = self.prunable[name].abs().masked_fill(~mask, -1)
        survivors = keep_largest({name: magnitude}, kept - dropped)[name]
        growth = self.growth(name).masked_fill(survivors, -1)
        return survivors | keep_largest({name: growth}, dropped)[name]


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

    The network starts as an Erdos-Renyi graph. New weights are normal, with the deviation that the
    layer's weights had at first (ours; the paper says random). The last epoch is not followed by an update,
    as in the paper.

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
