"""A small network with dropout and BatchNorm: random numbers and buffers for a resume to get wrong."""

from torch import nn


def dropout_net(shape, num_classes, width):
    pixels = shape.channels * shape.size**2
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(pixels, 64),
        nn.BatchNorm1d(64),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(64, num_classes),
    )


def dropout_conv_net(shape, num_classes, width):
    """The same with normalisation over pixels, which can take a single image."""
    return nn.Sequential(
        nn.Conv2d(shape.channels, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(8 * (shape.size - 2) ** 2, num_classes),
    )
