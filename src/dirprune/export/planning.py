"""Operations laid out in memory for one batch size, and the call that runs them."""

import ctypes
import math
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dirprune.core.native import load_native
from dirprune.errors import CompilerError, ExportError
from dirprune.export.lowering import (
    ConvOp,
    FlattenOp,
    InputOp,
    Map,
    MapOp,
    Op,
    OutputOp,
    PhaseOp,
    PoolOp,
    Space,
)

_CONV, _MAP, _POOL, _COPY = range(4)
_FLOAT = 4  # bytes
_PAIR = ctypes.c_int64 * 2


class _Layer(ctypes.Structure):
    """`layer` of sparse_network.c."""

    _fields_ = [
        ("kind", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("input", "other", "out")),
        *(
            (name, ctypes.c_int64)
            for name in ("in_channel", "other_channel", "out_channel", "channels", "vectors")
        ),
        *((name, ctypes.c_void_p) for name in ("mask", "begin", "taps", "scale", "shift")),
        ("low", ctypes.c_float),
        ("high", ctypes.c_float),
        *(
            (name, ctypes.c_int64)
            for name in ("images", "rows", "columns", "in_image", "in_row", "in_column")
        ),
        *((name, ctypes.c_int64) for name in ("out_image", "out_row", "out_column", "in_rows", "in_columns")),
        *((name, _PAIR) for name in ("kernel", "stride", "padding")),
        ("maximum", ctypes.c_int64),
        ("count_padding", ctypes.c_int64),
    ]


@cache
def _library() -> ctypes.CDLL:
    library = load_native(
        Path(__file__).parent / "kernels" / "sparse_network.c",
        flags=("-march=native", "-std=gnu11", "-pthread"),
    )
    for name in ("sparse_network_lanes", "sparse_network_layer_bytes", "sparse_network_run"):
        getattr(library, name).restype = ctypes.c_int64
    library.sparse_network_run.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64]
    if library.sparse_network_layer_bytes() != ctypes.sizeof(_Layer):
        raise CompilerError("the compiler lays structures out in a way that is not understood")
    return library


class Plan:
    """Buffers and a table of layers.

    Args:
        program: From `lower`.
        images: Batch size.
    """

    def __init__(self, program: list[Op], images: int) -> None:
        self._images = images
        self._library = _library()
        self._lanes: int = self._library.sparse_network_lanes()
        self._kept: list[Tensor | np.ndarray] = []  # memory that the table points to
        self._masks: dict[tuple[Space, int, int], int] = {}
        self._origin = self._place(program)
        table = [self._row(op) for op in program]
        self._table = (_Layer * len(table))(*table)

    def run(self, x: Tensor, result: Tensor, threads: int) -> None:
        """Compute `result` from `x`, both contiguous float32 of this batch size."""
        self._table[0].input = x.data_ptr()
        self._table[-1].out = result.data_ptr()
        table = ctypes.addressof(self._table)
        if not self._library.sparse_network_run(table, len(self._table), threads):
            raise MemoryError("no memory for the sparse runtime")

    # -- where maps lie --------------------------------------------------------------------------------

    def _front(self, space: Space) -> int:
        return _up(space.before[0] * space.row + space.before[1], self._lanes)

    def _channel(self, space: Space) -> int:
        """Distance from one channel to the next."""
        length = self._front(space) + _up(self._images * space.image * space.row, self._lanes)
        lines = length // self._lanes
        # an odd number of cache lines, or all channels would compete for the same few sets of the cache
        return length + self._lanes if lines >= 16 and lines % 2 == 0 else length

    def _place(self, program: list[Op]) -> dict[Map, int]:
        """The address of each map's first value; maps of one geometry and size take turns in a buffer."""
        last = {source: index for index, op in enumerate(program) for source in _reads(op)}
        free: dict[tuple[object, ...], list[tuple[int, int]]] = {}
        held: dict[Map, tuple[int, int]] = {}
        for index, op in enumerate(program):
            met = _reads(op) if isinstance(op, OutputOp) else (*_reads(op), op.out)
            for place in met:  # one that is read and that nobody wrote is zero
                if place not in held:
                    fitting = [buffer for buffer in free.get(_kind(place), []) if buffer[0] >= place.channels]
                    held[place] = min(fitting) if fitting else (place.channels, self._allocate(place))
                    if fitting:
                        free[_kind(place)].remove(held[place])
            for source in set(_reads(op)):
                if last[source] == index:
                    free.setdefault(_kind(source), []).append(held[source])
        return {place: address for place, (_, address) in held.items()}

    def _allocate(self, wanted: Map) -> int:
        space = wanted.space
        past = _up(space.after[0] * space.row + space.after[1], self._lanes) + 2 * self._lanes
        size = wanted.channels * self._channel(space) + self._front(space) + past
        buffer = torch.zeros(size + 16)
        self._kept.append(buffer)
        return _up(buffer.data_ptr(), 64) + self._front(space) * _FLOAT

    def _address(self, place: Map, channel: int = 0, offset: int = 0) -> int:
        return self._origin[place] + (channel * self._channel(place.space) + offset) * _FLOAT

    # -- the table -------------------------------------------------------------------------------------

    def _row(self, op: Op) -> _Layer:
        match op:
            case ConvOp():
                return self._conv(op)
            case MapOp():
                return self._elementwise(op)
            case PoolOp():
                return self._pool(op)
            case PhaseOp():
                return self._phase(op)
            case FlattenOp(source, out):
                space, channel = source.space, self._channel(out.space)
                return self._copy(
                    (source.channels, source.height, source.width),
                    (self._address(source), self._channel(space), space.image * space.row, space.row, 1),
                    (
                        self._address(out),
                        source.height * source.width * channel,
                        out.space.image * out.space.row,
                        source.width * channel,
                        channel,
                    ),
                )
            case InputOp(out):
                return self._copy(_size(out), (0, *_packed(out)), (self._address(out), *self._strides(out)))
            case OutputOp(source):
                return self._copy(
                    _size(source), (self._address(source), *self._strides(source)), (0, *_packed(source))
                )

    def _conv(self, op: ConvOp) -> _Layer:
        space = op.source.space
        taps = np.empty(len(op.weight), dtype=[("distance", np.int32), ("weight", np.float32)])
        distance = op.distance @ np.array([self._channel(space), space.row, 1])
        if len(distance) and np.abs(distance).max() > np.iinfo(np.int32).max:
            raise ExportError("the sparse runtime cannot address maps of this size")
        taps["distance"], taps["weight"] = distance, op.weight
        row = self._stored(op)
        row.kind, row.begin, row.taps = _CONV, self._keep(op.begin), self._keep(taps)
        row.channels = op.out.channels
        return row

    def _elementwise(self, op: MapOp) -> _Layer:
        row = self._stored(op)
        row.kind, row.scale = _MAP, self._keep(op.scale)
        row.channels = op.source.channels
        row.out = self._address(op.out, op.first)
        return row

    def _stored(self, op: ConvOp | MapOp) -> _Layer:
        """What both have that store whole vectors."""
        row = _Layer(input=self._address(op.source), out=self._address(op.out), low=op.low, high=op.high)
        row.in_channel, row.out_channel = self._channel(op.source.space), self._channel(op.out.space)
        row.vectors, row.mask = self._vectors(op.out), self._mask(op.out)
        row.shift = self._keep(op.shift)
        if op.other is not None:
            row.other, row.other_channel = self._address(op.other), self._channel(op.other.space)
        return row

    def _pool(self, op: PoolOp) -> _Layer:
        row = self._copy(
            _size(op.out),
            (self._address(op.source), *self._strides(op.source)),
            (self._address(op.out), *self._strides(op.out)),
        )
        row.kind, row.in_rows, row.in_columns = _POOL, op.source.height, op.source.width
        row.kernel, row.stride = _PAIR(*op.pool.kernel), _PAIR(*op.pool.stride)
        row.padding, row.maximum = _PAIR(*op.pool.padding), op.pool.maximum
        row.count_padding = op.pool.count_padding
        return row

    def _phase(self, op: PhaseOp) -> _Layer:
        source, space = op.source, op.source.space
        rows, columns = (
            -(-(size - start) // stride)
            for size, start, stride in zip((source.height, source.width), op.start, op.stride, strict=True)
        )
        channel, image, row, _ = self._strides(source)
        return self._copy(
            (source.channels, rows, columns),
            (
                self._address(source, 0, op.start[0] * space.row + op.start[1]),
                channel,
                image,
                row * op.stride[0],
                op.stride[1],
            ),
            (self._address(op.out, op.first), *self._strides(op.out)),
        )

    def _copy(self, size: tuple[int, ...], source: tuple[int, ...], target: tuple[int, ...]) -> _Layer:
        """Addresses are followed by the distances between channels, images, rows and columns."""
        row = _Layer(kind=_COPY, images=self._images, channels=size[0], rows=size[1], columns=size[2])
        row.input, row.in_channel, row.in_image, row.in_row, row.in_column = source
        row.out, row.out_channel, row.out_image, row.out_row, row.out_column = target
        return row

    def _strides(self, place: Map) -> tuple[int, int, int, int]:
        space = place.space
        return self._channel(space), space.image * space.row, space.row, 1

    def _vectors(self, place: Map) -> int:
        """How many vectors reach to the last position of the last image."""
        space = place.space
        end = ((self._images - 1) * space.image + place.height - 1) * space.row + place.width
        return -(-end // self._lanes)

    def _mask(self, place: Map) -> int:
        space = place.space
        key = (space, place.height, place.width)
        if key not in self._masks:
            whole = np.zeros((self._images, space.image, space.row), np.int32)
            whole[:, : place.height, : place.width] = -1
            padded = np.zeros(_up(whole.size, self._lanes), np.int32)
            padded[: whole.size] = whole.reshape(-1)
            self._masks[key] = self._keep(padded)
        return self._masks[key]

    def _keep(self, array: np.ndarray) -> int:
        array = np.ascontiguousarray(array)
        self._kept.append(array)
        return array.ctypes.data


def _reads(op: Op) -> tuple[Map, ...]:
    if isinstance(op, InputOp):
        return ()
    other = getattr(op, "other", None)
    return (op.source,) if other is None else (op.source, other)


def _kind(place: Map) -> tuple[object, ...]:
    """Maps of one kind leave zeros where the next one needs them."""
    return (place,) if place.partly_written else (place.space, place.height, place.width)


def _size(place: Map) -> tuple[int, int, int]:
    return place.channels, place.height, place.width


def _packed(place: Map) -> tuple[int, int, int, int]:
    """Distances in a contiguous [n, channels, height, width]: between channels, images, rows and columns."""
    plane = place.height * place.width
    return plane, place.channels * plane, place.width, 1


def _up(number: int, unit: int) -> int:
    return math.ceil(number / unit) * unit
