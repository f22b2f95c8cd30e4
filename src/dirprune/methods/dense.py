"""The dense references: the network itself, and a small one of as many weights as a sparse one keeps."""

import math
from collections.abc import Callable

import torch
from torch import nn

from dirprune.core.masks import number_kept
from dirprune.core.prunable import prunable_parameters
from dirprune.methods.base import Facts, Method, NoSettings, TrainingPlan


class Dense(Method[NoSettings]):
    r"""SGD with momentum: what pruning is measured against.

    .. math:: m \leftarrow \beta m + \nabla f(w) + \lambda w, \qquad w \leftarrow w - \gamma m

    References:
        Sutskever et al. 2013, "On the importance of initialization and momentum in deep learning".
    """

    facts = Facts(title="dense SGD", paper="Sutskever et al. 2013, On the importance of momentum")


class SmallDense(Dense):
    r"""A dense network that has as many weights as the pruned one keeps: every layer narrower by one factor.

    .. math:: s = \arg\min_{0 < s \le 1} |P(s) - (P(1) - n + k)|

    with P(s) the parameters of the network whose layers have s times the width, n the prunable ones at full
    width, and k those of them that are kept; it is trained by :class:`Dense`.

    The honest alternative to pruning: a sparse network that is no better than this one was not worth it. The
    target counts in the network of full width, and is met as nearly as whole channels allow.

    References:
        Zhu and Gupta 2017, "To prune, or not to prune" (large-sparse against small-dense).
    """

    facts = Facts(
        title="small dense",
        paper="Zhu and Gupta 2017, To prune, or not to prune, 1710.01878",
        needs_target=True,
    )

    def width(self, build: Callable[[float], nn.Module], plan: TrainingPlan) -> float:
        """Return the factor at which the network has as many parameters as the pruned one non-zeros."""

        def built(width: float) -> nn.Module:
            with torch.device("meta"):  # counts, without drawing any weights
                return build(width)

        full = built(1.0)
        prunable = sum(p.numel() for p in prunable_parameters(full, plan.include).values())
        rest = _parameters(full) - prunable
        return matching_width(
            lambda width: _parameters(built(width)), rest + number_kept(prunable, plan.sparsity or 0)
        )


def matching_width(parameters: Callable[[float], int], wanted: int) -> float:
    """Find the width at which a network has a wanted number of parameters.

    Args:
        parameters: Number of parameters as a non-decreasing function of the width, which is > 0.
        wanted: The wanted number, at most ``parameters(1.0)``.

    Returns:
        Of the two neighbouring widths, within 1e-6, whose counts enclose ``wanted`` the one whose count is
        nearer; the narrowest network there is where all have more.

    Example:
        >>> round(matching_width(lambda width: int(1000 * width), 250), 3)
        0.25
    """
    low, high = 1e-6, 1.0
    while high - low > 1e-6:
        middle = math.sqrt(low * high) if high > 2 * low else (low + high) / 2
        low, high = (middle, high) if parameters(middle) < wanted else (low, middle)
    return min((high, low), key=lambda width: abs(parameters(width) - wanted))


def _parameters(model: nn.Module) -> int:
    """Return the number of a network's trainable parameters."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
