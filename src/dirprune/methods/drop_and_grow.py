"""What SET and RigL share: drop the smallest weights, grow others, at a constant number."""

from abc import abstractmethod

import torch
from torch import Tensor

from dirprune.core.masks import Masks, keep_largest
from dirprune.methods.base import Settings
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

    @abstractmethod
    def fraction(self, step: int) -> float:
        """Return the fraction f of each layer's weights that is replaced after ``step`` steps; often 0."""

    @abstractmethod
    def growth(self, name: str) -> Tensor:
        """Return the score by which weights of a layer are grown: the one decision of such a method."""

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
        growth = self.growth(name)
        if not growth.isfinite().all():  # a step that the scaler of float16 skipped
            return mask
        magnitude = self.prunable[name].abs().masked_fill(~mask, -1)
        survivors = keep_largest({name: magnitude}, kept - dropped)[name]
        growth = growth.masked_fill(survivors, -1)
        return survivors | keep_largest({name: growth}, dropped)[name]
