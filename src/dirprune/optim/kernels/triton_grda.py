"""The update as update.py says it, for one piece of one tensor of a table, in Triton."""
# mypy: disable-error-code="no-untyped-def, untyped-decorator"

import triton
import triton.language as tl

BLOCK = 1024  # elements of a piece


@triton.jit
def _mix(x):
    x = (x ^ (x >> 16)) * 0x7FEB352D
    x = (x ^ (x >> 15)) * 0x846CA68B
    return x ^ (x >> 16)


@triton.jit
def _soft(v, tau):
    clamped = tl.where(v >= -tau, v, -tau)  # so written that a threshold of NaN is handed on
    clamped = tl.where(clamped <= tau, clamped, tau)
    return v - clamped


@triton.jit
def grda(
    table,  # int64 [7, count]: addresses of weight, gradient, accumulator, momentum; size, step, threshold
    pieces,  # int64 [pieces, 2]: tensor, first element
    count,
    options,  # float64 [4]: rate, momentum, weight decay, unscale
    WEIGHT: tl.constexpr,
    ACCUMULATOR: tl.constexpr,
    REAL: tl.constexpr,
    MOMENTUM: tl.constexpr,
    NESTEROV: tl.constexpr,
    DECAY: tl.constexpr,
    MAXIMIZE: tl.constexpr,
    UNSCALE: tl.constexpr,
    ROUND: tl.constexpr,
    HARD: tl.constexpr,
    SIZE: tl.constexpr,
):
    """Update one piece."""
    piece = tl.program_id(0)
    column = table + tl.load(pieces + 2 * piece)
    size = tl.load(column + 4 * count)
    at = tl.load(pieces + 2 * piece + 1) + tl.arange(0, SIZE)
    inside = at < size
    weight = tl.load(column).to(tl.pointer_type(WEIGHT)) + at
    gradient = tl.load(column + count).to(tl.pointer_type(WEIGHT)) + at
    accumulator = tl.load(column + 2 * count).to(tl.pointer_type(ACCUMULATOR)) + at
    tau64 = tl.load(column + 6 * count).to(tl.float64, bitcast=True)
    tau = tau64.to(REAL)

    d = tl.load(gradient, mask=inside, other=0.0)
    if UNSCALE:
        d = (d.to(REAL) * tl.load(options + 3).to(REAL)).to(WEIGHT)
        tl.store(gradient, d, mask=inside)
    d = d.to(REAL)
    if MAXIMIZE:
        d = -d
    if DECAY:
        w = tl.load(weight, mask=inside, other=0.0).to(REAL)
        d = tl.fma(w, tl.full([SIZE], 0, REAL) + tl.load(options + 2).to(REAL), d)
    if MOMENTUM:
        beta = tl.full([SIZE], 0, REAL) + tl.load(options + 1).to(REAL)
        place = tl.load(column + 3 * count).to(tl.pointer_type(REAL)) + at
        m = tl.load(place, mask=inside, other=0.0) * beta + d
        tl.store(place, m, mask=inside)
        if NESTEROV:
            d = tl.fma(m, beta, d)
        else:
            d = m
    v = tl.load(accumulator, mask=inside, other=0.0).to(REAL)
    v = tl.fma(d, tl.full([SIZE], 0, REAL) - tl.load(options).to(REAL), v)
    if ROUND:
        bits = v.to(tl.uint32, bitcast=True)
        key = _mix(tl.load(column + 5 * count).to(tl.uint32))
        rounded = (bits + (_mix(bits ^ key) & 0xFFFF)) & 0xFFFF0000
        rounded = tl.where((bits & 0x7F800000) == 0x7F800000, bits, rounded)
        tl.store(accumulator, rounded.to(tl.float32, bitcast=True).to(ACCUMULATOR), mask=inside)
    else:
        tl.store(accumulator, v, mask=inside)
    if HARD:
        w = tl.where((v >= -tau) & (v <= tau), tl.full([SIZE], 0, REAL), v)
    else:
        w = _soft(v, tau)
    w = tl.where(tau64 == 0, v, w)
    tl.store(weight, w.to(WEIGHT), mask=inside)


@triton.jit
def rescale(
    table,  # as of grda, which is done
    rows,  # int64 [rows, 3]: tensor, first element, elements
    count,
    WEIGHT: tl.constexpr,
    REAL: tl.constexpr,
    DAMPING: tl.constexpr,
    LEAST: tl.constexpr,  # normal number
    SIZE: tl.constexpr,
):
    """Write the weights of one row anew: soft threshold, and the l1 norm that its zeros took given back."""
    row = rows + 3 * tl.program_id(0)
    column = table + tl.load(row)
    first = tl.load(row + 1)
    size = tl.load(row + 2)
    weight = tl.load(column).to(tl.pointer_type(WEIGHT)) + first
    accumulator = tl.load(column + 2 * count).to(tl.pointer_type(REAL)) + first
    tau64 = tl.load(column + 6 * count).to(tl.float64, bitcast=True)
    tau = tau64.to(REAL)
    whole = tl.full([SIZE], 0, REAL)
    left = tl.full([SIZE], 0, REAL)
    for start in range(0, size, SIZE):
        at = start + tl.arange(0, SIZE)
        magnitude = tl.abs(tl.load(accumulator + at, mask=at < size, other=0.0))
        whole += magnitude
        left += tl.where(magnitude <= tau, tl.full([SIZE], 0, REAL), magnitude)
    norm = tl.sum(whole.to(tl.float64))
    share = tl.sum(left.to(tl.float64)) / tl.where(norm >= LEAST, norm, LEAST)
    factor = ((1 + DAMPING) / (share + DAMPING)).to(REAL)
    for start in range(0, size, SIZE):
        at = start + tl.arange(0, SIZE)
        v = tl.load(accumulator + at, mask=at < size, other=0.0)
        w = tl.where(tau64 == 0, v, _soft(v, tau) * factor)
        tl.store(weight + at, w.to(WEIGHT), mask=at < size)
