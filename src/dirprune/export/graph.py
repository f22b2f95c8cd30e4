"""A network as a list of few kinds of layers.

Shapes are those of one sample: [channels, height, width], or [features].
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

Pair = tuple[int, int]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Layer:
    """One operation: the name of its result, its inputs (names of earlier results), the result's shape."""

    name: str
    inputs: tuple[str, ...]
    shape: Shape


@dataclass(frozen=True)
class Conv(Layer):
    """A convolution; `weight` and `bias` are names in the state dict. Linear layers are 1 x 1."""

    weight: str
    bias: str | None
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1


@dataclass(frozen=True)
class BatchNorm(Layer):
    """(x - mean) / sqrt(variance + eps) * weight + bias, the four by their names in the state dict."""

    weight: str | None
    bias: str | None
    mean: str
    variance: str
    eps: float


@dataclass(frozen=True)
class Clamp(Layer):
    """min(max(x, low), high): ReLU and its kin."""

    low: float
    high: float


@dataclass(frozen=True)
class Add(Layer):
    """The sum of two inputs of the same shape."""


@dataclass(frozen=True)
class Concat(Layer):
    """The inputs' channels, one after the other."""


@dataclass(frozen=True)
class Flatten(Layer):
    """[channels, height, width] to [channels * height * width]."""


@dataclass(frozen=True)
class Pool(Layer):
    """The greatest or the mean of each window; `count_padding`: a mean counts the zeros around."""

    kernel: Pair
    stride: Pair
    padding: Pair
    maximum: bool
    count_padding: bool = True


@dataclass(frozen=True)
class Graph:
    """Layers in the order in which they run.

    Attributes:
        input_shape: Of one sample.
        layers: The first read the input by the name in `input`.
        output: The name of the result.
        state: Every tensor that a layer names.
    """

    input: str
    input_shape: Shape
    layers: tuple[Layer, ...]
    output: str
    state: dict[str, Tensor]

    def shapes(self) -> dict[str, Shape]:
        """The shape of every result, and of the input."""
        return {self.input: self.input_shape} | {layer.name: layer.shape for layer in self.layers}

    def affine(self, layer: BatchNorm) -> tuple[Tensor, Tensor]:
        """A normalisation with fixed statistics as scale and shift, float64 [channels] on the CPU."""

        def vector(name: str | None, default: float) -> Tensor:
            if name is None:
                return torch.full((layer.shape[0],), default, dtype=torch.float64)
            return self.state[name].detach().cpu().double()

        scale = vector(layer.weight, 1.0) / (vector(layer.variance, 1.0) + layer.eps).sqrt()
        return scale, vector(layer.bias, 0.0) - vector(layer.mean, 0.0) * scale

    def multiplications(self, *, nonzero: bool = False) -> int:
        """Multiplications of convolutions and linear layers for one sample, or those by non-zero weights."""
        total = 0
        for layer in self.layers:
            if isinstance(layer, Conv):
                weight = self.state[layer.weight]
                total += int(weight.count_nonzero() if nonzero else weight.numel()) * math.prod(
                    layer.shape[1:]
                )
        return total
