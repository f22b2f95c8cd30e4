"""BatchNorm statistics that belong to given weights: re-estimated on the training data."""

import math
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

_Batch = tuple[Tensor, Tensor]


def normalises(module: nn.Module) -> bool:
    """Whether any layer is a BatchNorm, which in training cannot do with a single sample."""
    return any(isinstance(part, _BatchNorm) for part in module.modules())


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

    with mean and (unbiased) variance of each batch B that reaches the layer. Dropout is off. An average of
    weights has statistics that neither end has, so that its loss means nothing without this.

    Args:
        module: The network; it is left as it was.
        weights: Parameters and buffers to use in place of the module's own.
        data: Batches (inputs, targets) on the device of the module, in mixed order: the statistics are of
            batches, and what a layer sees is normalised by them; batches of one class each warn.

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
    seen: Counter[nn.Module] = Counter()

    def weigh(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """Each call counts as much as it holds: a smaller last batch, a layer that runs twice in a pass."""
        assert isinstance(layer, _BatchNorm)
        count = len(inputs[0])
        seen[layer] += count
        layer.momentum = count / seen[layer]

    classes: list[Tensor] = []
    hooks = [layer.register_forward_pre_hook(weigh) for layer in layers.values()]
    try:
        module.eval()
        for layer in layers.values():
            layer.train()
        for inputs, targets in two_or_more(data):
            functional_call(module, {**weights, **statistics}, (inputs,))
            if targets.ndim == 1 and not targets.is_floating_point():
                classes.append(torch.bincount(targets[targets >= 0].long()).cpu())
        if not well_mixed(classes):
            warnings.warn(
                "the classes of the data are not mixed in the batches, so that BatchNorm's statistics are "
                "not those of training: put the data into one random order, the same every time",
                stacklevel=2,
            )
    finally:
        for hook in hooks:
            hook.remove()
        for name, layer in layers.items():
            layer.momentum = momenta[name]
        for part, training in modes:
            part.training = training
    return statistics


def well_mixed(classes: Sequence[Tensor]) -> bool:
    r"""Whether batches differ in their classes as random ones do, or hardly more.

    .. math:: \chi^2 = \sum_{b, k} \frac{(n_{bk} - n_b p_k)^2}{n_b p_k} \le f + 10 \sqrt{2 f}, \qquad
              f = (B - 1)(K - 1)

    with n samples of class k in batch b, p the share of a class in all, and f the degrees of freedom.

    Args:
        classes: How many samples of each class a batch has, int64 [at most K], for each batch.

    Example:
        >>> well_mixed([torch.tensor([30, 34]), torch.tensor([33, 31])])
        True
        >>> well_mixed([torch.tensor([64]), torch.tensor([0, 64])])
        False
    """
    if not classes:
        return True
    counts = nn.utils.rnn.pad_sequence(list(classes), batch_first=True).double()
    counts = counts[:, counts.sum(0) > 0]
    expected = counts.sum(1, keepdim=True) * counts.sum(0) / counts.sum()
    freedom = (len(counts) - 1) * (counts.shape[1] - 1)
    return float(((counts - expected) ** 2 / expected).sum()) <= freedom + 10 * math.sqrt(2 * freedom)


def two_or_more(data: Iterable[_Batch]) -> Iterator[_Batch]:
    """Yield batches, of which none is a single sample, for that has no variance.

    It joins the next batch, or, as the last one, the batch before it.

    Args:
        data: Batches (inputs, targets).

    Example:
        >>> batches = [(torch.zeros(n, 3), torch.zeros(n)) for n in (1, 1, 1, 4, 1)]
        >>> [len(targets) for _, targets in two_or_more(batches)]
        [2, 6]
    """
    ready: _Batch | None = None
    single: _Batch | None = None
    for each in data:
        batch = each if single is None else _joined(single, each)
        single = batch if len(batch[1]) == 1 else None
        if single is None:
            if ready is not None:
                yield ready
            ready = batch
    if single is not None:
        ready = single if ready is None else _joined(ready, single)
    if ready is not None:
        yield ready


def _joined(first: _Batch, second: _Batch) -> _Batch:
    return torch.cat([first[0], second[0]]), torch.cat([first[1], second[1]])


def _layers(module: nn.Module) -> dict[str, _BatchNorm]:
    return {
        name: layer
        for name, layer in module.named_modules()
        if isinstance(layer, _BatchNorm) and layer.running_mean is not None
    }
