"""VGG16 for CIFAR, as in the paper."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from dirprune.errors import UsageError
from dirprune.models.shape import InputShape, scaled

STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


def vgg16(shape: InputShape, num_classes: int, width: float) -> nn.Sequential:
    """Build VGG16 without BatchNorm: five stages of 3 x 3 convolutions, each halved, then a small classifier.

    Convolutions start from N(0, 2 / (k * k * out_channels)), the second number being the variance, with bias
    0; linear layers as PyTorch starts them.

    Args:
        shape: of the images; size 32 or more, for five halvings.
        num_classes: number of outputs.
        width: factor on every layer but the last.

    Returns:
        A network from [b, channels, size, size] to [b, num_classes].

    Raises:
        UsageError: images smaller than 32 pixels.

    Example:
        >>> import torch
        >>> model = vgg16(InputShape(channels=3, size=32), num_classes=10, width=0.25)
        >>> model(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])

    Source:
        Directional Pruning (arXiv 2006.09358), section 4; Simonyan & Zisserman 2015, configuration D.
    """
    side = shape.size // 2 ** len(STAGES)
    if side < 1:
        raise UsageError(f"vgg16 needs images of 32 pixels or more; they have {shape.size}")
    layers: list[nn.Module] = []
    before = shape.channels
    for stage in STAGES:
        for channels in stage:
            after = scaled(channels, width)
            layers += [_conv3x3(before, after), nn.ReLU()]
            before = after
        layers.append(nn.MaxPool2d(2))
    hidden = scaled(512, width)
    classifier = nn.Sequential(
        nn.Dropout(),
        nn.Linear(before * side**2, hidden),
        nn.ReLU(),
        nn.Dropout(),
        nn.Linear(hidden, hidden),
        nn.ReLU(),
        nn.Linear(hidden, num_classes),
    )
    return nn.Sequential(
        OrderedDict(features=nn.Sequential(*layers), flatten=nn.Flatten(), classifier=classifier)
    )


def _conv3x3(before: int, after: int) -> nn.Conv2d:
    """Build one convolution with the paper's initial weights."""
    conv = nn.Conv2d(before, after, 3, padding=1)
    nn.init.normal_(conv.weight, std=(2 / (3 * 3 * after)) ** 0.5)
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
    return conv
