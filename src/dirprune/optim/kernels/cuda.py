"""One step on a GPU by a Triton kernel, one launch for each combination of types in a group."""

from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from itertools import repeat
from typing import Any

import torch
from torch import Tensor

from dirprune.core.dtypes import wide
from dirprune.core.threshold import DAMPING, HardThreshold, ThresholdRule
from dirprune.optim.kernels import UnavailableError
from dirprune.optim.kernels.suit import row_size, which_suit
from dirprune.optim.tensors import Tensors
from dirprune.optim.update import advance

try:
    import triton
except ImportError as error:
    raise UnavailableError(f"Triton cannot be imported: {error}") from error

from dirprune.optim.kernels.triton_grda import BLOCK, grda, rescale

_TYPES = {
    torch.float16: triton.language.float16,
    torch.bfloat16: triton.language.bfloat16,
    torch.float32: triton.language.float32,
    torch.float64: triton.language.float64,
}


def step(
    group: dict[str, Any],
    rule: ThresholdRule,
    lr: float,
    tensors: Tensors,
    unscale: float,
    _plans: dict[int, Any],
) -> list[int]:
    """Take one step with every parameter that the kernel can take.

    Args:
        group: The options, as in ``param_groups``.
        rule: From the accumulator to the weight: the soft threshold, the hard one, or the rescaled soft one.
        lr: The learning rate.
        tensors: Changed in place. All on one device, or left.
        unscale: What the gradients are first multiplied with, in place.
        _plans: Not used: a GPU waits for its memory longer than for its host.

    Returns:
        Indices of the parameters that were left as they were, for another path.
    """
    device = tensors.params[0].device
    suit = which_suit(tensors, device.type, rows=not rule.elementwise)
    taken = [i for i in suit if tensors.params[i].device == device]
    launches: dict[tuple[torch.dtype, torch.dtype], list[int]] = {}
    for i in taken:
        launches.setdefault((tensors.params[i].dtype, tensors.accumulators[i].dtype), []).append(i)
    for types, indices in launches.items():
        _launch(group, rule, lr, tensors.select(indices), unscale, types)
    if taken:
        torch.autograd.graph.increment_version([tensors.params[i] for i in taken])
    return sorted(set(range(len(tensors.params))) - set(taken))


def _launch(
    group: dict[str, Any],
    rule: ThresholdRule,
    lr: float,
    tensors: Tensors,
    unscale: float,
    types: tuple[torch.dtype, torch.dtype],
) -> None:
    """Update tensors of one pair of types."""
    params, grads, accumulators, buffers, steps, thresholds, _ = tensors
    device, count = params[0].device, len(params)
    taus = [advance(group, lr, n, tau) for n, tau in zip(steps, thresholds, strict=True)]
    sizes = tuple(p.numel() for p in params)
    numbers = [
        *map(Tensor.data_ptr, params),
        *map(Tensor.data_ptr, grads),
        *map(Tensor.data_ptr, accumulators),
        *(map(Tensor.data_ptr, buffers) if buffers else repeat(0, count)),
        *sizes,
        *(int(n.item()) for n in steps),
    ]
    # One transfer: the thresholds go as the integers that their bits are.
    table = torch.tensor(numbers, dtype=torch.int64, device="cpu")
    bits = torch.tensor(taus, dtype=torch.float64, device="cpu").view(torch.int64)
    scalars = [lr, group["momentum"], group["weight_decay"], unscale]
    table = torch.cat([table, bits])
    options = torch.tensor(scalars, dtype=torch.float64, device="cpu")
    if device.type == "cuda":
        table, options = (t.pin_memory().to(device, non_blocking=True) for t in (table, options))
    pieces = _pieces(sizes, device)
    if not len(pieces):
        return
    with _current(device):
        grda[(len(pieces),)](
            table,
            pieces,
            count,
            options,
            WEIGHT=_TYPES[types[0]],
            ACCUMULATOR=_TYPES[types[1]],
            REAL=_TYPES[wide(types[0])],
            MOMENTUM=group["momentum"] != 0,
            NESTEROV=bool(group["nesterov"]),
            DECAY=group["weight_decay"] != 0,
            MAXIMIZE=bool(group["maximize"]),
            UNSCALE=unscale != 1,
            ROUND=types[1] == torch.bfloat16,
            HARD=type(rule) is HardThreshold,
            SIZE=BLOCK,
            enable_fp_fusion=False,
        )
        rows = () if rule.elementwise else _rows(sizes, tuple(map(row_size, params)), device)
        if len(rows):
            rescale[(len(rows),)](
                table,
                rows,
                count,
                WEIGHT=_TYPES[types[0]],
                REAL=_TYPES[wide(types[0])],
                DAMPING=DAMPING,
                LEAST=torch.finfo(wide(types[0])).tiny,
                SIZE=BLOCK,
                enable_fp_fusion=False,
            )


def _current(device: torch.device) -> AbstractContextManager[Any]:
    """Make a GPU the current one, on which Triton launches whatever the tensors are on."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


@lru_cache(maxsize=64)
def _pieces(sizes: tuple[int, ...], device: torch.device) -> Tensor:
    """Return the tensor and the first element of each piece of work, int64 [pieces, 2]."""
    pieces = [(i, first) for i, size in enumerate(sizes) for first in range(0, size, BLOCK)]
    return torch.tensor(pieces, dtype=torch.int64, device="cpu").view(-1, 2).to(device)


@lru_cache(maxsize=64)
def _rows(sizes: tuple[int, ...], row_sizes: tuple[int, ...], device: torch.device) -> Tensor:
    """Return the tensor, the first element and the number of elements of each row, int64 [rows, 3]."""
    rows = [
        (i, first, row)
        for i, (size, row) in enumerate(zip(sizes, row_sizes, strict=True))
        for first in (range(0, size, row) if row else ())
    ]
    return torch.tensor(rows, dtype=torch.int64, device="cpu").view(-1, 3).to(device)
