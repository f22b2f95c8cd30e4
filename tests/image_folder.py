"""A small folder of JPEGs in ImageNet's layout, cut from the photographs that come with scikit-learn."""

import io
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images


@cache
def photographs() -> tuple[np.ndarray, ...]:
    return tuple(load_sample_images().images)  # two, uint8 [427, 640, 3]


def jpeg(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=90)
    return file.getvalue()


def crop(label: int, generator: np.random.Generator) -> np.ndarray:
    """A window of random place and size in one of twelve regions: that region is the class."""
    photograph = photographs()[label % 2]
    row, column = divmod(label // 2, 3)
    height, width = generator.integers(40, 81, 2)
    top = 213 * row + generator.integers(0, 213 - height)
    left = 213 * column + generator.integers(0, 213 - width)
    return photograph[top : top + height, left : left + width]


def make_image_folder(root: Path, train: int, val: int, classes: int = 12) -> Path:
    """Write `train` and `val` images, the classes in turn, with a PNG among them."""
    generator = np.random.default_rng(0)
    for split, count in (("train", train), ("val", val)):
        for index in range(count):
            label = index % classes
            folder = root / split / f"n{label:02d}"
            folder.mkdir(parents=True, exist_ok=True)
            pixels = crop(label, generator)
            if index == 0:
                Image.fromarray(pixels).save(folder / f"{index:04d}.PNG")
            else:
                (folder / f"{index:04d}.JPEG").write_bytes(jpeg(pixels))
    return root
