"""From a graph to few steps: normalisation goes into weights, sums and clamps to where a result is stored."""

import math
from collections import Counter
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dirprune.export.graph import Add, BatchNorm, Clamp, Concat, Conv, Flatten, Graph, Layer, Pool, Shape


@dataclass
class Step:
    """What the runtime does at once: min(max(f(input) + other, low), high).

    Attributes:
        name: Of the result.
        inputs: Names of earlier results.
        shape: Of one sample's result.
        layer: Says what f is: Conv, Pool, Flatten, Concat; or None for scale * x + shift.
        scale: float32 [channels]; for a Conv it is in the weight already.
        shift: float32 [channels].
        weight: float32 [out, in / groups, height, width] of a Conv.
        other: Name of an earlier result of the same shape, or None.
    """

    name: str
    inputs: tuple[str, ...]
    shape: Shape
    layer: Conv | Pool | Flatten | Concat | None
    scale: Tensor
    shift: Tensor
    weight: Tensor | None = None
    other: str | None = None
    low: float = -math.inf
    high: float = math.inf

    @property
    def is_linear(self) -> bool:
        """Whether nothing but a convolution or an affine map of one input has happened so far."""
        can_take_more = isinstance(self.layer, Conv) or self.layer is None
        return can_take_more and self.other is None and not self.is_clamped

    @property
    def is_clamped(self) -> bool:
        """Whether the result has bounds."""
        return self.low != -math.inf or self.high != math.inf


def fuse(graph: Graph) -> list[Step]:
    """Fold and fuse; the steps compute what the graph does, up to rounding.

    Args:
        graph: From `read_graph`.

    Returns:
        Steps in the order in which they run.
    """
    uses = Counter(name for layer in graph.layers for name in layer.inputs)
    uses[graph.output] += 1
    steps: dict[str, Step] = {}

    def only_user(name: str) -> Step | None:
        """The step that makes `name`, if it has one further use and is not the network's input."""
        return steps.get(name) if uses[name] == 1 else None

    def rename(step: Step, name: str) -> None:
        del steps[step.name]
        step.name = name
        steps[name] = step  # at the end of the order, where this layer is

    for layer in graph.layers:
        before = only_user(layer.inputs[0])
        match layer:
            case Conv():
                steps[layer.name] = _conv_step(graph, layer)
            case BatchNorm():
                scale, shift = graph.affine(layer)
                if before is not None and before.is_linear:
                    _fold(before, scale, shift)
                    rename(before, layer.name)
                else:
                    steps[layer.name] = _map_step(layer, scale, shift)
            case Clamp(low=low, high=high):
                if before is None or before.is_clamped or not (before.is_linear or before.other):
                    before = steps[layer.name] = _map_step(layer)
                before.low, before.high = low, high
                rename(before, layer.name)
            case Add(inputs=(first, second)):
                candidates = [step for step in map(only_user, (first, second)) if step and step.is_linear]
                order = list(steps)
                # whichever is made last can add the other, which is there by then
                last = max(candidates, key=lambda step: order.index(step.name), default=None)
                other = None if last is None else second if last.name == first else first
                if last is None or (other in steps and order.index(other or "") > order.index(last.name)):
                    last, other = _map_step(layer), second
                    steps[layer.name] = last
                last.other = other
                rename(last, layer.name)
            case Pool() | Flatten() | Concat():
                steps[layer.name] = replace(_map_step(layer), inputs=layer.inputs, layer=layer)
    return list(steps.values())


def _conv_step(graph: Graph, layer: Conv) -> Step:
    weight = graph.state[layer.weight].detach().to("cpu", torch.float32)
    weight = weight[:, :, None, None] if weight.ndim == 2 else weight
    step = replace(_map_step(layer), layer=layer, weight=weight)
    if layer.bias is not None:
        step.shift = graph.state[layer.bias].detach().to("cpu", torch.float32)
    return step


def _map_step(layer: Layer, scale: Tensor | None = None, shift: Tensor | None = None) -> Step:
    channels = layer.shape[0]
    scale = torch.ones(channels) if scale is None else scale
    shift = torch.zeros(channels) if shift is None else shift
    return Step(layer.name, layer.inputs[:1], layer.shape, None, scale, shift)


def _fold(step: Step, scale: Tensor, shift: Tensor) -> None:
    """Let a step be followed by scale * x + shift."""
    step.shift = (step.shift * scale + shift).float()
    if step.weight is None:
        step.scale = (step.scale * scale).float()
    else:
        step.weight = (step.weight * scale[:, None, None, None]).float()
