"""Rising positions in few bits: the code of Elias and Fano.

The low k bits of each position are stored as they are; what is left of the i-th, position >> k, by a one at
bit (position >> k) + i of a second list of bits. m of n positions take m k + m + ((n - 1) >> k) bits: about
half a bit a position more, for the best k, than any code needs on random ones.

Source: Elias, Efficient storage and retrieval by content and address of static files (1974); Fano, On the
number of bits required to implement an associative memory (1971).
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

MAX_LOW_BITS = 32
_PIECE = 2**15  # bytes of the high part that are decoded at once

Bytes = NDArray[np.uint8]
Positions = NDArray[np.int64]


def byte_counts(n: int, m: int, k: int) -> tuple[int, int]:
    """Bytes of the low and of the high part for m positions below n.

    Example:
        >>> byte_counts(n=1000, m=50, k=4)
        (25, 14)
    """
    return -(-m * k // 8), -(-_high_bits(n, m, k) // 8)


def best_low_bits(n: int, m: int) -> int:
    """The k that takes the fewest bytes, the least of several.

    Example:
        >>> best_low_bits(n=1000, m=50)
        4
    """
    return min(range(MAX_LOW_BITS + 1), key=lambda k: sum(byte_counts(n, m, k)))


def encode(positions: Positions, n: int, k: int) -> tuple[Bytes, Bytes]:
    """The low and the high part, bits from the least significant of each byte on.

    Args:
        positions: int64 [m], strictly rising, 0 <= p < n.
        n: How many positions there are to choose from.
        k: Low bits of each.

    Example:
        >>> low, high = encode(np.array([3, 9, 10]), n=16, k=2)
        >>> list(decode(low, high, n=16, m=3, k=2))
        [array([ 3,  9, 10])]
    """
    low = (positions[:, None] >> np.arange(k)) & 1
    high = np.zeros(_high_bits(n, len(positions), k), np.bool_)
    high[(positions >> k) + np.arange(len(positions))] = True
    return _packed(low.astype(np.bool_).reshape(-1)), _packed(high)


def decode(low: Bytes, high: Bytes, n: int, m: int, k: int) -> Iterator[Positions]:
    """The positions again, piece by piece, so that they need not be in memory at once.

    Args:
        low: Of as many bytes as `byte_counts` says.
        high: Likewise.
        n: How many positions there are to choose from.
        m: How many were chosen.
        k: Low bits of each.

    Returns:
        Pieces int64, one after the other [m], strictly rising, 0 <= p < n.

    Raises:
        ValueError: No positions have this code.
    """
    done, last = 0, -1
    for start in range(0, len(high), _PIECE):
        ones = np.flatnonzero(np.unpackbits(high[start : start + _PIECE], bitorder="little"))
        end = done + len(ones)
        if end > m:
            raise ValueError(f"an index of more than {m} positions")
        positions: Positions = (ones + 8 * start - np.arange(done, end)) << k
        first = done * k // 8
        bits = np.unpackbits(low[first : -(-end * k // 8)], bitorder="little")[done * k - 8 * first :]
        for bit in range(k):
            positions |= bits[bit : len(ones) * k : k].astype(np.int64) << bit
        if len(ones) and (positions[0] <= last or positions[-1] >= n or (np.diff(positions) <= 0).any()):
            raise ValueError(f"an index of positions that do not rise, or reach {n}")
        yield positions
        done, last = end, int(positions[-1]) if len(ones) else last
    if done < m:
        raise ValueError(f"an index of {done} positions, not {m}")
    if m * k % 8 and low[-1] >> (m * k % 8):
        raise ValueError("an index with bits after its positions")


def _high_bits(n: int, m: int, k: int) -> int:
    return m + (max(n - 1, 0) >> k)


def _packed(bits: NDArray[np.bool_]) -> Bytes:
    return np.packbits(bits, bitorder="little")
