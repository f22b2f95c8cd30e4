"""Norms of the weights over the course of training."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dirprune.landscape.files import Progress, Result, no_progress
from dirprune.landscape.objective import Objective, State


@dataclass(frozen=True)
class Norms:
    """|w|_0 (number of weights that are not zero), |w|_1 and |w|_2."""

    l0: int
    l1: float
    l2: float

    @classmethod
    def of(cls, weights: Tensor) -> "Norms":
        """Take the norms of a vector [d], summed in float64.

        Example:
            >>> Norms.of(torch.tensor([3.0, 0.0, -4.0]))
            Norms(l0=2, l1=7.0, l2=5.0)
        """
        w = weights.double()
        return cls(int(torch.count_nonzero(w)), w.abs().sum().item(), w.norm().item())

    @property
    def ratio(self) -> float:
        """|w|_2 / |w|_1: between d^(-1/2) and 1, greater for sparser weights; NaN where all are zero."""
        return self.l2 / self.l1 if self.l1 else float("nan")


@dataclass(frozen=True, eq=False)
class NormSeries(Result):
    """Norms of two runs at the epochs of which both have snapshots."""

    kind: ClassVar[str] = "norms"
    epochs: tuple[int, ...]
    sgd: tuple[Norms, ...]
    grda: tuple[Norms, ...]


def norm_series(
    objective: Objective,
    epochs: tuple[int, ...],
    load: Callable[[int], tuple[State, State]],
    *,
    progress: Progress = no_progress,
) -> NormSeries:
    """Take the norms of paired checkpoints.

    Args:
        objective: Says which tensors are weights.
        epochs: Of the checkpoints.
        load: State dicts of SGD and gRDA at an epoch.
        progress: Told the checkpoints that are done.

    References:
        Chao et al. 2020, section 4.
    """
    sgd, grda = [], []
    for done, epoch in enumerate(epochs, start=1):
        pair = load(epoch)
        sgd.append(Norms.of(objective.vector(pair[0])))
        grda.append(Norms.of(objective.vector(pair[1])))
        progress("checkpoints", done, len(epochs))
    request = {"epochs": list(epochs), "weights": objective.numel}
    return NormSeries(request, epochs, tuple(sgd), tuple(grda))
