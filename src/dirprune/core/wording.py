"""Numbers in words."""

import json
import math
from decimal import Decimal

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


def counted(number: int, what: str) -> str:
    """Write how many there are of something.

    Example:
        >>> counted(1, "seed"), counted(3, "seed")
        ('1 seed', '3 seeds')
    """
    return f"{number} {what}{'' if number == 1 else 's'}"


def plain(value: object) -> str:
    """Write a setting for a person.

    Example:
        >>> plain(0.0005), plain(0.1), plain(True), plain("no")
        ('5e-4', '0.1', 'true', 'no')
    """
    if isinstance(value, float) and 0 < abs(value) < 0.01:
        return format(Decimal(repr(value)).normalize(), "e")
    if isinstance(value, str):
        return value if value.isprintable() else ascii(value)
    return f"{value:g}" if isinstance(value, float) else json.dumps(value)
