"""Which tensors a kernel can take: those whose values are what lies at their address."""

from operator import attrgetter

import torch
from torch import Tensor

from dirprune.core.dtypes import wide
from dirprune.optim.tensors import PLAIN, Tensors, same_layout

# Types of weight and accumulator that the kernels know.
_TYPES = {
    (torch.float16, torch.float32),
    (torch.bfloat16, torch.float32),
    (torch.float32, torch.float32),
    (torch.float64, torch.float64),
    (torch.float16, torch.bfloat16),
    (torch.bfloat16, torch.bfloat16),
    (torch.float32, torch.bfloat16),
}
_WIDE = {weight: wide(weight) for weight, _ in _TYPES}  # of the momentum
_PLAIN = frozenset(PLAIN)
_dtype, _shape, _is_cpu = attrgetter("dtype"), attrgetter("shape"), attrgetter("is_cpu")
_IS_ON = {"cpu": _is_cpu, "cuda": attrgetter("is_cuda")}


def all_suit(tensors: Tensors, kind: str) -> bool:
    """Whether a kernel can take all of these: plain memory of one kind of device, of known types and layouts.

    Args:
        tensors: Step and threshold must be on the CPU.
        kind: Of the device, "cpu" or "cuda".
    """
    params, grads, accumulators, buffers, steps, thresholds, _ = tensors
    operands = [*params, *grads, *accumulators, *buffers]
    counters = steps + thresholds
    types = list(map(_dtype, params))
    shapes = list(map(_shape, params))
    lists = [held for held in tensors[:4] if held]
    return (
        _PLAIN.issuperset(map(type, operands + counters))
        and all(map(_IS_ON[kind], operands))
        and all(map(_is_cpu, counters))
        and not any(map(Tensor.is_neg, params + grads))
        and not any(map(Tensor.is_inference, params))
        and _TYPES.issuperset(zip(types, map(_dtype, accumulators), strict=True))
        and types == list(map(_dtype, grads))
        and all(_WIDE[t] is m.dtype for t, m in zip(types, buffers, strict=False))
        and {torch.float64}.issuperset(map(_dtype, counters))
        and all(list(map(_shape, held)) == shapes for held in lists[1:])
        and (all(map(Tensor.is_contiguous, operands)) or all(map(same_layout, *lists)))
    )


def which_suit(tensors: Tensors, kind: str, *, rows: bool = False) -> list[int]:
    """Return the indices of the parameters that a kernel can take.

    Args:
        tensors: Step and threshold must be on the CPU.
        kind: Of the device, "cpu" or "cuda".
        rows: Whether a weight depends on its whole row, which then has to lie together.
    """
    indices = list(range(len(tensors.params)))
    if not all_suit(tensors, kind):
        indices = [i for i in indices if all_suit(tensors.select([i]), kind)]
    if rows:
        indices = [i for i in indices if _has_rows(tensors.params[i], tensors.accumulators[i])]
    return indices


def row_size(tensor: Tensor) -> int:
    """Elements at one index of the first dimension; 0 where there are fewer than two dimensions, or none."""
    return tensor.numel() // len(tensor) if tensor.ndim > 1 and len(tensor) else 0


def _has_rows(parameter: Tensor, accumulator: Tensor) -> bool:
    """Whether each row lies together, and its accumulators are kept as wide as they are computed."""
    row = row_size(parameter)
    if not row:
        return True
    together = len(parameter) == 1 or parameter.stride(0) == row
    return together and accumulator.dtype is not torch.bfloat16
