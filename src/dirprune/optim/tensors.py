"""The tensors of one step of one group, and how they lie in memory."""

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

PLAIN = (Tensor, torch.nn.Parameter)  # what has memory of its own; a subclass may mean anything


class Tensors(NamedTuple):
    """What a step reads and changes, parameter by parameter."""

    params: list[Tensor]
    grads: list[Tensor]
    accumulators: list[Tensor]
    buffers: list[Tensor]  # empty without momentum
    steps: list[Tensor]
    thresholds: list[Tensor]
    squares: list[Tensor]  # empty without beta2

    def select(self, indices: list[int]) -> "Tensors":
        """Return those of some parameters."""
        return Tensors(*([held[i] for i in indices] if held else [] for held in self))


def same_layout(*tensors: Tensor) -> bool:
    """Whether tensors have one shape, no gaps in memory, and their elements in the same order."""
    shape = tensors[0].shape
    if any(t.shape != shape for t in tensors[1:]):
        return False
    if all(t.is_contiguous() for t in tensors):
        return True
    return _same_order(shape, *(t.stride() for t in tensors))


@lru_cache(maxsize=4096)
def _same_order(shape: tuple[int, ...], *strides: tuple[int, ...]) -> bool:
    """Whether strides are the same where they matter, and leave no gaps."""
    significant = [
        [(stride, size) for stride, size in zip(each, shape, strict=True) if size != 1] for each in strides
    ]
    if any(each != significant[0] for each in significant[1:]):
        return False
    elements = 1
    for stride, size in sorted(significant[0]):
        if stride != elements:
            return False
        elements *= size
    return True
