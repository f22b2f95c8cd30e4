"""The two LeNets of the pruning literature."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from dirprune.errors import UsageError
from dirprune.models.shape import InputShape, scaled


def lenet_300_100(shape: InputShape, num_classes: int, width: float) -> nn.Sequential:
    """Build the fully connected network with hidden layers of 300 and 100.

    Args:
        shape: of the images.
        num_classes: number of outputs.
        width: factor on both hidden layers.

    Returns:
        A network from [b, channels, size, size] to [b, num_classes].

    Example:
        >>> lenet_300_100(InputShape(channels=1, size=8), num_classes=10, width=1.0).fc1
        Linear(in_features=64, out_features=300, bias=True)

    Source:
        LeCun et al. 1998, "Gradient-based learning applied to document recognition", section III.
    """
    hidden1, hidden2 = scaled(300, width), scaled(100, width)
    return nn.Sequential(
        OrderedDict(
            flatten=nn.Flatten(),
            fc1=nn.Linear(shape.channels * shape.size**2, hidden1),
            relu1=nn.ReLU(),
            fc2=nn.Linear(hidden1, hidden2),
            relu2=nn.ReLU(),
            fc3=nn.Linear(hidden2, num_classes),
        )
    )


def lenet5(shape: InputShape, num_classes: int, width: float) -> nn.Sequential:
    """Build LeNet-5 in Caffe's variant: as there, the only ReLU follows the first linear layer.

    Args:
        shape: of the images; size 16 or more, for two unpadded 5 x 5 convolutions, each halved.
        num_classes: number of outputs.
        width: factor on the channels 20 and 50 and the hidden layer of 500.

    Returns:
        A network from [b, channels, size, size] to [b, num_classes].

    Raises:
        UsageError: images smaller than 16 pixels.

    Example:
        >>> lenet5(InputShape(channels=1, size=28), num_classes=10, width=1.0).fc1
        Linear(in_features=800, out_features=500, bias=True)

    Source:
        The MNIST example of Caffe (Jia et al. 2014), "LeNet-5-Caffe" in the pruning literature.
    """
    side = ((shape.size - 4) // 2 - 4) // 2
    if side < 1:
        raise UsageError(f"lenet5 needs images of 16 pixels or more; they have {shape.size}")
    channels1, channels2, hidden = scaled(20, width), scaled(50, width), scaled(500, width)
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(shape.channels, channels1, 5),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(channels1, channels2, 5),
            pool2=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            fc1=nn.Linear(channels2 * side**2, hidden),
            relu=nn.ReLU(),
            fc2=nn.Linear(hidden, num_classes),
        )
    )
