"""One step on the CPU by the compiled kernel."""

from array import array
from itertools import repeat
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor

from dirprune.core.threshold import threshold_increment
from dirprune.optim.kernels import compiled
from dirprune.optim.kernels.suit import which_suit
from dirprune.optim.tensors import PLAIN, Tensors

# Types as grda.cpp numbers them.
_NUMBERS = {torch.float16: 0, torch.bfloat16: 1, torch.float32: 2, torch.float64: 3}

# Parameters of a group; with gradients and accumulators more than a second-level cache holds. Above it
# weights go to memory past the caches, which would read them first only to overwrite them.
_STREAM_ABOVE = 100_000


# By map and without loops, for a small network's step is over in the time of a hundred Python instructions.
_dtype = attrgetter("dtype")
_PLAIN = frozenset(PLAIN)


def step(
    group: dict[str, Any], lr: float, tensors: Tensors, unscale: float, plans: dict[int, Any]
) -> list[int]:
    """Take one step with every parameter that the kernel can take.

    Args:
        group: The options, as in ``param_groups``.
        lr: The learning rate.
        tensors: Changed in place.
        unscale: What the gradients are first multiplied with, in place.
        plans: What this function keeps from one step to the next.

    Returns:
        Indices of the parameters that were left as they were, for another path.
    """
    library = compiled.library()
    plan = plans.get(id(group))
    if plan is None or not plan.renew(tensors):
        indices = which_suit(tensors, "cpu")
        if not library.has_float16():
            indices = [i for i in indices if tensors.params[i].dtype is not torch.float16]
        plan = Plan(tensors, indices)
        if not plan.left:
            plans[id(group)] = plan
    address, count = plan.address, plan.count
    c, mu = float(group["c"]), float(group["mu"])
    first = 0
    while first < count:  # once, unless parameters have taken different numbers of steps
        end = first + library.alike(address, count, first)
        increment = threshold_increment(plan.steps[first].item(), lr, c, mu)
        library.advance(address, count, first, end, increment)
        first = end
    library.grda(
        address,
        count,
        lr,
        group["momentum"],
        group["weight_decay"],
        unscale,
        group["nesterov"],
        group["maximize"],
        _STREAM_ABOVE,
        compiled.threads(),
        compiled.parallel(),
    )
    torch.autograd.graph.increment_version(plan.params)
    return plan.left


class Plan:
    """The table of a step, and by what to know that the next step's is the same but for the gradients.

    It holds the tensors, so that no other can come to have the identity of one of them.
    """

    def __init__(self, tensors: Tensors, indices: list[int]) -> None:
        self.left = sorted(set(range(len(tensors.params))) - set(indices))
        taken = tensors.select(indices) if self.left else tensors
        params, grads, accumulators, buffers, steps, thresholds = taken
        self.params, self.steps, self.count = params, steps, len(params)
        self.moved = [*params, *accumulators, *buffers]
        self.held = [*self.moved, *steps, *thresholds]
        self.identities = list(map(id, self.held))
        self.addresses = list(map(Tensor.data_ptr, self.moved))
        self.sizes, self.strides = list(map(Tensor.numel, params)), list(map(Tensor.stride, params))
        self.contiguous = all(map(Tensor.is_contiguous, params))
        self.dtypes = list(map(_dtype, params))
        n = self.count
        self.table = array(
            "q",
            [
                *self.addresses[:n],
                *map(Tensor.data_ptr, grads),
                *self.addresses[n : 2 * n],
                *(self.addresses[2 * n :] or repeat(0, n)),
                *map(Tensor.data_ptr, steps),
                *map(Tensor.data_ptr, thresholds),
                *self.sizes,
                *(_NUMBERS[dtype] for dtype in self.dtypes),
                *(_NUMBERS[v.dtype] for v in accumulators),
            ],
        )
        self.address = self.table.buffer_info()[0]

    def renew(self, tensors: Tensors) -> bool:
        """Take over new gradients; whether they and all else are as they were, but for their addresses."""
        params, grads, accumulators, buffers, steps, thresholds = tensors
        # Nothing looks into the counters: they are 0-dim, and reading so much memory would cost more than
        # the step of a small network.
        moved = [*params, *accumulators, *buffers]
        if (
            list(map(id, [*moved, *steps, *thresholds])) != self.identities
            or list(map(Tensor.data_ptr, moved)) != self.addresses
            or not _PLAIN.issuperset(map(type, grads))
            or list(map(_dtype, grads)) != self.dtypes
            or list(map(Tensor.numel, grads)) != self.sizes
            or any(map(Tensor.is_neg, grads))
            or not (
                all(map(Tensor.is_contiguous, params + grads))
                if self.contiguous
                else list(map(Tensor.stride, params)) == list(map(Tensor.stride, grads)) == self.strides
            )
        ):
            return False
        self.table[self.count : 2 * self.count] = array("q", map(Tensor.data_ptr, grads))
        return True
