"""The update of GRDA: one readable form, and the same over lists of tensors."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from dirprune.core.threshold import ThresholdRule, threshold_increment
from dirprune.optim.rounding import round_stochastically
from dirprune.optim.tensors import Tensors, same_layout

# Elements; three such pieces stay in a processor's second-level cache, and two threads share one.
_PIECE = 65536


def stays_on_device(group: dict[str, Any]) -> bool:
    """Whether the scalars of the update must remain tensors."""
    return bool(group["capturable"] or group["differentiable"] or torch.compiler.is_compiling())


def host_float(value: Any) -> float:
    """Return a number or a tensor with one element as a float."""
    return float(value.detach() if isinstance(value, Tensor) else value)


def _rate(group: dict[str, Any]) -> float | Tensor:
    """Return the learning rate: a float, or a 0-dim tensor where the scalars remain tensors."""
    lr: float | Tensor = group["lr"]
    if not stays_on_device(group):
        return host_float(lr)
    if isinstance(lr, Tensor):
        return lr.reshape(())
    # A float enters a compiled graph once, by a product: used twice, inductor may keep an old value.
    return torch.ones((), dtype=torch.float64, device="cpu") * lr


def _kept(group: dict[str, Any], tensor: Tensor) -> Tensor:
    """Return the tensor; a copy where autograd keeps it, for the next step changes it in place."""
    return tensor.clone() if group["differentiable"] else tensor


def advance(group: dict[str, Any], lr: float | Tensor, step: Tensor, threshold: Tensor) -> float | Tensor:
    """Count one step and let the threshold grow; returns the new threshold."""
    c, mu = float(group["c"]), float(group["mu"])  # a NumPy float32 would drag the sum down to float32
    if stays_on_device(group):
        threshold.add_(threshold_increment(step, lr, c, mu))
        step.add_(1)
        return _kept(group, threshold)
    n = step.item()
    tau = threshold.item() + threshold_increment(n, float(lr), c, mu)
    step.fill_(n + 1)
    threshold.fill_(tau)
    return tau


def unbiased(group: dict[str, Any], step: Tensor) -> tuple[Any, Any]:
    r"""Return the factors that free Adam's means from their start at zero.

    .. math:: \hat m_n = m_n / (1 - \beta^n), \qquad \hat s_n = s_n / (1 - \beta_2^n)

    Args:
        group: The options.
        step: Number of steps taken, the present one included.
    """
    n: Any = step if stays_on_device(group) else step.item()
    return 1 / (1 - group["momentum"] ** n), 1 / (1 - group["beta2"] ** n)


def update_one_by_one(group: dict[str, Any], rule: ThresholdRule, tensors: Tensors) -> None:
    """Update tensor by tensor: the readable form, and the reference of the others."""
    lr, momentum, beta2 = _rate(group), group["momentum"], group["beta2"]
    for i, step in enumerate(tensors.steps):
        tau = advance(group, lr, step, tensors.thresholds[i])
        operands = [tensors.params[i], tensors.grads[i], tensors.accumulators[i]]
        if momentum != 0:
            operands.append(tensors.buffers[i])
        share = 1.0
        if beta2 != 0:
            operands.append(tensors.squares[i])
            share = 1 - momentum  # of a gradient in Adam's mean; SGD's momentum is a sum
            mean, mean_square = unbiased(group, step)
        for weight, grad, accumulator, *buffers in _pieces(group, rule, operands):
            v = accumulator
            if group["accumulator_dtype"] is not None:
                v = accumulator.to(torch.float32)
            direction = grad.to(v.dtype)
            if group["maximize"]:
                direction = -direction
            if beta2 != 0:
                square = buffers[-1].mul_(beta2).addcmul_(direction, direction, value=1 - beta2)
            elif group["weight_decay"] != 0:
                direction = direction.add(weight, alpha=group["weight_decay"])
            if momentum != 0:
                m = buffers[0].mul_(momentum).add_(direction, alpha=share)
                direction = direction.add(m, alpha=momentum) if group["nesterov"] else m
            if beta2 != 0:
                direction = direction * mean / ((square * mean_square).sqrt() + group["eps"])
                if group["weight_decay"] != 0:
                    direction.add_(weight, alpha=group["weight_decay"])
            if isinstance(lr, Tensor):
                v.sub_(_kept(group, direction) * lr)
            else:
                v.add_(direction, alpha=-lr)
            if v is not accumulator:
                accumulator.copy_(round_stochastically(v, step))
            if stays_on_device(group):
                weight.copy_(rule(_kept(group, v), tau))
            else:
                rule.write(v, tau, weight)


def _pieces(
    group: dict[str, Any], rule: ThresholdRule, operands: list[Tensor]
) -> Iterator[tuple[Tensor, ...]]:
    """Cut large CPU tensors into pieces that stay in the cache, of whole rows where the rule needs them."""
    weight = operands[0]
    if stays_on_device(group) or weight.device.type != "cpu" or weight.numel() <= _PIECE:
        yield tuple(operands)
    elif not rule.elementwise and weight.ndim > 1:
        rows = max(1, _PIECE * len(weight) // weight.numel())
        yield from zip(*(torch.split(t, rows) for t in operands), strict=True)
    elif same_layout(*operands):
        flat = [t.as_strided((weight.numel(),), (1,)) for t in operands]
        yield from zip(*(torch.split(t, _PIECE) for t in flat), strict=True)
    else:
        yield tuple(operands)


def update_foreach(group: dict[str, Any], rule: ThresholdRule, tensors: Tensors) -> None:
    """Update lists of tensors, one list for each device and dtype."""
    lr, momentum, beta2 = _rate(group), group["momentum"], group["beta2"]
    lists: dict[tuple[torch.device, torch.dtype], list[int]] = {}
    for i, parameter in enumerate(tensors.params):
        lists.setdefault((parameter.device, parameter.dtype), []).append(i)
    for indices in lists.values():
        weights, grads, vs, ms, steps, thresholds, squares = tensors.select(indices)
        taus = [advance(group, lr, step, tau) for step, tau in zip(steps, thresholds, strict=True)]
        directions = [grad.to(v.dtype) for grad, v in zip(grads, vs, strict=True)]
        if group["maximize"]:
            directions = list(torch._foreach_neg(directions))
        if beta2 != 0:
            torch._foreach_mul_(squares, beta2)
            torch._foreach_addcmul_(squares, directions, directions, value=1 - beta2)
        elif group["weight_decay"] != 0:
            directions = list(torch._foreach_add(directions, weights, alpha=group["weight_decay"]))
        if momentum != 0:
            torch._foreach_mul_(ms, momentum)
            torch._foreach_add_(ms, directions, alpha=1.0 if beta2 == 0 else 1 - momentum)
            directions = list(torch._foreach_add(directions, ms, alpha=momentum)) if group["nesterov"] else ms
        if beta2 != 0:
            means, mean_squares = map(list, zip(*(unbiased(group, step) for step in steps), strict=True))
            roots = torch._foreach_sqrt(torch._foreach_mul(squares, mean_squares))
            torch._foreach_add_(roots, group["eps"])
            directions = list(torch._foreach_div(torch._foreach_mul(directions, means), roots))
            if group["weight_decay"] != 0:
                torch._foreach_add_(directions, weights, alpha=group["weight_decay"])
        if isinstance(lr, Tensor):  # _foreach_mul would want lr on the device of the list
            torch._foreach_sub_(vs, [direction * lr for direction in directions])
        else:
            torch._foreach_add_(vs, directions, alpha=-lr)
        rule.foreach_write(vs, taus, weights)
