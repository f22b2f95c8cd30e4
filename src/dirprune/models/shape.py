"""What every network is told about its input, and how its layers are widened."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class InputShape:
    """The shape of one (square) image.

    Args:
        channels: 1 for grey, 3 for colour.
        size: height and width in pixels.

    Example:
        >>> InputShape(channels=3, size=32)
        InputShape(channels=3, size=32)
    """

    channels: int
    size: int


def scaled(channels: int, width: float) -> int:
    """Scale the size of a layer.

        max(1, round(channels * width))

    Args:
        channels: size in the paper.
        width: factor.

    Returns:
        The nearest whole number, at least 1.

    Example:
        >>> scaled(64, 0.25), scaled(3, 0.01)
        (16, 1)
    """
    return max(1, round(channels * width))
