"""Norms of the weights over the course of training."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from dirprune.landscape.files import Progress, Result, no_progress
from dirprune.landscape.objective import Objective, State


@dataclass(frozen=True)
class Norms:
    """|w|_0 (number of weights that are not zero), |w|_1, |w|_2, and the ratio of the last two.

    Attributes:
        ratio: |w|_2 / |w|_1: between d^(-1/2) and 1, greater for sparser weights; NaN where all are zero.
            It follows from the others.
    """

    l0: int
    l1: float
    l2: float
    ratio: float = field(default=math.nan, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "ratio", self.l2 / self.l1 if self.l1 else math.nan)

    @classmethod
    def of(cls, weights: Tensor) -> "Norms":
        """Take the norms of a vector [d], summed in float64.

        Example:
            >>> Norms.of(torch.tensor([3.0, 0.0, -4.0]))
            Norms(l0=2, l1=7.0, l2=5.0)
        """
        w = weights.double()
        return cls(int(torch.count_nonzero(w)), w.abs().sum().item(), w.norm().item())


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
    sgd, grda, networks = [], [], []
    for done, epoch in enumerate(epochs, start=1):
        pair = load(epoch)
        sgd.append(Norms.of(objective.vector(pair[0])))
        grda.append(Norms.of(objective.vector(pair[1])))
        networks.append([objective.digest(state) for state in pair])
        progress("checkpoints", done, len(epochs))
    request = {"epochs": list(epochs), "networks": networks, "weights": objective.numel}
    return NormSeries(request, epochs, tuple(sgd), tuple(grda))
