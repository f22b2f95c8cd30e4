"""BatchNorm statistics that belong to given weights: re-estimated on the training data."""

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm


def has_statistics(module: nn.Module) -> bool:
    """Whether any layer keeps running statistics."""
    return bool(_layers(module))


def statistics_of(module: nn.Module) -> dict[str, Tensor]:
    """Return the running statistics of every BatchNorm layer, by the names of their buffers."""
    return {
        f"{name}.{key}" if name else key: buffer
        for name, layer in _layers(module).items()
        for key, buffer in layer.named_buffers(recurse=False)
    }


@torch.no_grad()
def reestimate(
    module: nn.Module, weights: Mapping[str, Tensor], data: Iterable[tuple[Tensor, Tensor]]
) -> dict[str, Tensor]:
    r"""Running statistics of every BatchNorm layer at given weights, as averages over all of the data.

    .. math:: \mu = \frac{1}{N} \sum_B |B| \, \mu_B, \qquad \sigma^2 = \frac{1}{N} \sum_B |B| \, \sigma_B^2

    with mean and (unbiased) variance of each batch B. Dropout is off. An average of weights has statistics
    that neither end has, so that its loss means nothing without this.

    Args:
        module: The network; it is left as it was.
        weights: Parameters and buffers to use in place of the module's own.
        data: Batches (inputs, targets) on the device of the module.

    Returns:
        The statistics by the names of their buffers; nothing where the network has none.

    Example:
        >>> net = nn.BatchNorm1d(1, affine=False)
        >>> batches = [(torch.tensor([[1.0], [3.0]]), torch.zeros(2))]
        >>> {name: value.item() for name, value in reestimate(net, {}, batches).items()}
        {'running_mean': 2.0, 'running_var': 2.0, 'num_batches_tracked': 1}

    References:
        Garipov et al. 2018, "Loss Surfaces, Mode Connectivity, and Fast Ensembling of DNNs", section 3.
    """
    layers = _layers(module)
    if not layers:
        return {}
    statistics = {name: torch.zeros_like(buffer) for name, buffer in statistics_of(module).items()}
    momenta = {name: layer.momentum for name, layer in layers.items()}
    modes = [(part, part.training) for part in module.modules()]
    seen = 0
    try:
        module.eval()
        for layer in layers.values():
            layer.train()
        for inputs in _two_or_more(data):
            seen += len(inputs)
            for layer in layers.values():
                layer.momentum = len(inputs) / seen  # a smaller last batch counts as much as it holds
            functional_call(module, {**weights, **statistics}, (inputs,))
    finally:
        for name, layer in layers.items():
            layer.momentum = momenta[name]
        for part, training in modes:
            part.training = training
    return statistics


def _two_or_more(data: Iterable[tuple[Tensor, Tensor]]) -> Iterator[Tensor]:
    """Yield the inputs of batches; a single sample, which has no variance, joins the batch before it."""
    held: Tensor | None = None
    for inputs, _ in data:
        if held is not None and len(inputs) == 1:
            held = torch.cat([held, inputs])
            continue
        if held is not None:
            yield held
        held = inputs
    if held is not None:
        yield held


def _layers(module: nn.Module) -> dict[str, _BatchNorm]:
    return {
        name: layer
        for name, layer in module.named_modules()
        if isinstance(layer, _BatchNorm) and layer.running_mean is not None
    }
