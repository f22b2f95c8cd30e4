"""One step on the CPU by the compiled kernel."""

from array import array
from itertools import repeat
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor

from dirprune.core.threshold import (
    HardThreshold,
    RescaledSoftThreshold,
    SoftThreshold,
    ThresholdRule,
    threshold_increment,
)
from dirprune.optim.kernels import compiled
from dirprune.optim.kernels.suit import row_size, which_suit
from dirprune.optim.tensors import PLAIN, Tensors

# Types and rules as grda.cpp numbers them.
_NUMBERS = {torch.float16: 0, torch.bfloat16: 1, torch.float32: 2, torch.float64: 3}
_RULES: dict[type, int] = {SoftThreshold: 0, HardThreshold: 1, RescaledSoftThreshold: 2}

# Parameters of a group; with gradients and accumulators more than a second-level cache holds. Above it
# weights go to memory past the caches, which would read them first only to overwrite them.
_STREAM_ABOVE = 100_000


# By map and without loops, for a small network's step is over in the time of a hundred Python instructions.
_dtype, _shape = attrgetter("dtype"), attrgetter("shape")
_PLAIN = frozenset(PLAIN)


def step(
    group: dict[str, Any],
    rule: ThresholdRule,
    lr: float,
    tensors: Tensors,
    unscale: float,
    plans: dict[int, Any],
) -> list[int]:
    """Take one step with every parameter that the kernel can take.

    Args:
        group: The options, as in ``param_groups``.
        rule: From the accumulator to the weight, one of those that grda.cpp knows.
        lr: The learning rate.
        tensors: Changed in place.
        unscale: What the gradients are first multiplied with, in place.
        plans: What this function keeps from one step to the next.

    Returns:
        Indices of the parameters that were left as they were, for another path.
    """
    library = compiled.library()
    plan = plans.get(id(group))
    rows = not rule.elementwise
    if plan is None or plan.rows != rows or not plan.renew(tensors):
        indices = which_suit(tensors, "cpu", rows=rows)
        if not library.has_float16():
            indices = [i for i in indices if tensors.params[i].dtype is not torch.float16]
        plan = Plan(tensors, indices, rows=rows)
        if not plan.left:
            plans[id(group)] = plan
    c, mu = float(group["c"]), float(group["mu"])
    runs = library.runs(plan.address, plan.count, plan.address_of_numbers)
    increments: dict[float, float] = {}
    for i in range(runs):  # one, unless parameters have taken different numbers of steps
        n = plan.numbers[i]
        if n not in increments:
            increments[n] = threshold_increment(n, lr, c, mu)
        plan.numbers[i] = increments[n]
    library.grda(
        plan.address,
        plan.count,
        plan.address_of_numbers,
        runs,
        lr,
        group["momentum"],
        group["weight_decay"],
        unscale,
        bool(group["nesterov"]),
        bool(group["maximize"]),
        _RULES[type(rule)],
        _STREAM_ABOVE,
        compiled.threads(),
        compiled.parallel(),
    )
    torch.autograd.graph.increment_version(plan.params)
    return plan.left


class Plan:
    """The table of a step, and by what to know that the next step's is the same but for the gradients."""

    def __init__(self, tensors: Tensors, indices: list[int], *, rows: bool) -> None:
        self.rows = rows
        self.left = sorted(set(range(len(tensors.params))) - set(indices))
        self.gathered = tensors.params
        taken = tensors.select(indices) if self.left else tensors
        params, grads, accumulators, buffers, steps, thresholds, _ = taken
        self.params, self.count = params, len(params)
        # Whose memory the kernel reads and writes: none of it may have gone since the step before.
        self.moved = [*params, *accumulators, *steps, *thresholds, *buffers]
        self.addresses = list(map(Tensor.data_ptr, self.moved))
        self.shapes = list(map(_shape, self.moved)) if rows else []
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
                *(self.addresses[4 * n :] or repeat(0, n)),
                *self.addresses[2 * n : 4 * n],
                *self.sizes,
                *map(row_size, params),
                *(_NUMBERS[dtype] for dtype in self.dtypes),
                *(_NUMBERS[v.dtype] for v in accumulators),
                *repeat(0, n),  # where runs end
            ],
        )
        self.numbers = array("d", repeat(0, n))  # of each run: the steps taken, then what the threshold gains
        self.address, self.address_of_numbers = (a.buffer_info()[0] for a in (self.table, self.numbers))

    def renew(self, tensors: Tensors) -> bool:
        """Take over new gradients; whether they and all else are as they were, but for their addresses.

        The list of parameters is that of the step before only if all the lists are (gathering.py).
        """
        grads = tensors.grads
        if (
            tensors.params is not self.gathered
            or list(map(Tensor.data_ptr, self.moved)) != self.addresses
            or not _PLAIN.issuperset(map(type, grads))
            or list(map(_dtype, grads)) != self.dtypes
            or list(map(Tensor.numel, grads)) != self.sizes
            or any(map(Tensor.is_neg, grads))
            or (self.rows and list(map(_shape, self.moved)) != self.shapes)
            or not (
                all(map(Tensor.is_contiguous, self.params)) and all(map(Tensor.is_contiguous, grads))
                if self.contiguous
                else list(map(Tensor.stride, self.params)) == list(map(Tensor.stride, grads)) == self.strides
            )
        ):
            return False
        self.table[self.count : 2 * self.count] = array("q", map(Tensor.data_ptr, grads))
        return True
