"""Networks for benchmarks of files and inference: from a run, or by name with small weights set to zero."""

from pathlib import Path

import torch
from torch import nn

from dirprune.cli.networks import load_network, one_run
from dirprune.core.prunable import is_linear_or_conv_weight
from dirprune.models import create_model


def thresholded(model: nn.Module, sparsity: float) -> nn.Module:
    """Set the smallest share of each convolution's and linear layer's weights to zero."""
    with torch.no_grad():
        for module in model.modules():
            for name, weight in module.named_parameters(recurse=False):
                count = int(sparsity * weight.numel())
                if is_linear_or_conv_weight(name, module) and count:
                    weight[weight.abs() <= weight.abs().flatten().kthvalue(count).values] = 0
    return model.eval()


def settled(model: nn.Module, shape: tuple[int, int, int]) -> nn.Module:
    """Scale each layer so that its outputs on noise have unit variance, and settle BatchNorm on the same.

    Else the signal of a deep network with few weights dies out, and its output is the last bias whatever the
    image, which shows no difference between programs. The scaling is that of Mishkin & Matas, All you need is
    a good init (2016), in one pass.
    """

    def scale(layer: nn.Conv2d | nn.Linear, _: object, output: torch.Tensor) -> torch.Tensor:
        factor = 1 / output.std()
        for parameter in layer.parameters():
            parameter.mul_(factor)
        return output * factor

    handles = []
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
            module.train()
        elif isinstance(module, nn.Conv2d | nn.Linear):
            handles.append(module.register_forward_hook(scale))
    with torch.no_grad():
        model(torch.randn(16, *shape, generator=torch.Generator().manual_seed(0)))
    for handle in handles:
        handle.remove()
    return model.eval()


def network(name: str, sparsity: float) -> tuple[nn.Module, tuple[int, int, int], str]:
    """A network, the shape of its images, and what its weights are.

    Args:
        name: Folder of a run, `resnet50` (224 pixels, torchvision's random weights), or a network of this
            package for CIFAR.
        sparsity: Share of zeros in each layer; not for runs.
    """
    if Path(name).is_dir():
        run = one_run(Path(name))
        return *load_network(run), f"trained: {run.path.name}"
    torch.manual_seed(0)
    weights = f"random, the smallest {sparsity:.0%} of each layer set to zero, layers scaled to unit variance"
    if name == "resnet50":
        import torchvision

        model: nn.Module = torchvision.models.resnet50()
        return settled(thresholded(model, sparsity), (3, 224, 224)), (3, 224, 224), weights
    model = thresholded(create_model(name, num_classes=10), sparsity)
    return settled(model, (3, 32, 32)), (3, 32, 32), weights
