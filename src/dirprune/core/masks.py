"""Which weights are kept: masks, how many each layer keeps, and the choice by a score."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from dirprune.core.dtypes import wide
from dirprune.errors import UsageError, unknown

Distribution = Literal["global", "uniform", "erk"]
DISTRIBUTIONS: tuple[Distribution, ...] = ("global", "uniform", "erk")


@dataclass(frozen=True, eq=False)
class Masks(Mapping[str, Tensor]):
    """Masks by parameter name: boolean tensors, True where the weight is kept.

    Raises:
        UsageError: A mask is not boolean.

    Example:
        >>> masks = Masks({"weight": torch.tensor([True, False])})
        >>> masks.kept, masks.numel
        (1, 2)
    """

    tensors: Mapping[str, Tensor]

    def __post_init__(self) -> None:
        for name, mask in self.tensors.items():
            if mask.dtype != torch.bool:
                raise UsageError(f"a mask must be boolean; the one of {name} is {mask.dtype}")

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    @property
    def kept(self) -> int:
        """Number of weights that are kept."""
        return sum(int(mask.sum()) for mask in self.values())

    @property
    def numel(self) -> int:
        """Number of weights."""
        return sum(mask.numel() for mask in self.values())

    def zero_(self, tensors: Mapping[str, Tensor]) -> None:
        """Set to zero, in place, what is not kept; a NaN or an infinity there goes too."""
        with torch.no_grad():
            for name, tensor in tensors.items():
                tensor.masked_fill_(~self[name], 0)


def all_kept(tensors: Mapping[str, Tensor]) -> Masks:
    """Masks that keep everything."""
    return Masks({name: torch.ones_like(tensor, dtype=torch.bool) for name, tensor in tensors.items()})


def number_kept(numel: int, sparsity: float) -> int:
    """Return how many of ``numel`` weights are kept at a sparsity: numel - round(sparsity numel)."""
    return numel - round(sparsity * numel)


def allocate(shapes: Sequence[torch.Size], keep: int, distribution: Literal["uniform", "erk"]) -> list[int]:
    r"""Share ``keep`` weights out among layers.

    .. math::
        k_l = \min(n_l, \epsilon \, q_l) \text{ rounded}, \qquad
        q_l = n_l \text{ (uniform)}, \quad q_l = \sum_i \text{shape}_{l,i} \text{ (ERK)}

    with epsilon such that the counts sum to ``keep``. Under ERK the density of a convolution is thus
    epsilon (n_in + n_out + height + width) / (n_in n_out height width), and 1 where that is above 1. Counts
    are rounded by a divisor method (Webster's): a smaller ``keep`` never gives a layer more.

    Args:
        shapes: Shapes of the weights.
        keep: Number of weights that are kept in all, from 0 to all of them.
        distribution: ``"uniform"``: one density for all layers; ``"erk"``: as above.

    Returns:
        How many weights each layer keeps.

    Raises:
        UsageError: The distribution is another, or ``keep`` is out of range.

    Example:
        >>> allocate([torch.Size([10, 10]), torch.Size([100, 10])], 130, "erk")
        [20, 110]

    References:
        Mocanu et al. 2018 (Erdos-Renyi); Evci et al. 2020, "Rigging the lottery", section 3 (with kernels).
    """
    if distribution not in DISTRIBUTIONS[1:]:
        raise UsageError(unknown("distribution", distribution, DISTRIBUTIONS[1:]))
    sizes = [shape.numel() for shape in shapes]
    if not 0 <= keep <= sum(sizes):
        raise UsageError(f"between 0 and {sum(sizes)} weights can be kept, not {keep}")
    claims = [
        float(max(n if distribution == "uniform" else sum(s), 1)) for s, n in zip(shapes, sizes, strict=True)
    ]

    def counts(epsilon: float) -> list[int]:
        return [min(n, math.floor(epsilon * q + 0.5)) for q, n in zip(claims, sizes, strict=True)]

    low, high = 0.0, max((n / q for q, n in zip(claims, sizes, strict=True)), default=0.0) + 1
    while low < (middle := (low + high) / 2) < high:  # until the two are neighbours in float64
        low, high = (middle, high) if sum(counts(middle)) <= keep else (low, middle)
    shares = counts(low)
    # Of layers that are rounded up at the same epsilon, the first.
    for layer, more in enumerate(counts(high)):
        shares[layer] += min(more - shares[layer], keep - sum(shares)) if sum(shares) < keep else 0
    return shares


def keep_largest(scores: Mapping[str, Tensor], keep: int, distribution: Distribution = "global") -> Masks:
    """Keep the weights of the greatest scores.

    Args:
        scores: A score for every weight, floating, by parameter name; all on one device.
        keep: Number of weights that are kept in all.
        distribution: ``"global"``: all layers are ranked together. Otherwise each layer keeps the greatest
            of its own, as many as :func:`allocate` gives it.

    Returns:
        Masks in which exactly ``keep`` weights are kept; of equal scores some are.

    Raises:
        UsageError: The distribution is unknown, or ``keep`` is out of range.

    Example:
        >>> keep_largest({"a": torch.tensor([3.0, 1.0]), "b": torch.tensor([2.0])}, 2)["b"]
        tensor([True])
    """
    if distribution not in DISTRIBUTIONS:
        raise UsageError(unknown("distribution", distribution, DISTRIBUTIONS))
    if distribution != "global":
        shares = allocate([score.shape for score in scores.values()], keep, distribution)
        return Masks(
            {n: keep_largest({n: s}, k)[n] for (n, s), k in zip(scores.items(), shares, strict=True)}
        )
    joint = torch.cat([score.detach().flatten() for score in scores.values()])
    if not 0 <= keep <= joint.numel():
        raise UsageError(f"between 0 and {joint.numel()} weights can be kept, not {keep}")
    kept = torch.zeros_like(joint, dtype=torch.bool)
    kept[torch.topk(joint, keep, sorted=False).indices] = True
    parts = torch.split(kept, [score.numel() for score in scores.values()])
    return Masks({n: part.view(s.shape) for (n, s), part in zip(scores.items(), parts, strict=True)})


def kth_smallest(values: Tensor, k: int) -> Tensor:
    """Return the k-th smallest of many values, counted from 1, as a 0-dim tensor of float32 or wider.

    Example:
        >>> kth_smallest(torch.tensor([3.0, 1.0, 2.0]), 2)
        tensor(2.)
    """
    if not 1 <= k <= values.numel():
        raise UsageError(f"k must be from 1 to the number of values, {values.numel()}, got {k}")
    values = values.detach().flatten().to(wide(values.dtype))
    if values.device.type != "cpu":
        return values.kthvalue(k).values
    found = np.partition(values.numpy(), k - 1)[k - 1]  # ten times as fast as torch's there
    return torch.as_tensor(found, device="cpu")
