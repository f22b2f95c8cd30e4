"""ST-3: soft top-k with straight-through gradients."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dirprune.core.dtypes import wide
from dirprune.core.masks import kth_smallest
from dirprune.core.threshold import RescaledSoftThreshold, SoftThreshold
from dirprune.methods.base import DENSE_GRADIENT_WORK, Facts, Search, Work, require
from dirprune.methods.parametrised import Parametrised


@dataclass(frozen=True, kw_only=True)
class St3Settings:
    """Settings of :class:`ST3`; the defaults are those of the published ImageNet configuration."""

    begin: float = 0.05
    """Fraction of training before sparsity grows."""
    end: float = 0.5
    """Fraction of training at which the target is reached."""
    rescale: bool = True
    """Give each output unit back the l1 norm that pruning took."""

    def __post_init__(self) -> None:
        require(self, begin=(0, 1), end=(self.begin, 1))


class SoftTopK(nn.Module):
    """Thresholded and rescaled in the forward pass, the identity in the backward pass."""

    threshold: Tensor

    def __init__(self, weight: Tensor, rescale: bool) -> None:
        super().__init__()
        self.rescale = rescale
        self.register_buffer("threshold", torch.zeros((), dtype=wide(weight.dtype), device=weight.device))

    def forward(self, v: Tensor) -> Tensor:
        """Return the weight."""
        with torch.no_grad():
            rule = RescaledSoftThreshold() if self.rescale else SoftThreshold()
            sparse = rule(v.to(self.threshold.dtype), self.threshold)
        return sparse.to(v.dtype) + (v - v.detach())  # the bracket is zero; its gradient is one


class ST3(Parametrised[St3Settings]):
    r"""Keep the k greatest weights, softly thresholded; the gradient passes straight through to all.

    .. math::
        w_j = a_o S(v_j, \tau_k), \qquad \frac{\partial L}{\partial v_j} := \frac{\partial L}{\partial w_j},
        \qquad a_o = \frac{1 + \epsilon}{\rho_o + \epsilon}, \quad
        \rho_o = \frac{\sum_{j \in o} |v_j| [\, |v_j| > \tau_k ]}{\sum_{j \in o} |v_j|}

    with tau_k the greatest magnitude that is pruned, of the whole network, k falling along the cubic
    schedule, rho_o the part of output unit o's l1 norm that is left, and epsilon = 0.01. Weights of exactly
    that magnitude are zero by the rule, so that ties, of which half precision has many, prune a few more
    than wanted.

    References:
        Vanderschueren and De Vleeschouwer 2023, "Are straight-through gradients and soft-thresholding all you
        need for sparse training?", section 3.
    """

    facts = Facts(
        title="ST-3",
        paper="Vanderschueren and De Vleeschouwer 2023, ST-3, 2212.01076",
        needs_target=True,
        search=(Search("begin", 0.0, 0.2, log=False), Search("end", 0.3, 0.9, log=False)),
    )

    def parametrisation(self, weight: nn.Parameter) -> nn.Module:
        """Return a soft top-k."""
        return SoftTopK(weight, self.settings.rescale)

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Set the threshold for the next step's k."""
        ramp = self._ramp(self.settings.begin, self.settings.end)
        magnitudes = torch.cat([p.abs().flatten() for p in self.prunable.values()])
        pruned = magnitudes.numel() - self._kept(ramp(step))
        threshold = kth_smallest(magnitudes, pruned) if pruned else torch.zeros((), device="cpu")
        for module in self.modules.values():
            module.get_buffer("threshold").copy_(threshold)

    def work(self, step: int) -> Work:  # noqa: ARG002
        """Return the gradient of the weights as dense."""
        return DENSE_GRADIENT_WORK
