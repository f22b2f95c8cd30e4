"""Fractions on the scale of log odds, where what moves them moves them evenly."""

import math


def log_odds(fraction: float, margin: float) -> float:
    """Return log(p / (1 - p)), with p kept within a margin of 0 and 1, where it would not be finite.

    Example:
        >>> log_odds(0.5, 1e-6), log_odds(1.0, 1e-6) == log_odds(1 - 1e-6, 1e-6)
        (0.0, True)
    """
    fraction = min(max(fraction, margin), 1 - margin)
    return math.log(fraction / (1 - fraction))


def from_log_odds(odds: float) -> float:
    """Return the fraction that has these log odds.

    Example:
        >>> from_log_odds(0.0)
        0.5
    """
    return 1 / (1 + math.exp(-odds))
