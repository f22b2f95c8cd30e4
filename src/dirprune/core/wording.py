"""Numbers in words."""

import math

_SIZES = ("bytes", "KiB", "MiB", "GiB", "TiB")


def percent(fraction: float, digits: int = 2) -> str:
    """Write a fraction in per cent, without the sign; only what is all is written as 100.

    Example:
        >>> percent(0.91306), percent(0.99999), percent(1.0)
        ('91.31', '99.999', '100.00')
    """
    text = f"{100 * fraction:.{digits}f}"
    return percent(fraction, digits + 1) if fraction < 1 and float(text) == 100 and digits < 9 else text


def size(count: float) -> str:
    """Write a number of bytes.

    Example:
        >>> size(999), size(27238), size(97.7 * 2**20)
        ('999 bytes', '26.6 KiB', '97.7 MiB')
    """
    power = min(len(_SIZES) - 1, max(0, math.floor(math.log(count, 1024)))) if count >= 1 else 0
    value = count / 1024**power
    digits = 0 if power == 0 or value >= 100 else 1
    return f"{value:.{digits}f} {_SIZES[power]}"
