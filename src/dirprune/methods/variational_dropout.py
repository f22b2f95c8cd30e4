"""Sparse variational dropout: weights whose noise swamps them are removed."""

import functools
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Adam, Optimizer

from dirprune.core.dtypes import wide
from dirprune.core.prunable import Include, prunable_parameters
from dirprune.methods.base import Facts, Search, Work, require
from dirprune.methods.parametrised import Parametrised

_K1, _K2, _K3 = 0.63576, 1.87320, 1.48695  # the paper's fit of the divergence, equation 14
_EPSILON = 1e-8


@dataclass(frozen=True, kw_only=True)
class VariationalDropoutSettings:
    """Settings of :class:`VariationalDropout`."""

    lr: float = 1e-3
    """Learning rate of Adam, for everything (the paper trains its LeNets with Adam)."""
    kl: float = 1.0
    """Factor on the divergence; 1 is the variational bound, Gale et al. tune it for sparsity."""
    warm_up: float = 0.2
    """Fraction of training over which that factor grows from 0 (the paper's remedy against early pruning;
    the length is ours)."""
    log_sigma2: float = -10.0
    """Initial log sigma^2 (Gale et al. 2019)."""
    log_alpha: float = 3.0
    """Weights with log alpha above this are removed (the paper's value)."""

    def __post_init__(self) -> None:
        require(self, lr=(0, None), kl=(0, None), warm_up=(0, 1))


def divergence(log_alpha: Tensor) -> Tensor:
    r"""Approximate KL divergence of the posterior from the log-uniform prior, of each weight.

    .. math:: KL \approx k_1 - k_1 \sigma(k_2 + k_3 \log \alpha) + \tfrac{1}{2} \log(1 + \alpha^{-1})
    """
    return _K1 * torch.sigmoid(-_K2 - _K3 * log_alpha) + 0.5 * functional.softplus(-log_alpha)


class GaussianWeight(nn.Module):
    """The mean of the weights; in evaluation without those whose log alpha is above the limit."""

    def __init__(self, weight: Tensor, settings: VariationalDropoutSettings) -> None:
        super().__init__()
        self.limit = settings.log_alpha
        self.log_sigma2 = nn.Parameter(torch.full_like(weight, settings.log_sigma2, dtype=wide(weight.dtype)))

    def log_alpha(self, mean: Tensor) -> Tensor:
        """Return log(sigma^2 / mean^2)."""
        return self.log_sigma2 - torch.log(mean.to(self.log_sigma2.dtype) ** 2 + _EPSILON)

    def forward(self, mean: Tensor) -> Tensor:
        """Return the mean, or what is left of it."""
        return mean if self.training else mean.masked_fill(self.log_alpha(mean) > self.limit, 0)


class VariationalDropout(Parametrised[VariationalDropoutSettings]):
    r"""Train the mean and variance of every weight; remove those with alpha = sigma^2 / mean^2 above e^3.

    .. math:: \min \; E_{w \sim N(\theta, \sigma^2)} L(w) + \frac{\beta_t}{N} \sum_j KL(\alpha_j)

    Noise is put on the outputs of a layer (local reparametrisation), with the additive variance sigma^2. The
    divergence is the regulariser: the run's weight decay is not used.

    References:
        Molchanov, Ashukha, Vetrov 2017, "Variational dropout sparsifies deep neural networks", sections 4.2
        to 4.4 and equation 14.
    """

    facts = Facts(
        title="variational dropout",
        paper="Molchanov et al. 2017, Variational dropout sparsifies deep neural networks, 1701.05369",
        weights_only=True,
        momentum=False,
        strength="kl",
        search=(Search("kl", 1e-3, 4), Search("lr", 1e-4, 1e-2)),
    )

    def parametrisation(self, weight: nn.Parameter) -> nn.Module:
        """Return a Gaussian weight."""
        return GaussianWeight(weight, self.settings)

    @classmethod
    def refusal(cls, model: nn.Module, include: Include) -> str | None:
        """Noise is put on the outputs of linear and convolutional layers."""
        if reason := super().refusal(model, include):
            return reason
        prunable = {n: p for n, p in prunable_parameters(model, include).items() if p.requires_grad}
        attentions = [m for m in model.modules() if isinstance(m, nn.MultiheadAttention)]
        if any(weight in {*m.parameters()} for m in attentions for weight in prunable.values()):
            return "has no rule for MultiheadAttention: exclude its weights"
        for name in prunable:
            layer = model.get_submodule(name.rpartition(".")[0])
            if not isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
                return f"has no rule for {type(layer).__name__}: exclude its weight"
        return None

    def _prepare(self) -> None:
        super()._prepare()
        self._hooks = []
        for name, gaussian in self.modules.items():
            layer = self.model.get_submodule(name.rpartition(".")[0])
            hook = functools.partial(_add_noise, gaussian)
            self._hooks.append(layer.register_forward_hook(hook))

    def _make_optimizer(self) -> Optimizer:
        return Adam(self._trainable(), lr=self.settings.lr)

    def penalty(self, step: int) -> Tensor:
        """Return the divergence of the whole network."""
        ramp = self.plan.steps(self.settings.warm_up)
        factor = self.settings.kl * min(1.0, step / ramp if ramp else 1.0) / self.plan.examples
        sums = [divergence(self.modules[n].log_alpha(p)).sum() for n, p in self.prunable.items()]
        return factor * torch.stack(sums).sum()

    def finish(self) -> None:
        """Remove the noise, and write the weights."""
        for hook in self._hooks:
            hook.remove()
        super().finish()

    def work(self, step: int) -> Work:  # noqa: ARG002
        """Return two dense networks: means and variances."""
        return Work(dense=6, sparse=0)


def _add_noise(gaussian: GaussianWeight, layer: Any, inputs: tuple[Tensor], output: Tensor) -> Tensor:
    """Add noise of the variance that the weights' variances cause in a layer's output."""
    if not gaussian.training:
        return output
    variance_of_weights = gaussian.log_sigma2.exp()
    squares = inputs[0].to(variance_of_weights.dtype) ** 2
    kind = output.device.type
    too_narrow = torch.get_autocast_dtype(kind) is torch.float16  # would round variances to zero
    with torch.autocast(kind, enabled=False) if too_narrow else nullcontext():
        if isinstance(layer, nn.Linear):
            variance = functional.linear(squares, variance_of_weights)
        else:
            variance = layer._conv_forward(squares, variance_of_weights, None)
    deviation = torch.sqrt(variance + _EPSILON)
    return output + (deviation * _normal_like(deviation)).to(output.dtype)


def _normal_like(tensor: Tensor) -> Tensor:
    """Draw from N(0, 1) in the layout of a tensor; torch is slow at any but a plain row."""
    noise = torch.empty_like(tensor)
    noise.as_strided((noise.numel(),), (1,)).normal_()  # empty_like leaves no gaps, whatever the layout
    return noise
