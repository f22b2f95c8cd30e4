"""Large images that stay encoded until a batch needs them: one source per way in which they are stored."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dirprune.data.decode import FORMATS
from dirprune.errors import DataError, first_line, from_extra

MAX_PIXELS = 89_478_485  # where Pillow begins to warn of images made to exhaust the memory
DEFAULT_SIZE = 224


class ImageSource(Protocol):
    """Where encoded images lie; handed to worker processes, so it must not hold the images themselves."""

    def read(self, index: int) -> bytes:
        """Return one image, encoded."""

    def name(self, index: int) -> str:
        """Say where that image lies, for messages."""


@dataclass(frozen=True, eq=False)
class FolderSource:
    """Images as files below a folder.

    Args:
        root: the folder.
        names: relative paths as bytes, fixed width [n]: a list of str would be copied page by page into
            every forked worker as their reference counts change.
    """

    root: Path
    names: NDArray[np.bytes_]

    def read(self, index: int) -> bytes:
        """Return one file's content."""
        return Path(self.name(index)).read_bytes()

    def name(self, index: int) -> str:
        """Return the path of the file."""
        return str(self.root / os.fsdecode(bytes(self.names[index])))


@dataclass(frozen=True, eq=False)
class TableSource:
    """Images in a column of a Hugging Face data set, which maps its files into memory.

    Args:
        table: datasets.Dataset in Arrow format, the column's cells a struct with a field `bytes`.
        column: name of that column.
        origin: the file or hub split, for messages.
    """

    table: Any
    column: str
    origin: str

    def read(self, index: int) -> bytes:
        """Return the bytes of one row's image."""
        data = self.table[index][self.column][0]["bytes"].as_py()
        if not isinstance(data, bytes):
            raise DataError("there are no image bytes")
        return data

    def name(self, index: int) -> str:
        """Return the origin and the row."""
        return f"{self.origin}: row {index}"


@dataclass(frozen=True, eq=False)
class EncodedSplit:
    """Encoded images of any size, and their labels.

    Args:
        source: where the images lie.
        labels: int64 [n].
        rows: int64 [n], the position of each image in the source.

    Example:
        >>> source = FolderSource(Path("train"), np.array([b"cat/1.JPEG", b"dog/1.JPEG"]))
        >>> split = EncodedSplit(source, torch.tensor([0, 1]), torch.arange(2))
        >>> len(split), len(split.subset(torch.tensor([1])))
        (2, 1)
    """

    source: ImageSource
    labels: Tensor
    rows: Tensor

    def __len__(self) -> int:
        return self.labels.shape[0]

    def subset(self, rows: Tensor) -> EncodedSplit:
        """Return the images at the given positions, int64 [m], in that order."""
        return EncodedSplit(self.source, self.labels[rows], self.rows[rows])

    def name(self, index: int) -> str:
        """Say where the image at a position lies, for messages."""
        return self.source.name(int(self.rows[index]))

    def image(self, index: int) -> Any:
        """Read and decode one image.

        Args:
            index: position in the split.

        Returns:
            PIL.Image.Image in RGB, of its own size.

        Raises:
            DataError: it cannot be read, is damaged, or has more than `MAX_PIXELS` pixels; names the image.
        """
        try:
            return _decode(self.source.read(int(self.rows[index])))
        except (DataError, OSError) as error:
            said = str(error) if isinstance(error, DataError) else first_line(error)
            raise DataError(f"{self.name(index)}: {said}") from error


@dataclass(frozen=True, eq=False)
class EncodedDataset:
    """A training split and a test split of large images.

    Args:
        train: what networks are fitted to.
        test: what accuracy is reported on.
        num_classes: labels lie in 0..num_classes-1.
        class_names: one name per class; empty where the source has none.
        digest: fingerprint, from names and sizes rather than from the images: 16 hexadecimal digits.
    """

    train: EncodedSplit
    test: EncodedSplit
    num_classes: int
    class_names: tuple[str, ...]
    digest: str

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) that images are brought to where nothing else is asked for."""
        return 3, DEFAULT_SIZE, DEFAULT_SIZE


def fingerprint(parts: Sequence[object]) -> str:
    """Hash what identifies a data set.

    Args:
        parts: bytes as they are, anything else by its repr.

    Returns:
        16 hexadecimal digits.

    Example:
        >>> len(fingerprint([b"names", 3]))
        16
    """
    total = hashlib.blake2b(digest_size=8)
    for part in parts:
        data = part if isinstance(part, bytes) else repr(part).encode()
        total.update(len(data).to_bytes(8, "little"))
        total.update(data)
    return total.hexdigest()


def _decode(data: bytes) -> Any:
    """Decode an image to RGB; the header is looked at before memory is asked for."""
    with from_extra("train", "a data set of images", "pillow"):
        from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height <= MAX_PIXELS:
                return _upper_byte(image).convert("RGB")
            size = f"{image.width} x {image.height}"
    except Exception as error:  # Pillow's readers raise many kinds on damaged bytes
        raise DataError(
            f"the image is damaged or not {'/'.join(FORMATS)} ({first_line(error)}); restore it, or remove "
            "it and begin anew the runs that have begun"
        ) from error
    raise DataError(f"the image should have at most {MAX_PIXELS:,} pixels; it is {size}; remove it")


def _upper_byte(image: Any) -> Any:
    """Return greyscale of 16 bits in 8, which Pillow would clip to white; any other image as it is."""
    from PIL import Image

    if not image.mode.startswith("I"):
        return image
    return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))


def labelled(source: ImageSource, labels: NDArray[np.int64]) -> EncodedSplit:
    """Put a whole source and its labels together."""
    return EncodedSplit(source, torch.from_numpy(labels), torch.arange(len(labels)))
