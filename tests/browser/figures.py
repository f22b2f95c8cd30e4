"""Figures as pixels: whether something in them stands out from what is behind it."""

import io

import numpy as np
from PIL import Image
from selenium.webdriver.remote.webelement import WebElement


def luminance(pixels: np.ndarray) -> np.ndarray:
    """Relative luminance by WCAG 2, of 8-bit RGB [..., 3]."""
    values = pixels / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    return linear @ np.array([0.2126, 0.7152, 0.0722])


def share_that_stands_out(png: bytes, least: float) -> float:
    """Fraction of the pixels with at least that contrast to the most frequent colour.

    Example:
        >>> picture = Image.new("RGB", (10, 10), "white")
        >>> picture.putpixel((0, 0), (90, 90, 90))
        >>> picture.putpixel((1, 0), (200, 200, 200))
        >>> file = io.BytesIO()
        >>> picture.save(file, "png")
        >>> share_that_stands_out(file.getvalue(), 4.5)
        0.01
    """
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).reshape(-1, 3)
    colours, counts = np.unique(pixels, axis=0, return_counts=True)
    light = luminance(colours)
    ground = light[counts.argmax()]
    ratio = (np.maximum(light, ground) + 0.05) / (np.minimum(light, ground) + 0.05)
    return float(counts[ratio >= least].sum() / counts.sum())


def stands_out(figure: WebElement, least: float = 4.5) -> bool:
    """Whether words and lines of a figure can be read: a three-hundredth of it is in strong contrast."""
    return share_that_stands_out(figure.screenshot_as_png, least) > 1 / 300
