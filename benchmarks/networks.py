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
    weights = f"random, the smallest {sparsity:.0%} of each layer set to zero"
    if name == "resnet50":
        import torchvision

        model: nn.Module = torchvision.models.resnet50()
        return thresholded(model, sparsity), (3, 224, 224), weights
    return thresholded(create_model(name, num_classes=10), sparsity), (3, 32, 32), weights
