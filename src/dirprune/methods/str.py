"""STR: soft thresholds that are learnt, one for each layer."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dirprune.core.dtypes import wide
from dirprune.methods.base import SPARSE_WORK, Facts, Search, Work, require
from dirprune.methods.parametrised import Parametrised


@dataclass(frozen=True, kw_only=True)
class StrSettings:
    """Settings of :class:`STR`."""

    s_init: float = -10.0
    """Initial s of every layer. The paper's values for ImageNet (-3200 and the like) need its 100 epochs to
    decay; this one is ours, for shorter runs."""
    decay: float = 1e-3
    """Weight decay of s, which draws it to 0 and the threshold up to 1/2: it rules the sparsity. Ours, and a
    weak one, below what is searched: the paper's is that of its weights, for its own s_init and epochs."""

    def __post_init__(self) -> None:
        require(self, decay=(0, None))


class LearntThreshold(nn.Module):
    """w = S(v, sigmoid(s)) with a trained scalar s."""

    def __init__(self, weight: Tensor, s_init: float) -> None:
        super().__init__()
        self.s = nn.Parameter(torch.tensor(s_init, dtype=wide(weight.dtype), device=weight.device))

    def forward(self, v: Tensor) -> Tensor:
        """Return the weight."""
        wide_v = v.to(self.s.dtype)
        # the paper's form: its gradient takes a fifth of the time of a clamp between trained bounds
        return (wide_v.sign() * torch.relu(wide_v.abs() - self.s.sigmoid())).to(v.dtype)


class STR(Parametrised[StrSettings]):
    r"""Soft threshold weight reparametrisation.

    .. math:: w = \mathrm{sign}(v) \max(|v| - g(s_l), 0), \qquad g(s) = 1 / (1 + e^{-s})

    with one s_l for every tensor, trained by SGD like v, on the same rate and momentum. The paper decays v
    and s alike; here v has the run's weight decay and s its own, so that the strength of pruning is one
    number.

    References:
        Kusupati et al. 2020, "Soft threshold weight reparameterization for learnable sparsity", section 3.
    """

    facts = Facts(
        title="STR",
        paper="Kusupati et al. 2020, Soft threshold weight reparameterization, 2002.03231",
        adaptive=False,
        strength="decay",
        search=(Search("decay", 3e-3, 1e-1), Search("s_init", -20, -5, log=False)),
    )

    def parametrisation(self, weight: nn.Parameter) -> nn.Module:
        """Return a learnt threshold."""
        return LearntThreshold(weight, self.settings.s_init)

    def _make_optimizer(self) -> Optimizer:
        others, thresholds = self._apart()
        return self._descent(
            [{"params": others}, {"params": thresholds, "weight_decay": self.settings.decay}]
        )

    def work(self, step: int) -> Work:  # noqa: ARG002
        """Return sparse passes: no gradient reaches a weight at zero."""
        return SPARSE_WORK
