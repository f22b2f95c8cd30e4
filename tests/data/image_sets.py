"""Small data sets of the known forms, made by HF `datasets` itself."""

import io
import zlib
from typing import Any

import datasets
import numpy as np
from PIL import Image
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dirprune.data import DatasetSpec

COUNTS = {"train": 12, "test": 5}


def random_pixels(shape: tuple[int, int, int], seed: int) -> np.ndarray:
    """Pixels [channels, height, width]."""
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def encode(pixels: np.ndarray, form: str = "PNG") -> bytes:
    """Compress pixels [channels, height, width] without loss."""
    image = Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))
    file = io.BytesIO()
    image.save(file, form, **({"lossless": True} if form == "WEBP" else {}))
    return file.getvalue()


def make_split(spec: DatasetSpec, split: str) -> tuple[np.ndarray, np.ndarray, datasets.Dataset]:
    """Pixels, labels, and the same as a data set in memory; every other colour image is a lossless WebP."""
    count = COUNTS[split]
    pixels = np.stack(
        [
            random_pixels(spec.image_shape, zlib.crc32(f"{spec.name} {split} {i}".encode()))
            for i in range(count)
        ]
    )
    labels = np.arange(count) * 7 % spec.num_classes
    form = {0: "PNG", 1: "WEBP" if spec.image_shape[0] == 3 else "PNG"}
    columns = {
        spec.image_column: [
            {"bytes": encode(image, form[i % 2]), "path": None} for i, image in enumerate(pixels)
        ],
        spec.label_column: labels.tolist(),
        "other": [0] * count,
    }
    features = datasets.Features(
        {
            spec.image_column: datasets.Image(),
            spec.label_column: datasets.ClassLabel(names=[f"class {i}" for i in range(spec.num_classes)]),
            "other": datasets.Value("int64"),
        }
    )
    return pixels, labels, datasets.Dataset.from_dict(columns, features=features)


class OneDevice(TorchDispatchMode):
    """Refuses tensors of two devices in one operation, as a GPU does and the meta device does not."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        leaves = tree_leaves((args, kwargs))
        devices = {leaf.device.type for leaf in leaves if isinstance(leaf, Tensor) and leaf.dim() > 0}
        assert len(devices) <= 1, f"{func} was given tensors on {devices}"
        return func(*args, **(kwargs or {}))
