"""Which channels of a network are provably superfluous, and what stays of them.

A channel is removed everywhere at once: sums, joins, pools, normalisation and groups tie channels of several
maps into one class. A class can go if each convolution or linear layer that reads one of its maps can do
without: because the weights are zero, or because the channel is a constant that the layer can take into its
bias, or, where zeros around the map would show in it, that it can take from another constant channel.
"""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from dirprune.errors import ExportError
from dirprune.export.graph import Add, BatchNorm, Clamp, Concat, Conv, Flatten, Graph, Layer, Pool

Constants = NDArray[np.float64]  # [channels]; NaN where a channel is not constant
Keep = NDArray[np.bool_]  # [channels]


@dataclass
class Dead:
    """What can go.

    Attributes:
        keep: Per map, which channels stay.
        constants: Per map, the value of each constant channel, NaN for the others.
        stand_in: Per map, the constant channel that stays for others that zeros around would show in.
    """

    keep: dict[str, Keep] = field(default_factory=dict)
    constants: dict[str, Constants] = field(default_factory=dict)
    stand_in: dict[str, int] = field(default_factory=dict)


def find_dead(graph: Graph) -> Dead:
    """Find the largest set of channels without which the network computes the same.

    Args:
        graph: From `read_graph`.

    Returns:
        What stays, at least one channel of each map.

    Raises:
        ExportError: A weight is used by several layers.
    """
    _check_used_once(graph)
    dead = Dead(constants=_constants(graph))
    classes = _classes(graph)
    readers = [layer for layer in graph.layers if isinstance(layer, Conv) and layer.groups == 1]
    weights = {layer.name: (_taps(graph, layer) != 0).any(-1).numpy() for layer in readers}
    pinned = set(classes[graph.input].tolist()) | set(classes[graph.output].tolist())
    removed: set[int] = set()
    while True:
        for name in classes:
            dead.keep[name] = ~np.isin(classes[name], list(removed))
        needed = set(pinned)
        for layer in readers:
            source = layer.inputs[0]
            reads = weights[layer.name][dead.keep[layer.name]].any(0)
            constant = dead.constants[source]
            reads &= ~(constant == 0)
            if layer.padding == (0, 0):
                reads &= np.isnan(constant)
            else:
                shown = np.flatnonzero(reads & ~np.isnan(constant))
                if len(shown):
                    largest = int(shown[np.abs(constant[shown]).argmax()])
                    chosen = dead.stand_in.setdefault(source, largest)
                    reads[shown] = False
                    reads[chosen] = True
            needed |= set(classes[source][reads].tolist())
        found = set().union(*(set(members.tolist()) for members in classes.values())) - needed
        if found <= removed:
            break
        removed |= found
    for members in classes.values():
        if not (~np.isin(members, list(removed))).any():
            removed.discard(int(members[0]))  # a map without channels is no map
    dead.keep = {name: ~np.isin(members, list(removed)) for name, members in classes.items()}
    return dead


def _check_used_once(graph: Graph) -> None:
    """Refuse shared weights: what one layer can do without, another may need."""
    names = [layer.weight for layer in graph.layers if isinstance(layer, Conv | BatchNorm) and layer.weight]
    names += [layer.mean for layer in graph.layers if isinstance(layer, BatchNorm) and not layer.weight]
    places = Counter(graph.state[name].data_ptr() for name in set(names) if graph.state[name].numel())
    again = [name for name, count in Counter(names).items() if count > 1]
    again += [name for name in names if places[graph.state[name].data_ptr()] > 1]
    if again:
        raise ExportError(f"{again[0]} is used by more than one layer: its channels cannot be removed")


def _classes(graph: Graph) -> dict[str, NDArray[np.int64]]:
    """Per map, the class of each channel."""
    first: dict[str, int] = {}
    total = 0
    for name, shape in graph.shapes().items():
        first[name] = total
        total += shape[0]
    parent = np.arange(total)

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = int(parent[index])
        return index

    def tie(a: int, b: int) -> None:
        parent[root(a)] = root(b)

    shapes = graph.shapes()
    for layer in graph.layers:
        out, source = first[layer.name], first[layer.inputs[0]]
        channels = layer.shape[0]
        if isinstance(layer, Conv):
            if layer.groups == 1:
                continue
            inputs = shapes[layer.inputs[0]][0]
            for start, size in ((out, channels), (source, inputs)):
                for channel in range(size):
                    tie(start + channel, out + channel * layer.groups // size * (channels // layer.groups))
        elif isinstance(layer, Concat):
            offset = out
            for name in layer.inputs:
                for channel in range(shapes[name][0]):
                    tie(offset + channel, first[name] + channel)
                offset += shapes[name][0]
        else:
            pixels = channels // shapes[layer.inputs[0]][0]  # more than one where a map is flattened
            for channel in range(channels):
                tie(out + channel, source + channel // pixels)
                if isinstance(layer, Add):
                    tie(out + channel, first[layer.inputs[1]] + channel)
    roots = np.array([root(index) for index in range(total)], dtype=np.int64)
    return {name: roots[first[name] : first[name] + shape[0]] for name, shape in shapes.items()}


def _constants(graph: Graph) -> dict[str, Constants]:
    """Per map, the value of each channel that has the same value at every pixel of every image."""
    known: dict[str, Constants] = {graph.input: np.full(graph.input_shape[0], np.nan)}
    shapes = graph.shapes()
    for layer in graph.layers:
        known[layer.name] = _constants_of(graph, layer, [known[name] for name in layer.inputs], shapes)
    return known


def _constants_of(
    graph: Graph, layer: Layer, inputs: list[Constants], shapes: dict[str, tuple[int, ...]]
) -> Constants:
    source = inputs[0]
    match layer:
        case Conv():
            return _constants_of_conv(graph, layer, source)
        case BatchNorm():
            scale, shift = (part.numpy() for part in graph.affine(layer))
            # a scale of zero makes a constant of anything finite
            return np.where(scale == 0, shift, source * scale + shift)
        case Clamp(low=low, high=high):
            return np.clip(source, low, high)
        case Add():
            return source + inputs[1]
        case Concat():
            return np.concatenate(inputs)
        case Flatten():
            return source.repeat(layer.shape[0] // shapes[layer.inputs[0]][0])
        case Pool(maximum=False, count_padding=True, padding=padding) if padding != (0, 0):
            return np.where(source == 0, 0.0, np.nan)
        case Pool():
            return source
    raise ExportError(f"{layer.name}: {type(layer).__name__} is not understood")


def _constants_of_conv(graph: Graph, layer: Conv, source: Constants) -> Constants:
    weight = _taps(graph, layer)
    nonzero, total = (weight != 0).any(-1).numpy(), weight.sum(-1).numpy()
    out, per_group = nonzero.shape
    group = np.arange(out) // (out // layer.groups)
    seen = source[group[:, None] * per_group + np.arange(per_group)]  # [out, per_group]
    vague = np.isnan(seen) if layer.padding == (0, 0) else seen != 0  # NaN != 0 as well
    bias = np.zeros(out) if layer.bias is None else graph.state[layer.bias].detach().cpu().double().numpy()
    value = bias + (total * np.nan_to_num(seen)).sum(1)
    return np.where((nonzero & vague).any(1), np.nan, value)


def _taps(graph: Graph, layer: Conv) -> Tensor:
    """The weight as float64 [out, in / groups, taps]."""
    weight = graph.state[layer.weight].detach().cpu().double()
    return weight.reshape(*weight.shape[:2], -1)
