"""From steps to operations of the C code, and how maps lie in memory; nothing here depends on the batch."""

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dirprune.export.fusion import Step
from dirprune.export.graph import Concat, Conv, Flatten, Pair, Pool, Shape


@dataclass(eq=False)
class Space:
    """How maps lie that must share their distances from row to row: those that one vector runs through.

    Attributes:
        row: Distance from one row to the next: the widest map and the zeros between rows.
        image: Rows from one image to the next: the highest map and the zeros between images.
        before: Rows and columns of zeros that are read before the first row.
        after: Rows and columns that are read past a position.
    """

    row: int = 0
    image: int = 0
    before: Pair = (0, 0)
    after: Pair = (0, 0)


@dataclass(eq=False)
class Map:
    """A feature map of one sample.

    Attributes:
        partly_written: Some positions are written by nobody and must stay zero.
    """

    channels: int
    height: int
    width: int
    partly_written: bool = False
    _space: Space = field(default_factory=Space)
    _joined: "Map | None" = None

    @property
    def space(self) -> Space:
        """Its place's geometry."""
        return self._root()._space

    def _root(self) -> "Map":
        return self if self._joined is None else self._joined._root()

    def join(self, other: "Map") -> None:
        """Demand the same geometry."""
        mine, theirs = self._root(), other._root()
        if mine is theirs:
            return
        a, b = mine._space, theirs._space
        theirs._joined = mine
        mine._space = Space(
            max(a.row, b.row),
            max(a.image, b.image),
            _greater(a.before, b.before),
            _greater(a.after, b.after),
        )

    def demand(self, low: Pair = (0, 0), high: Pair = (0, 0), extra: Pair = (0, 0)) -> None:
        """Demand room: `low` and `high` are extreme (row, column) distances, `extra` zeros after a map."""
        space = self.space
        before = (max(0, -low[0]), max(0, -low[1]))
        space.before, space.after = _greater(space.before, before), _greater(space.after, high)
        space.image = max(space.image, self.height + max(before[0], extra[0]))
        space.row = max(space.row, self.width + max(before[1], extra[1]))


@dataclass
class ConvOp:
    """out = clamp(taps of `source` + shift + other); tap k: weight[k], distance[k] = channel, row, column."""

    source: Map
    out: Map
    other: Map | None
    begin: NDArray[np.int64]
    distance: NDArray[np.int64]
    weight: NDArray[np.float32]
    shift: NDArray[np.float32]
    low: float
    high: float


@dataclass
class MapOp:
    """out[first + c] = clamp(scale[c] * source[c] + shift[c] + other[c])."""

    source: Map
    out: Map
    other: Map | None
    scale: NDArray[np.float32]
    shift: NDArray[np.float32]
    low: float
    high: float
    first: int = 0


@dataclass
class PoolOp:
    """The pool's windows."""

    source: Map
    out: Map
    pool: Pool


@dataclass
class PhaseOp:
    """Every stride-th row and column from `start` on, into the channels from `first` on."""

    source: Map
    out: Map
    start: Pair
    stride: Pair
    first: int


@dataclass
class FlattenOp:
    """Pixels become channels."""

    source: Map
    out: Map


@dataclass
class InputOp:
    """From the caller's tensor."""

    out: Map


@dataclass
class OutputOp:
    """To the caller's tensor."""

    source: Map


Op = ConvOp | MapOp | PoolOp | PhaseOp | FlattenOp | InputOp | OutputOp


def lower(steps: list[Step], input_name: str, input_shape: Shape, output: str) -> list[Op]:
    """Choose operations and demand of every map what the operations need.

    Args:
        steps: From `fuse`.
        input_name: Name of the network's input.
        input_shape: Of one sample.
        output: Name of the result.

    Returns:
        Operations in the order in which they run.
    """
    maps = {input_name: _map(input_shape)}
    ops: list[Op] = [InputOp(maps[input_name])]
    for step in steps:
        sources = [maps[name] for name in step.inputs]
        other = None if step.other is None else maps[step.other]
        layer = step.layer
        if isinstance(layer, Flatten) and step.shape[0] == sources[0].channels:
            maps[step.name] = sources[0]
            continue
        out = maps[step.name] = _map(step.shape)
        if other is not None:
            out.join(other)
        if isinstance(layer, Conv):
            ops += _conv(step, layer, sources[0], out, other)
        elif isinstance(layer, Pool):
            ops.append(PoolOp(sources[0], out, layer))
        elif isinstance(layer, Flatten):
            ops.append(FlattenOp(sources[0], out))
        elif isinstance(layer, Concat):
            first = 0
            for source in sources:
                out.join(source)
                ones, zeros = np.ones(source.channels, np.float32), np.zeros(source.channels, np.float32)
                ops.append(MapOp(source, out, None, ones, zeros, -math.inf, math.inf, first))
                first += source.channels
        else:
            out.join(sources[0])
            scale, shift = step.scale.float().numpy(), step.shift.float().numpy()
            ops.append(MapOp(sources[0], out, other, scale, shift, step.low, step.high))
    return [*ops, OutputOp(maps[output])]


def _map(shape: Shape) -> Map:
    channels, height, width = (*shape, 1, 1)[:3]
    made = Map(channels, height, width)
    made.demand()
    return made


def _conv(step: Step, layer: Conv, source: Map, out: Map, other: Map | None) -> list[Op]:
    """A convolution; one with strides runs on its input's phases, in which its taps lie side by side."""
    assert step.weight is not None
    weight = step.weight
    channel, row, column = _taps(weight, layer)
    ops: list[Op] = []
    stride = layer.stride
    if stride != (1, 1):
        height, width = -(-source.height // stride[0]), -(-source.width // stride[1])
        start_row, start_column = row % stride[0], column % stride[1]
        starts = sorted(set(zip(start_row.tolist(), start_column.tolist(), strict=True)))
        phases = Map(max(1, len(starts)) * source.channels, height, width, partly_written=True)
        phases.demand()
        for index, start in enumerate(starts):
            ops.append(PhaseOp(source, phases, start, stride, index * source.channels))
            channel[(start_row == start[0]) & (start_column == start[1])] += index * source.channels
        row, column = row // stride[0], column // stride[1]
        source = phases
    out.join(source)
    if len(row):
        low, high = (int(row.min()), int(column.min())), (int(row.max()), int(column.max()))
        extra = (out.height + high[0] - source.height, out.width + high[1] - source.width)
        source.demand(low, (max(0, high[0]), max(0, high[1])), extra)
    per_channel = weight.flatten(1).count_nonzero(1).numpy()
    begin = np.concatenate([[0], np.cumsum(per_channel)]).astype(np.int64)
    values = weight[weight != 0].numpy()
    shift = step.shift.float().numpy()
    distance = np.stack([channel, row, column], 1)
    return [*ops, ConvOp(source, out, other, begin, distance, values, shift, step.low, step.high)]


def _taps(weight: Tensor, layer: Conv) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Channel, row and column in the input of each non-zero weight, for the output at row 0 and column 0."""
    out, channel, row, column = torch.nonzero(weight, as_tuple=True)
    per_group = weight.shape[0] // layer.groups
    channel = channel + out // per_group * weight.shape[1]
    row, column = (
        index * layer.dilation[axis] - layer.padding[axis] for axis, index in enumerate((row, column))
    )
    return channel.numpy(), row.numpy(), column.numpy()


def _greater(a: Pair, b: Pair) -> Pair:
    return max(a[0], b[0]), max(a[1], b[1])
