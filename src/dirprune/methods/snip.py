"""SNIP: prune once, before training."""

from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor, nn
from torch.func import functional_call

from dirprune.core.masks import Distribution, keep_largest
from dirprune.core.prunable import Include, prunable_parameters
from dirprune.errors import UsageError
from dirprune.methods.base import Facts, Search, Work, require
from dirprune.methods.masked import Masked, check_distribution


@dataclass(frozen=True, kw_only=True)
class SnipSettings:
    """Settings of :class:`Snip`."""

    batches: int = 1
    """Batches of training data whose gradients are added up (the paper uses one, of 100 or 128 images)."""
    distribution: Distribution = "global"
    """How the kept weights are shared out among layers (the paper ranks globally)."""

    def __post_init__(self) -> None:
        require(self, batches=(1, None))
        check_distribution(self.distribution)


class Snip(Masked[SnipSettings]):
    r"""Keep the connections whose removal would change the loss most, seen before the first step.

    .. math::
        s_j = \frac{|g_j|}{\sum_k |g_k|}, \qquad
        g_j = \left. \frac{\partial L(c \odot w)}{\partial c_j} \right|_{c = 1}
        = \frac{\partial L}{\partial w_j} w_j

    Gradients are taken in the mode the network is in; its BatchNorm statistics are left alone.

    References:
        Lee, Ajanthan, Torr 2019, "SNIP: single-shot network pruning based on connection sensitivity",
        equations 4 to 6.
    """

    facts = Facts(
        title="SNIP",
        paper="Lee et al. 2019, SNIP, 1810.02340",
        needs_target=True,
        monotone=True,
        search=(Search("batches", 1, 10),),
    )

    @classmethod
    def refusal(cls, model: nn.Module, include: Include) -> str | None:
        """A layer that starts at zero has no saliency, and leaves none to those before it."""
        for name, parameter in prunable_parameters(model, include).items():
            if parameter.requires_grad and parameter.ndim > 1 and not parameter.any():
                return f"cannot rank weights where {name} starts at zero: give it other initial weights"
        return super().refusal(model, include)

    def _prepare(self) -> None:
        self.masks = keep_largest(self.saliency(), self._kept(self._target), self.settings.distribution)
        self.masks.zero_(self.prunable)

    def saliency(self) -> dict[str, Tensor]:
        """Return s of every prunable weight; sums to 1."""
        parameters = list(self.prunable.values())
        sums = [torch.zeros_like(p, dtype=torch.float64) for p in parameters]
        batches = list(islice(self.plan.batches(), self.settings.batches))
        if not batches:
            raise UsageError("SNIP needs a training batch; the plan's batches() gave none")
        for inputs, labels in batches:
            buffers = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
            loss = self.plan.loss(functional_call(self.model, buffers, (inputs,)), labels)
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
            for total, gradient in zip(sums, gradients, strict=True):
                total += gradient
        sensitivities = [(total * p.detach()).abs() for total, p in zip(sums, parameters, strict=True)]
        whole = torch.stack([sensitivity.sum() for sensitivity in sensitivities]).sum()
        if not 0 < whole < torch.inf:
            raise UsageError(
                "SNIP cannot rank these weights, for their saliencies are all zero or not finite"
            )
        return {name: s / whole for name, s in zip(self.prunable, sensitivities, strict=True)}

    def work(self, step: int) -> Work:
        """Return sparse passes, and before the first step the dense ones of the saliency."""
        return Work(dense=3 * self.settings.batches if step == 1 else 0, sparse=3)
