"""Figures as pixels: whether something in them stands out from what is behind it."""

import numpy as np
from PIL import Image

STRENGTH = 3.0  # contrast that WCAG 2 asks of graphics
SHARE = 1 / 300  # of the pixels: thin lines and a few words


def luminance(colours: np.ndarray) -> np.ndarray:
    """Relative luminance by WCAG 2, of 8-bit RGB [n, 3]."""
    values = colours / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    return linear @ np.array([0.2126, 0.7152, 0.0722])


def stands_out(picture: Image.Image) -> bool:
    """Whether enough of a picture has enough contrast to its most frequent colour.

    Example:
        >>> picture = Image.new("RGB", (10, 10), "white")
        >>> picture.putpixel((0, 0), (200, 200, 200))
        >>> stands_out(picture)
        False
        >>> picture.putpixel((1, 0), (90, 90, 90))
        >>> stands_out(picture)
        True
    """
    counted = picture.convert("RGB").getcolors(picture.width * picture.height)
    assert counted
    counts = np.array([count for count, _ in counted])
    light = luminance(np.array([colour for _, colour in counted]))
    ground = light[counts.argmax()]
    ratio = (np.maximum(light, ground) + 0.05) / (np.minimum(light, ground) + 0.05)
    return bool(counts[ratio >= STRENGTH].sum() > SHARE * counts.sum())
