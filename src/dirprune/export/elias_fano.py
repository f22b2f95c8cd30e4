"""Rising positions in few bits: the code of Elias and Fano.

The low k bits of each position are stored as they are; what is left of the i-th, position >> k, by a one at
bit (position >> k) + i of a second list of bits. m of n positions take m k + m + ((n - 1) >> k) bits: about
half a bit a position more, for the best k, than any code needs on random ones.

Source: Elias, Efficient storage and retrieval by content and address of static files (1974); Fano, On the
number of bits required to implement an associative memory (1971).
"""

import numpy as np
from numpy.typing import NDArray

MAX_LOW_BITS = 32

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
        >>> decode(low, high, n=16, m=3, k=2)
        array([ 3,  9, 10])
    """
    low = (positions[:, None] >> np.arange(k)) & 1
    high = np.zeros(_high_bits(n, len(positions), k), np.bool_)
    high[(positions >> k) + np.arange(len(positions))] = True
    return _packed(low.astype(np.bool_).reshape(-1)), _packed(high)


def decode(low: Bytes, high: Bytes, n: int, m: int, k: int) -> Positions:
    """The positions again.

    Args:
        low: Of as many bytes as `byte_counts` says.
        high: Likewise.
        n: How many positions there are to choose from.
        m: How many were chosen.
        k: Low bits of each.

    Returns:
        int64 [m], strictly rising, 0 <= p < n.

    Raises:
        ValueError: No positions have this code.
    """
    ones = np.unpackbits(high, bitorder="little").view(np.bool_)
    bits = np.unpackbits(low, bitorder="little")
    if np.count_nonzero(ones) != m or bits[m * k :].any():
        raise ValueError(f"an index of not exactly {m} positions")
    positions: Positions = (np.flatnonzero(ones) - np.arange(m)) << k
    for bit in range(k):
        positions |= bits[bit : m * k : k].astype(np.int64) << bit
    if m and (positions[-1] >= n or (np.diff(positions) <= 0).any()):
        raise ValueError(f"an index of positions that do not rise, or reach {n}")
    return positions


def _high_bits(n: int, m: int, k: int) -> int:
    return m + (max(n - 1, 0) >> k)


def _packed(bits: NDArray[np.bool_]) -> Bytes:
    return np.packbits(bits, bitorder="little")
