"""Which way a step takes: a fused kernel where there is one, lists of tensors, or tensor by tensor."""

import importlib
import logging
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from dirprune.core.threshold import HardThreshold, RescaledSoftThreshold, SoftThreshold, ThresholdRule
from dirprune.optim.kernels import UnavailableError
from dirprune.optim.tensors import PLAIN, Tensors
from dirprune.optim.update import host_float, stays_on_device, update_foreach, update_one_by_one

logger = logging.getLogger(__name__)

# What the kernels compute; a rule of another type goes another way.
FUSED_RULES = (SoftThreshold, HardThreshold, RescaledSoftThreshold)

Plans = dict[int, Any]  # what a kernel keeps from one step to the next, for each group
Kernel = Callable[[dict[str, Any], ThresholdRule, float, Tensors, float, Plans], list[int]]


def update(
    group: dict[str, Any], rule: ThresholdRule, tensors: Tensors, unscale: float, plans: Plans
) -> None:
    """Take one step by the fastest way that the options allow and the tensors can go.

    Args:
        group: The options, as in ``param_groups``.
        rule: From the accumulator to the weight.
        tensors: Changed in place; the gradients only by ``unscale``.
        unscale: What the gradients are first to be multiplied with, in place: the inverse of a
            ``GradScaler``'s scale.
        plans: Belongs to the optimiser, which forgets it when its state is replaced.
    """
    if not tensors.params:
        return
    if _may_fuse(group, rule) and (kernel := _kernel(tensors.params[0].device.type)):
        left = kernel(group, rule, host_float(group["lr"]), tensors, unscale, plans)
        if not left:
            return
        tensors = tensors.select(left)
    if unscale != 1:
        for grad in tensors.grads:
            grad.mul_(unscale)
    if _use_foreach(group, tensors.params):
        update_foreach(group, rule, tensors)
    else:
        update_one_by_one(group, rule, tensors)


def why_not_fused(device: torch.device | str) -> str | None:
    """Say why steps on a device go without a fused kernel; None if they go with one.

    Args:
        device: Where the parameters are.

    Example:
        >>> why_not_fused("meta")
        'there is no fused kernel for meta'
    """
    found = _kernel_or_reason(torch.device(device).type)
    return found if isinstance(found, str) else None


def _may_fuse(group: dict[str, Any], rule: ThresholdRule) -> bool:
    """Whether nothing in the options asks for another way."""
    asked = group["foreach"] is None if group["fused"] is None else group["fused"]
    return bool(asked) and group["beta2"] == 0 and type(rule) in FUSED_RULES and not stays_on_device(group)


def _use_foreach(group: dict[str, Any], params: list[Tensor]) -> bool:
    """Whether to update lists of tensors: as asked, else on accelerators where nothing speaks against it."""
    if group["accumulator_dtype"] is not None or (group["beta2"] != 0 and stays_on_device(group)):
        return False
    if group["foreach"] is not None:
        return bool(group["foreach"])
    return not group["differentiable"] and all(p.device.type != "cpu" and type(p) in PLAIN for p in params)


def _kernel(kind: str) -> Kernel | None:
    """Return the kernel for a kind of device, if there is one."""
    found = _kernel_or_reason(kind)
    return None if isinstance(found, str) else found


@cache
def _kernel_or_reason(kind: str) -> Kernel | str:
    """Load the kernel for a kind of device and try it; if that fails, say why."""
    try:
        if kind not in ("cpu", "cuda"):
            return f"there is no fused kernel for {kind}"
        if kind == "cuda" and not torch.cuda.is_available():
            return "no GPU is available"
        step: Kernel = importlib.import_module(f"dirprune.optim.kernels.{kind}").step
        with _disable_current_modes(), torch.inference_mode(False):  # which would make other tensors
            for rule in FUSED_RULES:
                _try(step, rule(), kind)
    except UnavailableError as error:
        logger.info("GRDA steps on %s without a fused kernel: %s", kind, error)
        return str(error)
    return step


def _try(kernel: Kernel, rule: ThresholdRule, kind: str) -> None:
    """Raise if a kernel does not do what the readable update does: a compiler may be at fault."""
    options = {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01, "maximize": True, "c": 0.5, "mu": 0.6}
    group = {
        **options,
        "lr": 0.1,
        "beta2": 0.0,
        "accumulator_dtype": None,
        "capturable": False,
        "differentiable": False,
    }
    results = []
    for go in (
        lambda t: kernel(group, rule, 0.1, t, 1.0, {}),
        lambda t: update_one_by_one(group, rule, t),
    ):
        values = torch.linspace(-1, 1, 4 * 100, dtype=torch.float32, device="cpu").view(4, 100)
        counters = torch.tensor([1.0, 0.1], dtype=torch.float64, device="cpu")  # leaves some weights
        w, d, v, m = ([row.view(4, 25)] for row in values.to(kind))
        n, tau = ([counter] for counter in counters)
        tensors = Tensors(w, d, v, m, n, tau, squares=[])
        try:
            left = go(tensors)
        except UnavailableError:
            raise
        except Exception as error:  # whatever a compiler at run time may raise
            raise UnavailableError(f"the kernel fails with {type(error).__name__}: {error}") from error
        if left:
            raise UnavailableError("the kernel refuses plain float32")
        results.append(torch.cat([held.cpu() for (held,) in tensors[:4]]))
    ours, expected = results
    if not torch.allclose(ours, expected, rtol=1e-6, atol=1e-7):
        raise UnavailableError("the compiled kernel computes something else than it should")
